"""Intervals of a mean over masks, from resampling groups (patients, slides), not masks.

Masks of one patient resemble each other: resampling masks would give intervals that are too narrow. So whole
groups are drawn with replacement and the percentiles of the resampled means are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.fingerprint import generator


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: mean over the finite values; NaN where there are none.
        low, high: percentile interval; NaN where fewer than two groups have a finite value, since one group
            says nothing about how groups differ.
        values: finite values that entered.
        groups: groups they came from.
        undefined: values left out because they are NaN.
    """

    mean: float
    low: float
    high: float
    values: int
    groups: int
    undefined: int

    def to_json(self) -> dict[str, float | int | None]:
        """Plain JSON data, null for NaN."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {**finite, "values": self.values, "groups": self.groups, "undefined": self.undefined}


def mean_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The mean of `values` and its interval from resampling `groups`.

    Args:
        values: one number a mask; NaN entries are left out and counted.
        groups: the group of each value.
        seed: of the resampling; the draw depends on it and on the sorted group names only, so that columns
            over the same groups (IoU and Dice, two heads) are resampled alike.
        resamples: bootstrap samples.
        level: coverage, in (0, 1).

    Raises:
        ValueError: for columns of different length.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) != len(groups):
        raise ValueError(f"{len(column)} values for {len(groups)} groups")
    finite = np.isfinite(column)
    kept = column[finite]
    if not len(kept):
        return Interval(math.nan, math.nan, math.nan, 0, 0, len(column))
    names, member = np.unique(np.asarray(groups, dtype=str)[finite], return_inverse=True)
    mean = float(kept.mean())
    low, high = math.nan, math.nan
    if len(names) > 1:
        sums = np.bincount(member, weights=kept, minlength=len(names))
        counts = np.bincount(member, minlength=len(names)).astype(np.float64)
        means = _resampled_means(sums, counts, [str(name) for name in names], seed, resamples)
        low, high = (float(edge) for edge in np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(mean, low, high, len(kept), len(names), len(column) - len(kept))


def difference_interval(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The mean of `first - second` over the same masks, paired, with its interval from resampling `groups`.

    A pair with a NaN on either side is left out and counted. Arguments and errors as `mean_interval`.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired columns of lengths {len(a)} and {len(b)}")
    return mean_interval(a - b, groups, seed=seed, resamples=resamples, level=level)


def _resampled_means(
    sums: np.ndarray, counts: np.ndarray, names: list[str], seed: int, resamples: int
) -> np.ndarray:
    """Means (resamples,) over groups drawn with replacement, from per-group sums and counts."""
    rng = generator(seed, "bootstrap", *names)
    total = len(names)
    means = np.empty(resamples)
    step = max(1, 10_000_000 // total)  # bounds the table of draws at 80 MB
    for start in range(0, resamples, step):
        stop = min(resamples, start + step)
        drawn = rng.integers(0, total, size=(stop - start, total))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means
