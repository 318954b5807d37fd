"""Figures 1 and 2: what they show, that it can be told apart, and that the same results give the same files."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casam_cache.errors import OptionError
from casam_cache.methods.registry import METHODS
from casam_cache.report.comparison_figures import (
    along_sequence,
    by_task,
    by_unseen,
    figure_1,
    figure_1_values,
    figure_4,
    figure_4_values,
)
from casam_cache.report.configurations import gather
from casam_cache.report.cost_figure import GAP, figure_2, figure_2_values, spread
from casam_cache.report.style import STYLES, counted, look_of

TASKS = ["a & b", "<c>", "d"]


def row(method: str, matrix: list[list[float | None]], **more: Any) -> dict[str, Any]:
    order = more.pop("order", TASKS)
    found = {
        "method": method, "label": method, "seed": 0, "order": order, "parameters": 1000, "gflops": 2.0,
        "matrix": {"tasks": order, "iou": matrix}, "last_iou": 0.5, "avg_iou": None if len(matrix) == 1 else 0.5,
        "unseen": {},
    }  # fmt: skip
    return {**found, **more}


SEQUENCE = row("naive", [[0.8, 0.1, 0.2], [0.6, 0.9, 0.3], [0.4, 0.6, 0.8]])


def test_a_line_goes_over_the_tasks_learnt_so_far() -> None:
    curves = along_sequence(gather([SEQUENCE, row("joint", [[0.9, 0.9, 0.9]])]))
    assert curves == {"naive": {"1": 80.0, "2": pytest.approx(75.0), "3": pytest.approx(60.0)}}


def test_radars_are_of_the_last_state_and_mean_over_orders() -> None:
    turned = row("naive", [[0.2] * 3, [0.2] * 3, [0.0, 0.2, 0.6]], order=TASKS[::-1])
    curves = by_task(gather([SEQUENCE, turned]))["naive"]
    assert curves == {"a & b": pytest.approx(50.0), "<c>": pytest.approx(40.0), "d": pytest.approx(40.0)}
    unseen = row("ca-sam", [[0.5]], unseen={"x": {"iou": 0.25}, "y": {"iou": None}})
    assert by_unseen(gather([unseen])) == {"ca-sam": {"x": 25.0}}


@pytest.mark.parametrize("style", list(STYLES))
def test_the_same_results_give_the_same_files_and_names_are_text(style: str) -> None:
    rows = [SEQUENCE, row("my<method>", [[0.9, 0.8, 0.7], [0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])]
    drawn = figure_1(rows, "svg", style)
    assert drawn is not None
    assert drawn == figure_1(rows, "svg", style)
    words = {
        "".join(text.itertext()).strip()
        for text in ElementTree.fromstring(drawn).iter()
        if text.tag.endswith("text")
    }
    assert {*TASKS, "naive", "my<method>", "tasks learnt"} <= words
    png = figure_1(rows, "png", style)
    assert png is not None
    assert png.startswith(b"\x89PNG")


def test_values_are_those_of_the_figure() -> None:
    found = list(csv.DictReader(io.StringIO(figure_1_values([SEQUENCE]))))
    assert [(each["panel"], each["name"], float(each["iou"])) for each in found[-3:]] == [
        ("sequence", "1", 80.0), ("sequence", "2", 75.0), ("sequence", "3", 60.0),
    ]  # fmt: skip
    assert [float(each["iou"]) for each in found if each["panel"] == "tasks"] == [60.0, 40.0, 80.0]


def test_nothing_to_show_is_no_figure() -> None:
    assert figure_1([row("alignment", [[0.5]], order=["a"])], "svg") is None
    assert figure_2([SEQUENCE, row("joint", [[0.9] * 3])], "svg") is None, "neither is a task on its own"


def test_figure_2_is_of_tasks_on_their_own() -> None:
    rows = [row("alignment", [[0.5]], parameters=512), row("decoder", [[0.5]], gflops=4.0), SEQUENCE]
    assert figure_2(rows, "svg") is not None
    assert [each["label"] for each in csv.DictReader(io.StringIO(figure_2_values(rows)))] == [
        "alignment",
        "decoder",
    ]


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(OptionError, match="poster"):
        figure_1([SEQUENCE], "svg", "poster")


def test_methods_can_be_told_apart() -> None:
    """No two of ours have the same look; configurations of one share its colour alone."""
    names = [*METHODS.names()]
    looks = [(look["color"], str(look["linestyle"]), look["marker"]) for look in map(look_of, names)]
    assert len(set(looks)) == len(names)
    first, second = look_of("ca-sam"), look_of("ca-sam", 1)
    assert first["color"] == second["color"]
    assert (first["linestyle"], first["marker"]) != (second["linestyle"], second["marker"])
    assert look_of("somebody's") == look_of("somebody's")


def test_figure_4_is_of_unseen_sets_beside_the_frozen_sam() -> None:
    def answers(*values: float | None) -> dict[str, Any]:
        return {name: {"iou": iou, "frozen_iou": 0.3} for name, iou in zip("xyz<", values, strict=False)}

    rows = [
        row("ca-sam", [[0.5]], unseen=answers(0.2, 0.4, 0.6)),
        row("ca-sam", [[0.5]], unseen=answers(0.4, 0.4, 0.6), seed=1),
        row("naive", [[0.5]], unseen=answers(0.1, 0.2, 0.3)),
        row("joint", [[0.5]]),
    ]
    drawn = figure_4(rows, "svg")
    assert drawn == figure_4(rows, "svg")
    found = [(each["method"], each["set"], float(each["iou"])) for each in
             csv.DictReader(io.StringIO(figure_4_values(rows)))]  # fmt: skip
    assert found[:3] == [("ca-sam", "x", 30.0), ("ca-sam", "y", 40.0), ("ca-sam", "z", 60.0)]
    assert found[-3:] == [("frozen SAM", name, 30.0) for name in "xyz"]
    assert len(found) == 9
    frozen = row("frozen", [[0.5]], unseen=answers(0.3, 0.3, 0.3))
    assert "frozen SAM" not in figure_4_values([*rows, frozen])
    assert figure_4([row("ca-sam", [[0.5]], unseen=answers(0.2))], "svg") is not None, (
        "one set is a point a method"
    )
    assert figure_4([row("ca-sam", [[0.5]])], "svg") is None
    assert figure_4([row("ca-sam", [[0.5]], unseen=answers(None))], "svg") is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_texts_of_figure_2_stand_apart_in_the_order_of_their_points(heights: list[float]) -> None:
    found = spread(heights)
    gap = min(GAP, 1 / max(1, len(heights) - 1))
    ordered = [found[place] for place in sorted(range(len(heights)), key=lambda place: heights[place])]
    assert all(above - below >= gap - 1e-9 for below, above in pairwise(ordered))
    assert min(found) >= -1e-9
    assert max(found) <= 1 + 1e-9
    if all(above - below >= gap for below, above in pairwise(sorted(heights))):
        assert found == pytest.approx(heights), "what stands apart stays beside its point"


def test_ticks_are_words() -> None:
    assert [counted(value) for value in (250, 1e4, 1e6, 3.5e6, 1e9)] == ["250", "10 k", "1 M", "3.5 M", "1 G"]
