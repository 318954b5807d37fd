"""Equations 8-12 and the other continual-learning metrics, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_cache.metrics.continual import (
    average,
    backward_transfer,
    forgetting_by_task,
    forward_transfer,
    last,
    mean_forgetting,
    running,
    summarise,
    task_weights,
)

# Three tasks of 10, 30 and 60 test images with 20, 20 and 160 masks.
R = [
    [0.8, 0.5, 0.1],
    [0.9, 0.7, 0.3],
    [0.6, 0.75, 0.4],
]
IMAGES, MASKS = [10, 30, 60], [20, 20, 160]


def test_running_means_of_equation_8_with_each_weight():
    images, masks, tasks = (task_weights(name, IMAGES, MASKS) for name in ("images", "masks", "tasks"))
    assert running(R, images) == pytest.approx([0.8, (9 + 21) / 40, (6 + 22.5 + 24) / 100])
    assert running(R, masks) == pytest.approx([0.8, 0.8, (12 + 15 + 64) / 200])
    assert running(R, tasks) == pytest.approx([0.8, 0.8, 1.75 / 3])


def test_last_and_average_of_equations_9_and_10():
    images = task_weights("images", IMAGES, MASKS)
    assert last(R, images) == pytest.approx(0.525)
    assert average(R, images) == pytest.approx((0.8 + 0.75 + 0.525) / 3)


def test_the_three_forgettings_differ_as_defined():
    # task 1: best before the end 0.9, right after training 0.8, last 0.6; task 2: only 0.7 before 0.75 at the end
    assert forgetting_by_task(R, "paper") == pytest.approx([0.3, -0.05])
    assert forgetting_by_task(R, "mammoth") == pytest.approx([0.3, 0.0])
    assert forgetting_by_task(R, "avalanche") == pytest.approx([0.2, -0.05])
    assert mean_forgetting(R, "paper") == pytest.approx(0.125)
    assert mean_forgetting(R, "mammoth") == pytest.approx(0.15)
    assert mean_forgetting(R, "avalanche") == pytest.approx(0.075)


def test_scores_before_training_on_a_task_are_not_forgotten():
    before = [[0.8, 0.99, 0.99], [0.8, 0.7, 0.99], [0.8, 0.7, 0.4]]
    assert forgetting_by_task(before, "paper") == pytest.approx([0, 0])
    assert forgetting_by_task(before, "mammoth") == pytest.approx([0, 0])


def test_transfer():
    assert backward_transfer(R) == pytest.approx(((0.6 - 0.8) + (0.75 - 0.7)) / 2)
    assert forward_transfer(R, [0.55, 0.45, 0.35]) == pytest.approx(((0.5 - 0.45) + (0.3 - 0.35)) / 2)


def test_summary_gathers_them():
    found = summarise(
        R, images=IMAGES, masks=MASKS, weight="masks", forgetting="mammoth", frozen=[0.5, 0.5, 0.5]
    )
    assert found.last == pytest.approx(91 / 200)
    assert found.avg == pytest.approx((0.8 + 0.8 + 0.455) / 3)
    assert (found.ff, found.bwt) == (pytest.approx(0.15), pytest.approx(-0.075))
    assert found.fwt == pytest.approx(-0.1)
    assert math.isnan(summarise(R, images=IMAGES, masks=MASKS).fwt)


def test_a_single_task_has_no_forgetting_and_no_transfer():
    found = summarise([[0.7]], images=[5], masks=[9], frozen=[0.4])
    assert (found.last, found.avg) == (0.7, 0.7)
    assert all(math.isnan(value) for value in (found.ff, found.bwt, found.fwt))


def test_a_method_without_a_path_has_only_a_last():
    found = summarise([[0.6, 0.75, 0.4]], images=IMAGES, masks=MASKS, frozen=[0.5, 0.5, 0.5])
    assert found.last == pytest.approx(0.525)
    assert all(math.isnan(value) for value in (found.avg, found.ff, found.bwt, found.fwt))


def test_a_task_without_defined_scores_is_left_out_and_never_a_zero():
    holes = [[None, 0.5, 0.1], [None, 0.7, 0.3], [None, 0.75, 0.4]]
    images = task_weights("images", IMAGES, MASKS)
    assert running(holes, images) == pytest.approx([math.nan, 0.7, (22.5 + 24) / 90], nan_ok=True)
    assert average(holes, images) == pytest.approx((0.7 + 46.5 / 90) / 2)
    assert mean_forgetting(holes, "paper") == pytest.approx(-0.05)


def test_an_undefined_row_does_not_hide_the_best_one():
    holes = [[0.8, 0.1, 0.1], [math.nan, 0.7, 0.3], [0.6, 0.75, 0.4]]
    assert forgetting_by_task(holes, "paper") == pytest.approx([0.2, -0.05])


def test_wrong_shapes_and_names_are_errors():
    with pytest.raises(ValueError, match="shape"):
        last([[0.1, 0.2], [0.1, 0.2], [0.1, 0.2]], [1, 1])
    with pytest.raises(ValueError, match="weights"):
        last(R, [1, 1])
    with pytest.raises(ValueError, match="unknown forgetting"):
        mean_forgetting(R, "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown weight"):
        task_weights("pixels", IMAGES, MASKS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        forward_transfer(R, [0.1])
    with pytest.raises(ValueError, match="counts"):
        task_weights("images", [1], [1, 2])


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    tasks = draw(st.integers(1, 6))
    scores = st.floats(0, 1, width=32)
    return np.array(draw(st.lists(scores, min_size=tasks**2, max_size=tasks**2))).reshape(tasks, tasks)


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_relations_between_the_variants(matrix: np.ndarray):
    by = {name: forgetting_by_task(matrix, name) for name in ("paper", "mammoth", "avalanche")}
    assert (by["mammoth"] >= 0).all()
    assert (by["mammoth"] >= by["paper"]).all()
    assert (by["paper"] >= by["avalanche"]).all()
    assert np.array_equal(by["mammoth"], np.maximum(by["paper"], 0))
    if len(matrix) > 1:
        assert backward_transfer(matrix) == -mean_forgetting(matrix, "avalanche")


@settings(max_examples=60, deadline=None)
@given(matrices(), st.randoms(use_true_random=False))
def test_an_expert_a_task_never_forgets_and_its_last_is_the_same_in_every_order(matrix, random):
    scores = matrix[0]
    tasks = len(scores)
    weights = np.arange(1, tasks + 1, dtype=float)
    frozen = np.tile(scores / 2, (tasks, 1))
    experts = np.where(np.tri(tasks, dtype=bool), scores, frozen)
    order = random.sample(range(tasks), tasks)
    shuffled = np.where(np.tri(tasks, dtype=bool), scores[order], frozen[:, order])
    assert last(shuffled, weights[order]) == pytest.approx(last(experts, weights), abs=1e-12)
    if tasks > 1:
        assert mean_forgetting(shuffled, "paper") == 0
        assert forward_transfer(shuffled, frozen[0][order]) == 0


@settings(max_examples=40, deadline=None)
@given(matrices(), st.floats(0.1, 10))
def test_weights_matter_only_by_their_ratios(matrix: np.ndarray, factor: float):
    weights = np.arange(1, len(matrix) + 1, dtype=float)
    assert running(matrix, weights * factor) == pytest.approx(running(matrix, weights))
    assert running(matrix, weights).max() <= matrix.max() + 1e-9


@pytest.mark.parametrize("forgetting", ["paper", "mammoth", "avalanche"])
def test_where_low_scores_are_better_to_rise_is_to_forget(forgetting):
    distances = 10 - 10 * np.array(R)
    told = {"images": IMAGES, "masks": MASKS, "forgetting": forgetting}
    high = summarise(R, frozen=[0.1, 0.2, 0.3], **told)
    low = summarise(distances, frozen=[9, 8, 7], better="low", **told)
    assert low.last == pytest.approx(10 - 10 * high.last)
    assert low.avg == pytest.approx(10 - 10 * high.avg)
    assert (low.ff, low.bwt, low.fwt) == pytest.approx((10 * high.ff, 10 * high.bwt, 10 * high.fwt))
    assert low.ff > 0
