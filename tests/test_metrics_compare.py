"""Intervals over runs, and paired tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from casam_cache.metrics.compare import average_columns, holm, over_runs


def test_mean_over_orders_with_its_t_interval():
    found = over_runs([0.5, 0.6, 0.7], [0, 0, 0], [("a", "b"), ("b", "a"), ("c",)])
    assert found.mean == pytest.approx(0.6)
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t of 97.5 % with 2 degrees
    assert (found.runs, found.seeds, found.orders, found.undefined) == (3, 1, 3, 0)


def test_runs_of_one_seed_are_not_independent():
    values, seeds, orders = (
        [0.5, 0.5, 0.5, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6],
        [0] * 3 + [1] * 3 + [2] * 3,
        [1, 2, 3] * 3,
    )
    found = over_runs(values, seeds, orders)
    by_seed = over_runs([0.5, 0.7, 0.6], [0, 1, 2], [1, 1, 1])
    assert found.half == pytest.approx(by_seed.half)
    assert found.half > over_runs(values, list(range(9)), [1] * 9).half


def test_variances_of_seeds_and_orders_add_up():
    """Both of variance 0.01 / 3: Satterthwaite's degrees of freedom are those of both, 4."""
    values = [0.6 + 0.1 * seed + 0.1 * order for seed in (-1, 0, 1) for order in (-1, 0, 1)]
    found = over_runs(values, [seed for seed in range(3) for _ in range(3)], list(range(3)) * 3)
    assert found.half == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(2 * 0.01 / 3))


def test_two_orders_or_one_run_have_no_interval_but_their_values():
    two = over_runs([0.5551, 0.7225], [0, 0], [1, 2])
    assert math.isnan(two.half)
    assert two.values == (0.5551, 0.7225)
    assert math.isnan(over_runs([0.6, 0.6], [0, 0], [1, 2]).half)
    assert math.isnan(over_runs([0.6, 0.6, 0.6], [0, 0, 0], [1, 2, 3]).half), "the same in every order"
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


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.9])[0] == 1.0
    assert math.isnan(holm([0.5, math.nan])[1])


def test_runs_are_averaged_mask_by_mask():
    assert average_columns([[0.2, 0.4], [0.4, 0.8]]) == pytest.approx([0.3, 0.6])
    assert np.isnan(average_columns([[0.2, math.nan], [0.4, 0.8]])).tolist() == [False, True]
    with pytest.raises(ValueError, match="same masks"):
        average_columns([[0.1], [0.1, 0.2]])
