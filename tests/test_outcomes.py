"""Outcome tables come back from CSV to the bit, whatever files and groups are called."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_cache.errors import CasamError
from casam_cache.training.outcomes import FILE, Outcomes, gain, read_outcomes, score, write_outcomes

NAMES = [
    'plain', 'a, "quoted" name', "two\nlines", "a\rreturn", "\r\n", "", " ", "Ünïcödé/æ.png", "\udcff.png",
    "nan", "1",
]  # fmt: skip


def table(names: list[str], scores: dict[str, list[float]]) -> Outcomes:
    count = len(names)
    numbers = list(range(count))
    return Outcomes(["task"] * count, names, names[::-1], numbers, numbers, numbers, [0.1] * count, scores)


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), max_size=8))
def test_any_name_and_any_number_come_back(rows: list[tuple[str, float]]) -> None:
    made = table([name for name, _ in rows], {"iou": [value for _, value in rows]})
    read = Outcomes.from_csv(made.to_csv())
    assert (read.item, read.group, read.area) == (made.item, made.group, made.area)
    assert bits(read.scores["iou"]) == bits(made.scores["iou"])


def test_awkward_names_survive_the_disk(tmp_path: Path) -> None:
    scores = [0.1, 1 / 3, 5e-324, 1e300, 0.1 + 0.2, 0.0, 1.0, 2.0, 3.0, 4.0, math.nan]
    made = table(NAMES, {"iou": scores, "hd95": scores[::-1]})
    write_outcomes(tmp_path, made)
    read = read_outcomes(tmp_path)
    assert (read.item, read.group) == (NAMES, NAMES[::-1])
    assert bits(read.scores["iou"][:-1]) == bits(scores[:-1])
    assert math.isnan(read.scores["iou"][-1])
    assert made.to_csv().endswith(",0.1,,0.1\r\n"), "what is undefined is empty"
    assert made.to_csv().startswith("task,item,group,class_id,instance,area,predicted_iou,iou,hd95\r\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-3],
        lambda data: data.replace(b",iou", b"", 1),
        lambda data: data.replace(b"task,item", b"item,task", 1),
        lambda data: data.replace(b"0.1", b"0.x", 1),
        lambda data: b"\xff" + data,
    ],
)
def test_damage_is_said(tmp_path: Path, damage) -> None:
    write_outcomes(tmp_path, table(["a", "b"], {"iou": [0.1, 0.2], "dice": [0.1, 0.2]}))
    path = tmp_path / FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CasamError, match="cannot be read") as caught:
        read_outcomes(tmp_path)
    assert "remove" in caught.value.hint


def test_scores_and_gains_by_metric() -> None:
    fitted = table(["a", "b"], {"iou": [0.5, math.nan], "hd95": [2.0, 4.0]})
    frozen = table(["a", "b"], {"iou": [0.25, math.nan], "hd95": [4.0, 8.0]})
    told = score(fitted)
    assert (told["iou"].mean, told["hd95"].mean, told.masks, told.undefined) == (0.5, 3.0, 1, 1)
    assert told.to_json()["hd95"] == 3.0
    assert {name: interval.mean for name, interval in gain(fitted, frozen).items()} == {
        "iou": 0.25,
        "hd95": -3.0,
    }
    with pytest.raises(ValueError, match="not of the same metrics"):
        gain(fitted, table(["a", "b"], {"iou": [0.25, 0.3]}))
    with pytest.raises(ValueError, match="not of the same masks"):
        gain(fitted, table(["a", "c"], {"iou": [0.25, 0.3]}))


def test_joined_parts() -> None:
    first, second = table(["a"], {"iou": [0.5]}), table(["b"], {"iou": [0.25]})
    whole = Outcomes.joined([first, second])
    assert (whole.item, whole.scores) == (["a", "b"], {"iou": [0.5, 0.25]})
    assert first.item == ["a"], "the parts are left as they are"
    with pytest.raises(ValueError, match="after"):
        Outcomes.joined([first, table(["b"], {"dice": [0.25]})])


def test_an_interval_of_shares_ends_at_nothing_and_at_all():
    few = Outcomes(
        ["t"] * 3, ["a", "b", "c"], ["a", "b", "c"], [1] * 3, [1] * 3, [9] * 3, [0.5] * 3,
        {"iou": [0.02, 0.4, 0.05], "hd95": [0.02, 0.4, 0.05]},
    )  # fmt: skip
    found = score(few)
    assert found["iou"].low == 0 < found["iou"].high < 1
    assert found["hd95"].low < 0, "pixels have no such end that is known here"
