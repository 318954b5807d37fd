"""The example of docs/own-metric.md, as a user would run it; and metrics that are not what evaluation relies on."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import digest_file
from casam_cache.heads.files import build_head
from casam_cache.methods.testing import TINY, drawn_items
from casam_cache.metrics.base import Metric
from casam_cache.metrics.registry import METRICS, STANDARD, make_metrics
from casam_cache.metrics.testing import MetricContract
from casam_cache.registry import revision_of
from casam_cache.training.evaluate import evaluate
from casam_cache.training.outcomes import Outcomes, score

DOCUMENT = Path(__file__).parent.parent / "docs" / "own-metric.md"
EXAMPLE, CONTRACT = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "my_metric.py"
    path.write_text(EXAMPLE)
    return f"{path}:Hausdorff95"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """As in a new process: no file of a user's has been run yet."""
    yield
    for name in [name for name in sys.modules if name.startswith("casam_file_")]:
        del sys.modules[name]


class TestIoU(MetricContract):
    metric = "iou"
    symmetric = True


class TestBoundaryIoU(MetricContract):
    metric = "biou"
    symmetric = True


class TestDice(MetricContract):
    metric = "dice"
    symmetric = True


class TestHausdorff95(MetricContract):
    symmetric = True

    @pytest.fixture(autouse=True)
    def _made(self, example: str, request: pytest.FixtureRequest) -> None:
        request.cls.metric = example


def test_the_documented_test_is_this() -> None:
    assert "class TestHausdorff95(MetricContract)" in CONTRACT
    assert "symmetric = True" in CONTRACT


def test_a_distance_by_hand(example: str) -> None:
    metric = make_metrics([example])["hd95"]
    truth, predicted = np.zeros((20, 30), dtype=bool), np.zeros((20, 30), dtype=bool)
    truth[5:15, 5:15], predicted[5:15, 8:18] = True, True
    assert metric(predicted, truth) == 3.0
    assert metric(np.zeros_like(truth), truth) == math.hypot(20, 30)


def test_a_head_is_scored_by_it_beside_the_standard_ones(example: str) -> None:
    backbone, items = seeded_backbone(TINY, 0), drawn_items("heart")
    head = build_head("identity", None, backbone, 0)
    predicted: list[tuple[np.ndarray, np.ndarray]] = []
    outcomes = evaluate(
        head, backbone, items, metrics=[example],
        on_mask=lambda item, mask, bitmap: predicted.append((bitmap, mask.bitmap)),
    )  # fmt: skip
    assert list(outcomes.scores) == [*STANDARD, "hd95"]
    metric = METRICS.get(example)()
    assert outcomes.scores["hd95"] == [metric(bitmap, truth) for bitmap, truth in predicted]
    assert max(outcomes.scores["hd95"]) > 1
    found = score(outcomes)["hd95"]
    assert (found.mean, found.groups) == (pytest.approx(np.mean(outcomes.scores["hd95"])), 2)
    assert Outcomes.from_csv(outcomes.to_csv()) == outcomes
    plain = evaluate(head, backbone, items)
    assert plain.scores == {name: outcomes.scores[name] for name in STANDARD}


def test_its_revision_is_its_text_and_its_name_is_known_afterwards(example: str) -> None:
    found = METRICS.get(example)
    assert revision_of(found) == digest_file(Path(example.rpartition(":")[0]))
    assert METRICS.get("hd95") is found
    assert revision_of(METRICS.get("iou")) == 1


def test_unknown_and_unfinished_metrics_are_said(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"(?s)no-such.*FILE\.py:CLASS.*biou"):
        make_metrics(["no-such"])
    path = tmp_path / "mine.py"
    start = "from casam_cache.metrics.base import Metric\nclass Mine(Metric):\n"
    call = "    def __call__(self, predicted, truth): return 0.0\n"
    for body, words in (
        (call, "has no name"),
        (f"    name = 'dice'\n{call}", "has the name of an installed metric"),
        ("    name = 'mine'\n", "does not define __call__"),
        (f"    name = 'my metric'\n    label = 'M'\n    better = 'high'\n{call}", "no identifier"),
        (f"    name = 'mine'\n    better = 'up'\n{call}", "has no label, better is neither"),
        (f"    name = 'images'\n    label = 'M'\n    better = 'high'\n{call}", "is taken by another column"),
    ):
        path.write_text(start + body)
        with pytest.raises(CasamError, match=words):
            make_metrics([f"{path}:Mine"])


class Wrong(Metric):
    name, label, better = "wrong", "Wrong", "high"
    value: ClassVar[float] = math.inf

    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        return self.value if predicted.any() else math.nan


class Upside(METRICS.get("iou")):  # type: ignore[misc]
    name, better = "upside", "low"


class Writing(METRICS.get("iou")):  # type: ignore[misc]
    name = "writing"

    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        predicted &= truth
        return float(super().__call__(predicted, truth))


class Remembering(METRICS.get("iou")):  # type: ignore[misc]
    name, calls = "remembering", 0

    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        type(self).calls += 1
        return float(super().__call__(predicted, truth)) + 1e-9 * self.calls


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (Wrong, "test_values_are_finite_or_nan"),
        (Upside, "test_the_true_mask_is_the_best_prediction"),
        (Writing, "test_masks_are_only_read"),
        (Remembering, "test_a_value_depends_on_the_two_masks_alone"),
    ],
)
def test_the_contract_finds_what_is_wrong(wrong: type[Metric], test: str) -> None:
    contract = type("Contract", (MetricContract,), {"metric": wrong})()
    with pytest.raises((AssertionError, ValueError)):
        getattr(contract, test)()
