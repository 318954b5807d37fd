"""Where every mask is empty, what is said is about masks; where those of one split are, about the split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from PIL import Image

from casam_cache.datasets import check

Encode = Callable[..., Any]


def blank(root: Path, *names: str) -> None:
    for path in sorted((root / "masks").iterdir()):
        if not names or path.stem in names:
            Image.fromarray(np.zeros((48, 40), np.uint8)).save(path)


def test_all_empty_is_about_masks(casam: Casam, encode: Encode, discs: Path) -> None:
    blank(discs)
    (problem,) = check(discs).tasks[0].problems
    assert "no object in any mask: those of all 10 images" in str(problem)
    assert "split" not in str(problem)
    (line,) = encode(discs)["tasks"][0]["problems"]
    assert line == str(problem)
    error = casam.json("fit", "--task", "discs")["error"]
    assert "none of its 10 images has an object in a mask, in any split" in error["message"]
    assert "casam data check" in error["hint"]
    assert "split" not in error["hint"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_empty_split_is_about_the_split(casam: Casam, encode: Encode, discs: Path, split: str) -> None:
    tested = ("p004", "p005")
    trained = tuple(f"p{number:03d}" for number in range(10) if number not in (4, 5))
    blank(discs, *(trained if split == "train" else tested))
    assert f"no object in any mask of {split}" in str(check(discs).tasks[0].problems[0])
    assert encode(discs)["tasks"][0]["problems"] == []
    error = casam.json("fit", "--task", "discs", "--epochs", 1)["error"]
    assert f"no masks in its {split} split" in error["message"]
    assert "split.csv" in error["hint"]
