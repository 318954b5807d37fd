"""benchmarks/validation_sets.py: no image of a test split, and no group on both sides."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import pytest
from conftest import draw_dataset

from casam_cache.datasets import read_dataset

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "validation_sets.py"


def made_of(data: Path, out: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "argv", [str(SCRIPT), str(data), str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_test_split_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_dataset(tmp_path / "data" / "discs", images=24)
    with open(tmp_path / "data" / "discs" / "split.csv", newline="") as file:
        train = {row["id"]: row["group"] for row in csv.DictReader(file) if row["split"] == "train"}
    made_of(tmp_path / "data", tmp_path / "out", monkeypatch)
    found = read_dataset(tmp_path / "out" / "discs").samples
    assert {sample.id: sample.group for sample in found} == train
    sides = {
        split: {sample.group for sample in found if sample.split == split} for split in ("train", "test")
    }
    assert not sides["train"] & sides["test"]
    assert len(sides["test"]) == -(-len(set(train.values())) // 3)


def test_a_task_of_one_training_group_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_dataset(tmp_path / "data" / "discs", images=4)
    (data / "split.csv").write_text("id,split,group\n000,train,a\n001,train,a\n002,test,b\n003,test,b\n")
    with pytest.raises(SystemExit, match="1 groups in its training split"):
        made_of(tmp_path / "data", tmp_path / "out", monkeypatch)
