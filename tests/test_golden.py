"""The numbers of a small bench over every method are what they were, or it is said which are not, and what to raise."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import golden_bench
import pytest


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(golden_bench.FILE.read_text())
    return found


@pytest.mark.slow
def test_the_numbers_are_those_of_before(
    golden: dict[str, Any], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    exact = golden_bench.environment() == golden["environment"]
    wrong = golden_bench.differences(golden, golden_bench.compute(tmp_path, tiny_checkpoint), exact=exact)
    assert not wrong, golden_bench.explained(wrong)


def test_a_changed_number_is_named_with_what_to_raise(golden: dict[str, Any]) -> None:
    found = copy.deepcopy(golden)
    row = found["rows"]["routers"][0]
    row["last_iou"] += 1e-12
    found["losses"][0][3] *= 1 + 1e-9
    wrong = golden_bench.differences(golden, found, exact=True)
    assert len(wrong) == 2
    assert wrong[0].startswith(
        f"routers: {row['label']}, {'-'.join(row['order'])}, seed {row['seed']}: last_iou"
    )
    assert wrong[1].startswith("losses: fit of")
    told = golden_bench.explained(wrong)
    assert all(word in told for word in ("revision", "--write", wrong[0], wrong[1]))
    assert not golden_bench.differences(golden, found, exact=False), (
        "another processor may give other last digits"
    )


@pytest.mark.parametrize(
    ("bench", "key", "change"),
    [
        ("methods", "last_iou", lambda value: value + 0.03),
        ("methods", "parameters", lambda value: value + 1),
        ("methods", "matrix", lambda value: {**value, "masks": [1, *value["masks"][1:]]}),
        ("methods", "unseen", lambda value: {"other": {}}),
        ("methods", "last_iou", lambda value: None),
    ],
)
def test_elsewhere_scores_may_differ_a_little_and_counts_not_at_all(
    golden: dict[str, Any], bench: str, key: str, change: Any
) -> None:
    found = copy.deepcopy(golden)
    found["rows"][bench][0][key] = change(found["rows"][bench][0][key])
    wrong = golden_bench.differences(golden, found, exact=False)
    assert len(wrong) == 1
    assert key in wrong[0]


def test_rows_and_trainings_that_are_missing_or_new_are_named(golden: dict[str, Any]) -> None:
    found = copy.deepcopy(golden)
    gone = found["rows"]["methods"].pop(3)
    found["losses"].pop(0)
    del found["rows"]["views"]
    told = "\n".join(golden_bench.differences(golden, found, exact=False))
    assert f"methods: {gone['label']}" in told
    assert "losses: " in told
    assert "views" in told


def test_the_file_is_written_as_it_is_kept(golden: dict[str, Any]) -> None:
    assert golden_bench.written(golden) == golden_bench.FILE.read_text()
