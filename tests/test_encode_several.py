"""`casam encode A B`: several dataset folders, such as a shell makes of data/*."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam, draw_dataset

from casam_cache.store.lock import lock_store

Encode = Callable[..., Any]


@pytest.fixture
def data(casam: Casam) -> Path:
    """Two datasets, and a folder of two more."""
    for seed, name in enumerate(("a", "b", "more/c", "more/d")):
        draw_dataset(casam.folder / "data" / name, images=4, seed=seed)
    return casam.folder / "data"


@pytest.fixture
def run(casam: Casam, tiny_checkpoint: Path) -> Callable[..., Any]:
    return lambda *args: casam.json(
        "encode", *args, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny"
    )


def stores(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if ".finished.json" not in name}  # times


def test_each_is_encoded_as_if_called_alone(casam: Casam, data: Path, run: Encode) -> None:
    for path in (data / "a", data / "b", data / "more"):
        run(path, "--store", "alone")
    (data / "README.txt").write_text("what these are")
    report = run(*sorted(data.iterdir()), data / "b", "--store", "together")
    assert casam.code == 0
    assert [task["task"] for task in report["tasks"]] == ["a", "b", "c", "d"]
    assert report["failed"] == []
    assert "README.txt: a file, no dataset; passed over" in casam.err
    assert "4 datasets: 16 images encoded, 0 already there, 0 failed" in casam.err
    assert stores(casam.folder / "together") == stores(casam.folder / "alone")
    again = run(data / "a", data / "more", "--store", "together", "--dry-run")
    assert [task["pending"] for task in again["tasks"]] == [0, 0, 0]
    assert "3 datasets: 0 images to encode" in casam.err


def test_a_bad_one_does_not_stop_the_others(casam: Casam, data: Path, run: Encode) -> None:
    (data / "a" / "split.csv").write_text("id,split\np000,neither\n")
    for image in (data / "more" / "c" / "images").iterdir():
        image.write_bytes(b"no image")
    report = run(data / "a", data / "more", data / "b")
    assert casam.code == 1
    assert [(task["task"], task["encoded"]) for task in report["tasks"]] == [("c", 0), ("d", 4), ("b", 4)]
    assert [Path(each["dataset"]).name for each in report["failed"]] == ["a", "c"]
    assert "4 datasets: 8 images encoded, 0 already there, 4 failed; 2 could not be encoded" in casam.err


def test_one_that_is_held_comes_last(
    casam: Casam, data: Path, run: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = lock_store(Path("casam_store/a/tiny.zarr"))
    monkeypatch.setattr("casam_cache.encode.dataset.time.sleep", lambda seconds: held.release())
    assert len(run(data / "a", data / "b")["tasks"]) == 2
    assert casam.err.index("looked at again at the end") < casam.err.index("b:") < casam.err.index("a: 4 enc")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "missing"), "missing: there is no such folder"),
        (("a", "more/c", "other/a"), "a would both be the task a"),
        (("a", "b", "--dataset", "CAMO"), "--dataset CAMO says what one dataset is"),
        (("a", "b", "--table", "split.csv"), "split.csv says what one dataset is"),
        (("notes.txt", "notes.md"), "notes.txt and 1 more: no dataset among them"),
    ],
)
def test_what_is_refused_before_anything_is_encoded(
    casam: Casam, data: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    draw_dataset(data / "other" / "a", images=4)
    for name in ("notes.txt", "notes.md"):
        (data / name).write_text("x")
    monkeypatch.chdir(data)
    casam("encode", *arguments, "--model", "small")
    assert casam.code == 1
    (line,) = [line for line in casam.err.splitlines() if line.startswith("error:")]
    assert said in line
    assert not (data / "casam_store").exists()
