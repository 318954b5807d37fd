"""Stages: named by what decides their result, computed once, kept whole or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import limited_file_size

from casam_cache.bench.stages import Runs, Stage
from casam_cache.errors import CasamError

INPUTS = {"task": "discs", "options": {"blocks": 1, "rate": 1e-4}, "items": "abc", "seed": 0}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def writer(text: str, calls: list[str]) -> Callable[[Path, Path], dict[str, Any]]:
    def compute(result: Path, checkpoints: Path) -> dict[str, Any]:
        assert not list(result.iterdir())
        calls.append(text)
        (result / "file.txt").write_text(text)
        return {"device": "cpu"}

    return compute


def test_the_key_follows_from_every_input_and_from_no_order() -> None:
    stage = Stage("fit", 1, INPUTS)
    assert stage.key == Stage("fit", 1, dict(reversed(INPUTS.items()))).key
    others = [
        Stage("evaluate", 1, INPUTS),
        Stage("fit", 2, INPUTS),
        *(Stage("fit", 1, {**INPUTS, name: "other"}) for name in INPUTS),
        Stage("fit", 1, {**INPUTS, "options": {"blocks": 1, "rate": 1.1e-4}}),
        Stage("fit", 1, {**INPUTS, "more": None}),
    ]
    assert len({stage.key, *(other.key for other in others)}) == len(others) + 1


def test_a_stage_is_computed_once_and_recorded(runs: Runs) -> None:
    stage, calls = Stage("fit", 1, INPUTS), list[str]()
    assert not runs.exists(stage)
    folder, computed = runs.obtain(stage, writer("first", calls))
    assert computed
    assert runs.obtain(stage, writer("second", calls)) == (folder, False)
    assert calls == ["first"]
    assert folder == runs.root / "fit" / stage.key
    assert (folder / "file.txt").read_text() == "first"
    record = runs.record(folder)
    assert (record["kind"], record["revision"], record["key"]) == ("fit", 1, stage.key)
    assert record["inputs"] == INPUTS
    assert record["recorded"]["device"] == "cpu"
    assert {"python", "torch", "numpy"} <= record["recorded"]["versions"].keys()
    assert "device" not in json.dumps(record["inputs"]), "recorded, not hashed"
    assert not list((runs.root / "partial").iterdir())


def test_an_interrupted_stage_keeps_its_checkpoints_alone(runs: Runs) -> None:
    stage = Stage("fit", 1, INPUTS)

    def interrupted(result: Path, checkpoints: Path) -> None:
        (result / "half.txt").write_text("half")
        (checkpoints / "epoch").write_text("7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.obtain(stage, interrupted)
    assert not runs.exists(stage)
    assert not (runs.root / "fit").exists()

    def resumed(result: Path, checkpoints: Path) -> dict[str, Any]:
        assert not list(result.iterdir()), "what an interrupted run left is not a result"
        return {"resumed": (checkpoints / "epoch").read_text()}

    folder, computed = runs.obtain(stage, resumed)
    assert computed
    assert runs.record(folder)["recorded"]["resumed"] == "7"
    assert [path.name for path in folder.iterdir()] == ["record.json"]


def test_a_stage_appears_whole(runs: Runs) -> None:
    stage = Stage("fit", 1, INPUTS)

    def compute(result: Path, checkpoints: Path) -> None:
        (result / "file.txt").write_text("x")
        assert not runs.exists(stage)
        assert not runs.folder(stage).exists()

    folder, _ = runs.obtain(stage, compute)
    assert sorted(path.name for path in folder.iterdir()) == ["file.txt", "record.json"]


def test_two_who_want_the_same_stage_compute_it_once(runs: Runs) -> None:
    stage, calls, found = Stage("fit", 1, INPUTS), list[str](), list[bool]()

    def slow(result: Path, checkpoints: Path) -> dict[str, Any]:
        time.sleep(0.2)
        return writer("x", calls)(result, checkpoints)

    threads = [
        threading.Thread(target=lambda: found.append(Runs(runs.root).obtain(stage, slow)[1]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["x"]
    assert sorted(found) == [False, False, False, True]


def test_different_stages_do_not_wait_for_each_other(runs: Runs) -> None:
    inside, calls = threading.Barrier(2, timeout=20), list[str]()

    def together(result: Path, checkpoints: Path) -> None:
        inside.wait()
        calls.append("x")

    threads = [
        threading.Thread(target=runs.obtain, args=(Stage("fit", 1, {"seed": seed}), together))
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2


def test_a_folder_that_is_no_run_is_said(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(CasamError, match="not a finished run"):
        runs.record(tmp_path / "nowhere")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "record.json").write_text("{")
    with pytest.raises(CasamError, match="damaged"):
        runs.record(tmp_path / "damaged")


def test_a_runs_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CasamError, match="cannot write to the runs folder") as caught:
        Runs(tmp_path / "runs").obtain(Stage("fit", 1, INPUTS), writer("x", []))
    assert "--runs" in caught.value.hint
    assert (tmp_path / "runs").read_text() == "a file"


def test_a_file_elsewhere_is_named_for_itself(runs: Runs, tmp_path: Path) -> None:
    gone = tmp_path / "store.zarr" / "shard"

    def read(folder: Path, *_: object) -> dict[str, object]:
        return {"read": gone.read_text()}

    with pytest.raises(CasamError, match=r"a stage cannot use .*shard: No such file") as caught:
        runs.obtain(Stage("fit", 1, INPUTS), read)
    assert "casam store verify" in caught.value.hint


def test_a_disk_that_fills_up_leaves_no_half_stage(runs: Runs) -> None:
    stage, calls = Stage("fit", 1, INPUTS), list[str]()
    with limited_file_size(1000), pytest.raises(CasamError, match="runs folder"):
        runs.obtain(stage, writer("x" * 5000, calls))
    assert not runs.exists(stage)
    folder, computed = runs.obtain(stage, writer("x" * 5000, calls))
    assert computed
    assert len((folder / "file.txt").read_text()) == 5000
