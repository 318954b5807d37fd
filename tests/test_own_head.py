"""The example of docs/own-head.md, as a user would run it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_sets import finished, kinds
from conftest import Casam
from PIL import Image

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.fingerprint import digest_file
from casam_cache.heads.files import build_head
from casam_cache.heads.registry import HEADS
from casam_cache.heads.testing import TINY, HeadContract
from casam_cache.methods.testing import MethodContract

DOCUMENT = Path(__file__).parent.parent / "docs" / "own-head.md"
EXAMPLE, CONTRACT = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
Encode = Callable[..., Any]


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "my_head.py"
    path.write_text(EXAMPLE)
    return path


class TestScaleShiftHead(HeadContract):
    options = {"tokens": 3}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _of_the_document(self, example: Path) -> None:
        type(self).head = f"{example}:ScaleShiftHead"


class TestWithoutTokens(TestScaleShiftHead):
    options = {"tokens": 0}  # noqa: RUF012


class TestScaleShift(MethodContract):
    @pytest.fixture(autouse=True)
    def _of_the_document(self, example: Path) -> None:
        type(self).method = f"{example}:ScaleShift"


def test_the_documented_test_is_this() -> None:
    assert "class TestScaleShiftHead(HeadContract)" in CONTRACT
    assert 'options = {"tokens": 3}' in CONTRACT


def test_the_head_has_a_name_once_its_file_is_known(example: Path) -> None:
    backbone = seeded_backbone(TINY, 0)
    assert "scale-shift-head" not in HEADS.names()
    HEADS.get(f"{example}:ScaleShiftHead")
    assert (
        build_head("scale-shift-head", {"tokens": 5}, backbone, 0).trained_parameters() == 7 * TINY.channels
    )


def test_the_example_is_fitted_and_predicted_with(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs)
    path = casam.folder / "my_head.py"
    path.write_text(EXAMPLE)
    command = ("fit", "--task", "discs", "--epochs", 1, "--method", "my_head.py:ScaleShift")
    report = casam.json(*command)
    assert casam.code == 0, casam.err
    described = json.loads((casam.folder / report["run"] / "head.json").read_text())
    assert described["head"]["name"] == "scale-shift-head"
    assert described["head"]["source"]["sha256"] == digest_file(path)
    assert (described["options"], described["parameters"]) == ({"tokens": 2}, 4 * 16)
    assert not casam.json(*command)["computed"]

    path.write_text("changed = 1\n")
    image = discs / "images" / "p004.png"
    found = casam.json("predict", image, "--box", "5,5,20,20", "--run", report["run"])
    assert casam.code == 0, casam.err
    assert (found["head"], found["task"]) == ("scale-shift-head", "discs")
    assert np.asarray(Image.open(casam.folder / "mask.png")).shape == (48, 40)


def test_the_example_is_benched_beside_others(casam: Casam, bench_stores: Path) -> None:
    (casam.folder / "my_head.py").write_text(EXAMPLE)
    asked = "bench --methods frozen,alignment --method my_head.py:ScaleShift --set tokens=4"
    assert f"casam {asked}\n" in DOCUMENT.read_text()
    command = (
        *asked.split(), "--tasks", "amber,cobalt", "--epochs", 1, "--set", "blocks=1",
        "--store", bench_stores, "--runs", "runs", "--device", "cpu", "--jobs", 1,
    )  # fmt: skip
    report = casam.json(*command)
    assert casam.code == 0, casam.err
    rows = {row["method"]: row for row in report["results"]}
    assert set(rows) == {"frozen", "alignment", "scale-shift"}
    assert rows["scale-shift"]["options"]["tokens"] == 4
    assert rows["scale-shift"]["last_iou"] != rows["frozen"]["last_iou"]
    assert casam.json(*command)["stages"]["computed"] == 0

    before = finished(casam.folder / "runs")
    (casam.folder / "my_head.py").write_text(EXAMPLE.replace("0.02", "0.5"))
    assert casam.json(*command)["stages"]["computed"] > 0
    again = kinds(finished(casam.folder / "runs").keys() - before.keys())
    assert again["fit"] == 2, "the other methods' fits stay"
