"""Two processes that encode one folder of datasets share its tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam, draw_dataset

from casam_cache.encode import dataset
from casam_cache.store.lock import lock_store

Encode = Callable[..., Any]


def tree(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if ".finished.json" not in name}  # files' times


@pytest.mark.slow
def test_two_processes_share_the_tasks(casam: Casam, encode: Encode, tiny_checkpoint: Path) -> None:
    """Nothing is encoded twice, both end well, and the bytes are those of one process."""
    data = casam.folder / "data"
    for seed, task in enumerate("abcd"):
        draw_dataset(data / task, seed=seed)
    code = "from casam_cli.main import run; run()"
    command = [
        sys.executable, "-c", code, "encode", str(data), "--model", "small", "--checkpoint", str(tiny_checkpoint),
        "--name", "tiny", "--batch-size", "1", "--json",
    ]  # fmt: skip
    both = [
        subprocess.Popen(
            [*command, "--store", "shared"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    reports = [{task["task"]: task for task in json.loads(out)["tasks"]} for out, _ in told]
    alone = {task["task"]: task for task in encode(data, "--batch-size", "1", "--store", "alone")["tasks"]}
    for task, report in alone.items():
        assert sorted(each[task]["encoded"] for each in reports) == [0, report["images"]]
        assert all(list(each) == list(alone) for each in reports)
    assert tree(casam.folder / "shared") == tree(casam.folder / "alone")


def test_a_task_that_is_held_comes_last(
    casam: Casam, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = casam.folder / "data"
    for seed, task in enumerate("ab"):
        draw_dataset(data / task, seed=seed)
    held = lock_store(Path("casam_store/a/tiny.zarr"))
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            held.release()

    monkeypatch.setattr(dataset.time, "sleep", sleep)
    reports = encode(data)["tasks"]
    assert [report["task"] for report in reports] == ["a", "b"]
    assert len(waited) == 2
    assert casam.err.count("is writing into this store") == 1
    assert casam.err.index("looked at again at the end") < casam.err.index("b:")


def test_one_dataset_is_refused(casam: Casam, encode: Encode, discs: Path) -> None:
    with lock_store(Path("casam_store/discs/tiny.zarr")):
        casam("encode", discs, "--model", "small", "--name", "tiny")
    assert casam.code == 1
    assert "is writing into this store" in casam.err
    assert "wait for it" in casam.err
