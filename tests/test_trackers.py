"""Curves and scores for TensorBoard and Weights & Biases, read back with their own readers."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam

MINE = """
from casam_cache.bench.trackers import Tracker

class Lines(Tracker):
    name = "lines"
    def begin(self, run, config):
        self.lines = [f"begin {run} {config['method']}"]
    def log(self, step, values):
        self.lines += [f"{step} {name}" for name in values]
    def end(self, scores):
        self.lines += sorted(scores)
        return "see lines.txt"
    def close(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "lines.txt").write_text("\\n".join([*self.lines, "closed"]))
"""


@pytest.fixture
def fitting(casam: Casam, discs: Path, tiny_checkpoint: Path) -> Any:
    """`casam fit` of four steps in two epochs on the discs, with further options."""
    casam("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")

    def fit(*options: str) -> Any:
        """Its report; None where it fails."""
        recipe = ["--set", "held_out=0", "--set", "min_steps=1", "--set", "max_steps=4"]
        printed = casam("fit", "--task", "discs", "--epochs", "2", *recipe, *options, "--json")
        return json.loads(printed) if casam.code == 0 else None

    return fit


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_gets_curves_and_scores_also_of_a_fit_that_was_found(casam: Casam, fitting: Any) -> None:
    pytest.importorskip("tensorboard")
    report = fitting("--track", "tensorboard")
    assert "tensorboard --logdir casam_runs/tracked/tensorboard" in casam.err
    (run,) = (casam.folder / "casam_runs" / "tracked" / "tensorboard").iterdir()
    assert run.name == f"discs-alignment-seed0-{Path(report['run']).name[:8]}"
    told = scalars(run)
    steps = [step for step, _ in told["epoch/loss"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == report["steps"]
    assert told["train/loss"][-1][1] == pytest.approx(told["epoch/loss"][-1][1], rel=1e-5)
    assert told["test/iou"] == [(0, pytest.approx(report["test"]["iou"], rel=1e-5))]
    assert told["gain/iou"][0][1] == pytest.approx(report["gain"]["iou"]["mean"], abs=1e-6)

    again = fitting("--track", "tensorboard")
    assert again["computed"] is False
    found = scalars(run)
    assert found["epoch/loss"] == told["epoch/loss"], "the run is written anew, from what the fit recorded"
    assert found["test/iou"] == told["test/iou"]


def test_a_tracker_of_ones_own_is_closed_also_when_the_fit_fails(
    casam: Casam, fitting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    fitting("--track", f"{tmp_path / 'mine.py'}:Lines")
    assert "see lines.txt" in casam.err
    (kept,) = (casam.folder / "casam_runs" / "tracked").rglob("lines.txt")
    lines = kept.read_text().splitlines()
    assert lines[0].startswith("begin discs-alignment-seed0-")
    assert lines[-1] == "closed"
    assert {"frozen/iou", "test/biou"} <= set(lines)

    from casam_cache.training import loop

    def broken(*_: Any, **__: Any) -> None:
        raise loop.DivergedError("the loss is no longer finite", "lower learning_rate")

    monkeypatch.setattr(loop._Run, "epoch", broken)
    fitting("--seed", "1", "--track", f"{tmp_path / 'mine.py'}:Lines")
    assert casam.code == 1
    assert kept.read_text().splitlines() == [kept.read_text().splitlines()[0], "closed"]


@pytest.mark.parametrize(
    ("option", "words"),
    [("tensorflow", "unknown tracker 'tensorflow'"), ("tensorboard", "pip install 'casam-cache[track]'")],
)
def test_what_cannot_track_is_said_before_anything_is_trained(
    casam: Casam, fitting: Any, monkeypatch: pytest.MonkeyPatch, option: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as where the package is not installed
    fitting("--track", option)
    assert casam.code == 1
    assert words in casam.err
    assert not list((casam.folder / "casam_runs").glob("fit/*"))


@pytest.mark.slow
def test_weights_and_biases_offline(casam: Casam, fitting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    report = fitting("--track", "wandb")
    assert "wandb sync " in casam.err
    (written,) = (casam.folder / "casam_runs").rglob("run-*.wandb")
    keys: list[str] = []
    summary: dict[str, str] = {}
    for data in log_records(written.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        keys += [item.key or "/".join(item.nested_key) for item in record.history.item]
        summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    assert {"step", "train/loss", "epoch/loss"} <= set(keys)
    assert float(summary["test/iou"]) == pytest.approx(report["test"]["iou"])


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a log of 32 KiB blocks (LevelDB's format) behind a header of seven bytes, as W&B writes it."""
    block, header, place, parts = 32768, 7, 7, b""
    while place < len(data):
        if block - place % block < header:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + header])
        parts += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""
