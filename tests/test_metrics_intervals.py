"""Intervals and p-values of means over masks, by groups."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from casam_cache.metrics.intervals import difference_interval, mean_interval


def grouped(groups: int, per_group: int, spread: float, seed: int = 3) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0.5, spread, groups)
    values = np.repeat(centres, per_group) + rng.normal(0, 0.01, groups * per_group)
    return values, [f"patient {i}" for i in range(groups) for _ in range(per_group)]


@pytest.mark.parametrize(
    ("groups", "rel"),
    [(3, 1e-9), (5, 1e-9), (40, 0.1), (200, 0.1), (300, 1e-9)],
    ids=["t", "t", "flips", "flips", "t"],
)
def test_groups_of_one_size_have_the_t_interval_of_their_means(groups: int, rel: float) -> None:
    values, names = grouped(groups, 25, spread=0.1)
    found = mean_interval(values, names)
    means = values.reshape(groups, 25).mean(1)
    low, high = stats.t.interval(0.95, groups - 1, means.mean(), stats.sem(means))
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(high - low, rel=rel)
    assert (found.values, found.groups, found.undefined) == (groups * 25, groups, 0)
    if rel < 0.01:
        shifted = difference_interval(values, np.full(len(values), 0.45), names)
        assert shifted.p == pytest.approx(stats.ttest_1samp(means, 0.45).pvalue, rel=1e-9)


def test_the_interval_holds_what_the_sign_flip_test_does_not_reject() -> None:
    """Against the test carried out by hand at values on both sides of both ends, with groups of unequal sizes."""
    rng = np.random.default_rng(1)
    sizes = [1, 2, 3, 5, 8, 13, 1]
    names = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    values = np.concatenate([rng.normal(rng.normal(0.3, 0.5), 0.2, size) for size in sizes])
    found = mean_interval(values, names)

    def p_of(shift: float) -> float:
        sums = np.array([(values[[n == f"g{i}" for n in names]] - shift).sum() for i in range(len(sizes))])
        flipped = [abs(sums @ np.array(signs)) for signs in itertools.product([1, -1], repeat=len(sums))]
        return float(np.mean(np.array(flipped) >= abs(sums.sum()) - 1e-12))

    for inside in (found.low + 1e-6, found.mean, found.high - 1e-6):
        assert p_of(inside) > 0.05
    for outside in (found.low - 1e-6, found.high + 1e-6):
        assert p_of(outside) <= 0.05
    assert found.p == pytest.approx(p_of(0.0))


def test_masks_of_one_group_are_one_observation() -> None:
    values, groups = grouped(40, 25, spread=0.1)
    by_group = mean_interval(values, groups)
    by_mask = mean_interval(values, [str(i) for i in range(len(values))])
    assert by_mask.high - by_mask.low < 0.5 * (by_group.high - by_group.low)


@pytest.mark.parametrize("groups", [4, 7, 30, 90, 300])
def test_p_is_below_five_percent_exactly_where_the_interval_leaves_zero_out(groups: int) -> None:
    seen = set()
    for seed in range(60):
        values, names = grouped(groups, 3, spread=0.3, seed=seed)
        found = mean_interval(values - 0.5 + 0.25 * (seed % 3 - 1), names)
        assert (found.p <= 0.05) == (not found.low <= 0 <= found.high)
        seen.add(found.p <= 0.05)
    assert seen == {True, False}


def test_difference_interval_and_p_have_one_sign() -> None:
    """Four groups of 25 masks at +0.1 and 20 single masks at -0.1: over masks the first is better, and not surely."""
    values = [0.1] * 100 + [-0.1] * 20
    groups = [f"a{i // 25}" for i in range(100)] + [f"b{i}" for i in range(20)]
    found = difference_interval(values, np.zeros(120), groups)
    assert found.mean == pytest.approx(8 / 120)
    assert found.low < 0 < found.mean < found.high
    assert found.p > 0.05


def test_tasks_are_weighted_and_how_they_differ_is_no_uncertainty() -> None:
    easy, names = grouped(20, 5, spread=0.02)
    hard = easy - 0.4
    tasks = ["easy"] * 100 + ["hard"] * 100
    groups = [*names, *(f"hard {name}" for name in names)]
    both = np.concatenate([easy, hard])
    found = mean_interval(both, groups, tasks=tasks)
    assert found.mean == pytest.approx(both.mean())
    alone = mean_interval(easy, names)
    assert found.high - found.low < (alone.high - alone.low) * 0.85
    weighted = mean_interval(both, groups, tasks=tasks, weights={"easy": 3, "hard": 1, "not there": 5})
    assert weighted.mean == pytest.approx(0.75 * easy.mean() + 0.25 * hard.mean())
    assert weighted.groups == 40


def test_many_pairs_can_be_told_apart() -> None:
    """p is small enough for Holm over all pairs of twenty configurations, with groups flipped or not."""
    for groups in (16, 64, 100):
        values, names = grouped(groups, 3, spread=0.01)
        assert mean_interval(values, names).p * 190 < 0.05


def test_the_order_of_rows_does_not_matter() -> None:
    for groups in (6, 20):
        values, names = grouped(groups, 4, spread=0.1)
        order = np.random.default_rng(0).permutation(len(values))
        first = mean_interval(values, names)
        second = mean_interval(values[order], [names[i] for i in order])
        assert (first.low, first.high, first.p) == pytest.approx((second.low, second.high, second.p))


def test_paired_difference_ignores_what_both_share() -> None:
    for groups in (4, 20, 100):
        values, names = grouped(groups, 5, spread=0.2)
        found = difference_interval(values + 0.05, values, names)
        assert found.mean == pytest.approx(0.05)
        assert found.high - found.low < 1e-9
        assert found.p <= 0.05
        same = difference_interval(values, values, names)
        assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_undefined_values_are_left_out_and_counted() -> None:
    found = mean_interval([0.2, math.nan, 0.4], ["a", "b", "c"])
    assert found.mean == pytest.approx(0.3)
    assert (found.values, found.groups, found.undefined) == (2, 2, 1)


@pytest.mark.parametrize(
    ("values", "groups", "tasks"),
    [
        ([0.3, 0.5], "aa", None),
        ([0.3, 0.5, 0.7], "aab", None),
        ([math.nan, 0.4], "ab", None),
        ([math.nan, math.nan], "ab", None),
        ([0.1, 0.2, 0.3, 0.4, 0.5], "abcde", "ttttu"),
    ],
    ids=["one group", "two groups", "one left", "nothing", "a task of one group"],
)
def test_too_few_groups_have_no_interval(values: list[float], groups: str, tasks: str | None) -> None:
    found = mean_interval(values, list(groups), tasks=None if tasks is None else list(tasks))
    assert all(math.isnan(each) for each in (found.low, found.high, found.p))
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["low"] is None


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="groups"):
        mean_interval([0.1], [])
    with pytest.raises(ValueError, match="paired"):
        difference_interval([0.1], [0.1, 0.2], ["a"])
