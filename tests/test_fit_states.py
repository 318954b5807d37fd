"""What is said of the state that a fit hands out, in words and in its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Casam, draw_dataset

from casam_cache.report.html.curves import curves

FIT = (
    "fit",
    "--task",
    "many",
    "--set",
    "held_out=0.25",
    "--set",
    "norm=none",
    "--set",
    "max_steps=6",
    "--epochs",
    9,
)


@pytest.fixture
def many(tmp_path: Path, encode: Any) -> None:
    """A set with groups enough for some to be held out."""
    encode(draw_dataset(tmp_path / "many", images=26))


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1.0, "kept the state after step"),
        (0.75, "kept 75 % of the way from the start to the state after step"),
    ],
)
def test_a_point_between_is_named(
    casam: Casam, many: None, monkeypatch: pytest.MonkeyPatch, share: float, words: str
) -> None:
    """With a rule that takes a fixed point, whatever it scores."""
    from casam_cache.training import selection

    def always(self: Any, head: Any) -> float:
        scored.append(head)
        # frozen, start, the state after each check, then a quarter, a half and three quarters of the way to the last
        return 0.9 if len(scored) == (3 if share == 1 else 6) else 0.1

    scored: list[Any] = []
    monkeypatch.setattr(selection.Selection, "_score", always)
    report = casam.json(*FIT, "--set", "checks=1", "--set", "interpolations=3")
    assert (report["chosen"]["share"], report["chosen"]["iou"]) == (share, 0.9)
    assert words in casam(*FIT, "--set", "checks=1", "--set", "interpolations=3")


def test_of_few_groups_part_of_the_way_is_named(casam: Casam, encode: Any, discs: Path) -> None:
    encode(discs)
    few = ("fit", "--task", "discs", "--set", "held_out=0.2", "--set", "norm=none", "--set", "max_steps=2")
    report = casam.json(*few, "--set", "interpolations=3")
    assert (report["chosen"], report["groups"]) == (None, 4)
    assert report["shrunk"] == 7 / 9
    told = casam(*few, "--set", "interpolations=3")
    assert "part of the way from the frozen SAM to the last state: discs (4; 78 %)." in " ".join(told.split())
    whole = casam.json(*few, "--set", "interpolations=0")
    assert whole["shrunk"] is None
    assert whole["test"]["iou"] != report["test"]["iou"]
    assert "the last state is kept: discs (4)." in " ".join(casam(*few, "--set", "interpolations=0").split())


def test_the_picture_marks_it() -> None:
    history = [{"steps": 2, "loss": 1.0}, {"steps": 2, "loss": 0.5}]
    checks = [{"step": 0, "iou": 0.5}, {"step": 4, "iou": 0.4}]
    kept = {"checks": checks, "frozen": 0.5, "step": 4, "iou": 0.6}
    drawn = {
        share: curves({"history": history, "chosen": {**kept, "share": share}}, "alignment")
        for share in (0.5, 1.0)
    }
    assert b"50% of the way there" in (drawn[0.5] or b"")
    assert b"of the way there" not in (drawn[1.0] or b"")
    assert curves({"history": history, "chosen": kept}, "alignment") == drawn[1.0], (
        "a record of an older release"
    )
