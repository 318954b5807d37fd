"""Comparing methods honestly: over the runs of one method, and between two methods on the same masks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.metrics.intervals import Interval, difference_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: over the runs with a defined value; NaN where there are none.
        half: half width of the interval; NaN where there is a single seed and a single order.
        runs: runs that entered.
        seeds: distinct seeds among them.
        orders: distinct orders among them.
        undefined: runs left out because their value is NaN.
    """

    mean: float
    half: float
    runs: int
    seeds: int
    orders: int
    undefined: int


def over_runs(
    values: Sequence[float | None],
    seeds: Sequence[Hashable],
    orders: Sequence[Hashable],
    *,
    level: float = 0.95,
) -> Estimate:
    """The mean over runs and its interval over seeds and orders.

    Runs of one seed share initial weights and runs of one order share the path, so runs are not independent. The
    interval is the wider of two t-intervals: of the means by seed, and of the means by order. Where there is a single
    seed (order), only the other one exists.

    Args:
        values: one a run; None and NaN are left out and counted.
        seeds: of each run.
        orders: of each run, e.g. tuples of tasks.
        level: coverage, in (0, 1).

    Raises:
        ValueError: for columns of different length.
    """
    column = np.asarray(values, dtype=np.float64)
    if not len(column) == len(seeds) == len(orders):
        raise ValueError(f"{len(column)} values for {len(seeds)} seeds and {len(orders)} orders")
    finite = np.isfinite(column)
    kept = column[finite]
    if not len(kept):
        return Estimate(math.nan, math.nan, 0, 0, 0, len(column))
    by = [
        _means_by([unit for unit, known in zip(units, finite, strict=True) if known], kept)
        for units in (seeds, orders)
    ]
    halves = [_t_half(means, level) for means in by if len(means) > 1]
    half = max(halves, default=math.nan)
    return Estimate(float(kept.mean()), half, len(kept), len(by[0]), len(by[1]), len(column) - len(kept))


@dataclass(frozen=True)
class Comparison:
    """One metric of two methods on the same masks.

    Attributes:
        difference: mean of first - second over the masks, with its bootstrap interval over groups.
        sign_flip: two-sided p of the sign-flip permutation test on the groups' mean differences; exact up to 12 groups.
        groups: groups that entered the test.
    """

    difference: Interval
    sign_flip: float
    groups: int


def compare(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Comparison:
    """Paired test of first - second: the group (patient, slide), not the mask, is what was drawn independently.

    Args:
        first: scores, one a mask.
        second: scores of the same masks; a pair with a NaN is left out and counted.
        groups: the group of each mask; names of different tasks must differ (`task/group`).
        seed: of the bootstrap and, with many groups, of the permutations.
        resamples: of both.
        level: coverage of the interval.

    Returns:
        The comparison; p is NaN with fewer than two groups.

    Raises:
        ValueError: for columns of different length.
    """
    difference = difference_interval(first, second, groups, seed=seed, resamples=resamples, level=level)
    column = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    finite = np.isfinite(column)
    names = [group for group, known in zip(groups, finite, strict=True) if known]
    means = (
        _means_by(sorted(names), column[finite][np.argsort(names, kind="stable")]) if names else np.zeros(0)
    )
    if len(means) < 2:
        return Comparison(difference, math.nan, len(means))
    return Comparison(difference, _sign_flip(means, seed, resamples), len(means))


def average_columns(columns: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """Mask by mask mean over the runs (seeds, orders) of one method; NaN where any run is NaN.

    Averaging first keeps a mask one observation: runs are not further patients.

    Raises:
        ValueError: for columns of different length, or none.
    """
    if not columns or len({len(column) for column in columns}) != 1:
        raise ValueError("columns over the same masks are needed")
    return np.mean([np.asarray(column, dtype=np.float64) for column in columns], axis=0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values for a family of tests; NaN stays NaN and does not count."""
    order = sorted((p, i) for i, p in enumerate(p_values) if math.isfinite(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[i] = largest
    return adjusted


def _means_by(units: Sequence[Hashable], values: np.ndarray) -> np.ndarray:
    """The mean of each unit's values, in order of first appearance."""
    member: dict[Hashable, int] = {}
    index = [member.setdefault(unit, len(member)) for unit in units]
    return np.bincount(index, weights=values) / np.bincount(index)


def _t_half(means: np.ndarray, level: float) -> float:
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    return error * float(stdtrit(len(means) - 1, (1 + level) / 2))


def _sign_flip(means: np.ndarray, seed: int, resamples: int) -> float:
    """Share of sign patterns whose |mean| is at least the one seen; exact for few groups."""
    if len(means) <= 12:
        patterns = np.array(np.meshgrid(*[[-1.0, 1.0]] * len(means))).reshape(len(means), -1)
        extreme = np.abs(means @ patterns) >= abs(means.sum()) * (1 - 1e-12)
        return float(extreme.mean())
    from casam_cache.fingerprint import generator

    rng = generator(seed, "sign flip", len(means))
    extreme_count, done = 0, 0
    while done < resamples:
        step = min(resamples - done, max(1, 5_000_000 // len(means)))  # bounds the table of signs at 40 MB
        signs = rng.integers(0, 2, size=(step, len(means))) * 2.0 - 1.0
        extreme_count += int((np.abs(signs @ means) >= abs(means.sum()) * (1 - 1e-12)).sum())
        done += step
    return (extreme_count + 1) / (resamples + 1)
