"""Bootstrap intervals over groups."""

import json
import math

import numpy as np
import pytest

from casam_cache.metrics.intervals import difference_interval, mean_interval


def grouped(groups: int, per_group: int, spread: float) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(3)
    centres = rng.normal(0.5, spread, groups)
    values = np.repeat(centres, per_group) + rng.normal(0, 0.01, groups * per_group)
    return values, [f"patient {i}" for i in range(groups) for _ in range(per_group)]


def test_interval_contains_the_mean_and_has_the_width_of_the_group_means():
    values, groups = grouped(40, 25, spread=0.1)
    found = mean_interval(values, groups)
    assert found.mean == pytest.approx(values.mean())
    assert found.low < found.mean < found.high
    standard_error = values.reshape(40, 25).mean(1).std() / math.sqrt(40)
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert (found.values, found.groups, found.undefined) == (1000, 40, 0)


def test_resampling_masks_instead_of_groups_would_be_narrower():
    values, groups = grouped(40, 25, spread=0.1)
    by_group = mean_interval(values, groups)
    by_mask = mean_interval(values, [str(i) for i in range(len(values))])
    assert by_mask.high - by_mask.low < 0.5 * (by_group.high - by_group.low)


def test_same_seed_same_interval_whatever_the_order_of_rows():
    values, groups = grouped(6, 4, spread=0.1)
    order = np.random.default_rng(0).permutation(len(values))
    first = mean_interval(values, groups, seed=5)
    second = mean_interval(values[order], [groups[i] for i in order], seed=5)
    assert first.low == pytest.approx(second.low, abs=1e-12)
    assert first.high == pytest.approx(second.high, abs=1e-12)
    assert mean_interval(values, groups, seed=6).low != first.low


def test_groups_of_unequal_size_weigh_by_their_masks():
    found = mean_interval([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"])
    assert found.mean == 0.75
    assert (found.low, found.high) == (0.0, 1.0)


def test_paired_difference_ignores_what_both_share():
    values, groups = grouped(20, 5, spread=0.2)
    found = difference_interval(values + 0.05, values, groups)
    assert found.mean == pytest.approx(0.05)
    assert found.high - found.low < 1e-9


def test_undefined_values_are_left_out_and_counted():
    found = mean_interval([0.2, math.nan, 0.4], ["a", "b", "c"])
    assert found.mean == pytest.approx(0.3)
    assert (found.values, found.groups, found.undefined) == (2, 2, 1)


@pytest.mark.parametrize("values", [[0.3, 0.5], [math.nan, 0.4], [math.nan, math.nan]])
def test_one_group_or_none_has_no_interval(values):
    found = mean_interval(values, ["a", "a"])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["low"] is None


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="groups"):
        mean_interval([0.1], [])
    with pytest.raises(ValueError, match="paired"):
        difference_interval([0.1], [0.1, 0.2], ["a"])
