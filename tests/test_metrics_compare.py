"""Intervals over runs, and paired tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from casam_cache.metrics.compare import average_columns, compare, holm, over_runs


def test_mean_over_orders_with_its_t_interval():
    found = over_runs([0.5, 0.6, 0.7], [0, 0, 0], [("a", "b"), ("b", "a"), ("c",)])
    assert found.mean == pytest.approx(0.6)
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t of 97.5 % with 2 degrees
    assert (found.runs, found.seeds, found.orders, found.undefined) == (3, 1, 3, 0)


def test_runs_of_one_seed_are_not_independent():
    values, seeds, orders = [0.5, 0.5, 0.5, 0.7, 0.7, 0.7], [0, 0, 0, 1, 1, 1], [1, 2, 3, 1, 2, 3]
    found = over_runs(values, seeds, orders)
    by_seed = over_runs([0.5, 0.7], [0, 1], [1, 1])
    assert found.half == pytest.approx(by_seed.half)
    assert found.half > over_runs(values, list(range(6)), [1] * 6).half


def test_equal_values_in_all_orders_have_width_zero_and_one_run_has_none():
    assert over_runs([0.6, 0.6], [0, 0], [1, 2]).half == 0
    alone = over_runs([0.6], [0], [1])
    assert alone.mean == 0.6
    assert math.isnan(alone.half)


def test_undefined_runs_are_counted():
    found = over_runs([None, 0.4, math.nan, 0.6], [0, 1, 2, 3], [0] * 4)
    assert (found.mean, found.runs, found.seeds, found.undefined) == (0.5, 2, 2, 2)
    nothing = over_runs([None], [0], [0])
    assert math.isnan(nothing.mean)
    assert (nothing.runs, nothing.undefined) == (0, 1)
    with pytest.raises(ValueError, match="1 values for 2 seeds"):
        over_runs([0.5], [0, 1], [0])


def test_sign_flip_by_hand():
    # group means 1, 2, 3: of the 8 patterns only +++ and --- reach |sum| = 6
    found = compare([1, 2, 2, 3], [0, 0, 0, 0], ["a", "b", "b", "c"])
    assert found.sign_flip == pytest.approx(2 / 8)
    assert found.groups == 3
    assert found.difference.mean == 2


def test_many_groups_agree_with_scipy():
    rng = np.random.default_rng(0)
    first = rng.normal(0.5, 0.1, 40)
    second = first - rng.normal(0.02, 0.05, 40)
    groups = [f"g{i}" for i in range(40)]
    found = compare(first, second, groups, resamples=4000)
    reference = stats.permutation_test(
        (first - second,), np.mean, permutation_type="samples", n_resamples=4000, rng=1
    ).pvalue
    assert found.sign_flip == pytest.approx(reference, abs=0.02)
    assert compare(first, second, groups, resamples=4000) == found


def test_masks_of_one_group_are_one_observation():
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 0.1, 6)
    difference = np.repeat(centres, 50)
    by_group = compare(difference, np.zeros(300), [f"g{i // 50}" for i in range(300)])
    by_mask = compare(difference, np.zeros(300), [str(i) for i in range(300)])
    assert by_group.groups == 6
    assert by_group.sign_flip > by_mask.sign_flip


def test_order_of_masks_does_not_matter():
    rng = np.random.default_rng(2)
    values, groups = rng.normal(0.1, 1, 30), [f"g{i % 15:02}" for i in range(30)]
    shuffled = rng.permutation(30)
    one = compare(values, np.zeros(30), groups)
    other = compare(values[shuffled], np.zeros(30), [groups[i] for i in shuffled])
    assert one.sign_flip == pytest.approx(other.sign_flip)


def test_no_difference_one_group_and_nothing():
    same = compare([0.5, 0.6], [0.5, 0.6], ["a", "b"])
    assert same.sign_flip == 1
    assert math.isnan(compare([0.5, 0.6], [0.4, 0.4], ["a", "a"]).sign_flip)
    empty = compare([math.nan], [0.4], ["a"])
    assert (empty.groups, empty.difference.undefined) == (0, 1)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.9])[0] == 1.0
    assert math.isnan(holm([0.5, math.nan])[1])


def test_runs_are_averaged_mask_by_mask():
    assert average_columns([[0.2, 0.4], [0.4, 0.8]]) == pytest.approx([0.3, 0.6])
    assert np.isnan(average_columns([[0.2, math.nan], [0.4, 0.8]])).tolist() == [False, True]
    with pytest.raises(ValueError, match="same masks"):
        average_columns([[0.1], [0.1, 0.2]])
