"""Intervals of a mean over masks whose unit is the group (patient, slide), and the p-value of the same procedure.

Masks of one patient resemble each other, so a mask is no observation of its own: what was drawn independently is the
group. What is estimated is the mean that stands in the table: over masks, or over tasks of means over masks. Interval
and p are of that one number, and p is below 5 % exactly where the interval leaves zero out.

- One task with 6 to 256 groups: the values that a sign-flip test of the groups does not reject (Hartigan 1969, "Using
  subsample values as typical values", JASA 64). It assumes nothing but symmetry, holds for groups of any sizes, and is
  exact up to 12 groups. Fewer than six have too few sign patterns to reject anything at 5 %.
- Otherwise, and over several tasks: Student's t with the cluster-robust variance CR2 and the degrees of freedom of Bell
  and McCaffrey (2002), tasks' variances added up by Satterthwaite.
- With fewer than two degrees of freedom (two groups), or a task of a single group: none. Two patients do not say how
  far a third may be.

`benchmarks/interval_coverage.py` measures how often the interval holds the true value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from casam_cache.fingerprint import generator

FEWEST_TO_FLIP, MOST_TO_FLIP, ENUMERATED = 6, 256, 12
FLIPS = 20_000
LEAST_FREEDOM = 2.0
_NONE = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: mean over the finite values; NaN where there are none.
        low, high: its interval; NaN where the groups are too few for one.
        values: finite values that entered.
        groups: groups they came from.
        undefined: values left out because they are NaN.
        p: two-sided p of a mean of zero, by the same procedure; NaN where there is no interval.
    """

    mean: float
    low: float
    high: float
    values: int
    groups: int
    undefined: int
    p: float = math.nan

    def text(self, percent: bool, sign: str = "") -> str:
        """`71.2 [68.0, 74.1]`; only the mean where there is no interval, a dash where that is undefined.

        Args:
            percent: of a share: times 100.
            sign: of the mean, as in a format: `+` shows it always.
        """
        if math.isnan(self.mean):
            return "-"
        mean, low, high = ((100 if percent else 1) * value for value in (self.mean, self.low, self.high))
        return f"{mean:{sign}.1f}" + ("" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]")

    def within(self, least: float, most: float) -> Interval:
        """The same, its ends no further than what the values can be: a mean of shares is a share."""
        return replace(self, low=max(self.low, least), high=min(self.high, most))

    def to_json(self) -> dict[str, float | int | None]:
        """Plain JSON data, null for NaN."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high, "p": self.p}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {**finite, "values": self.values, "groups": self.groups, "undefined": self.undefined}


def mean_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    *,
    tasks: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> Interval:
    """The mean of `values` and its interval.

    Args:
        values: one number a mask; NaN entries are left out and counted.
        groups: the group of each value; names of different tasks must differ.
        tasks: the task of each value, to weigh tasks; without it the mean is over all values alike.
        weights: of the tasks' means, of any scale; all alike without it. A task without a finite value has none.
        level: coverage, in (0, 1).

    Raises:
        ValueError: for columns of different length.
    """
    column = np.asarray(values, dtype=np.float64)
    named = ["" for _ in groups] if tasks is None else list(tasks)
    if column.ndim != 1 or not len(column) == len(groups) == len(named):
        raise ValueError(f"{len(column)} values for {len(groups)} groups and {len(named)} tasks")
    finite = np.isfinite(column)
    kept = column[finite]
    undefined = len(column) - len(kept)
    if not len(kept):
        return Interval(math.nan, math.nan, math.nan, 0, 0, undefined)
    of_task = np.asarray(named, dtype=str)[finite]
    of_group = np.asarray(groups, dtype=str)[finite]
    present = sorted(set(of_task.tolist()))
    shares = np.array([1.0 if weights is None else float(weights[task]) for task in present])
    strata = [
        _Stratum.of(kept[of_task == task], of_group[of_task == task], share)
        for task, share in zip(present, shares / shares.sum(), strict=True)
    ]
    mean = float(sum(stratum.share * stratum.mean for stratum in strata))
    flipped = len(strata) == 1 and FEWEST_TO_FLIP <= len(strata[0].sums) <= MOST_TO_FLIP
    low, high, p = _by_flips(strata[0], level) if flipped else _by_t(mean, strata, level)
    count = sum(len(stratum.sums) for stratum in strata)
    return Interval(mean, low, high, len(kept), count, undefined, p)


def difference_interval(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    *,
    tasks: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> Interval:
    """The mean of `first - second` over the same masks, paired, with its interval and p.

    A pair with a NaN on either side is left out and counted. Arguments and errors as `mean_interval`.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired columns of lengths {len(a)} and {len(b)}")
    return mean_interval(a - b, groups, tasks=tasks, weights=weights, level=level)


@dataclass(frozen=True)
class _Stratum:
    """One task's groups, in sorted order of their names so that the order of rows does not matter.

    Attributes:
        sums, counts: of each group's values (G,).
        share: weight of the task's mean; those of all tasks add up to 1.
    """

    sums: np.ndarray
    counts: np.ndarray
    share: float

    @classmethod
    def of(cls, values: np.ndarray, groups: np.ndarray, share: float) -> _Stratum:
        names, member = np.unique(groups, return_inverse=True)
        sums = np.bincount(member, weights=values, minlength=len(names))
        return cls(sums, np.bincount(member, minlength=len(names)).astype(np.float64), share)

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())

    def variance(self) -> tuple[float, float]:
        """CR2 variance of the task's mean and its degrees of freedom; NaN with a single group.

        With p_g a group's share of the masks and d_g the distance of its mean from the task's, the variance is the sum
        of (p_g d_g)^2 / (1 - p_g). The degrees of freedom are (trace B)^2 / trace(B^2), where B is the covariance of
        the p_g d_g / sqrt(1 - p_g) were masks independent.
        """
        p = self.counts / self.counts.sum()
        if len(p) < 2:
            return math.nan, math.nan
        scale = p / np.sqrt(1 - p)
        distances = self.sums / self.counts - self.mean
        covariance = np.outer(scale, scale) * (
            np.diag(1 / p) - 1
        )  # of group means around the task's, times masks
        freedom = np.trace(covariance) ** 2 / float((covariance**2).sum())
        return float(((scale * distances) ** 2).sum()), float(freedom)


def _by_t(mean: float, strata: Sequence[_Stratum], level: float) -> tuple[float, float, float]:
    from scipy.special import stdtr, stdtrit  # scipy.stats takes seconds to import

    parts = [(stratum.share, *stratum.variance()) for stratum in strata if stratum.share]
    variance = sum(share**2 * own for share, own, _ in parts)
    if math.isnan(variance):
        return _NONE
    if variance == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    freedom = variance**2 / sum((share**2 * own) ** 2 / freedom for share, own, freedom in parts)
    if freedom < LEAST_FREEDOM * (1 - 1e-9):
        return _NONE
    error = math.sqrt(variance)
    half = error * float(stdtrit(freedom, (1 + level) / 2))
    return mean - half, mean + half, float(2 * stdtr(freedom, -abs(mean) / error))


def _by_flips(stratum: _Stratum, level: float) -> tuple[float, float, float]:
    """What a two-sided sign-flip test does not reject.

    A group contributes c = sum / masks to the mean T, and a = count / masks of a value t taken off every mask. A
    pattern of signs gives C = sum of +-c and A = sum of +-a; it is as extreme as what was seen, |C - t A| >= |T - t|,
    for t between (T - C) / (1 - A) and (T + C) / (1 + A), which hold T between them. p of t is the share of patterns
    whose span holds t, so the interval's ends are order statistics of the spans' ends.
    """
    total = stratum.counts.sum()
    contributions, shares = stratum.sums / total, stratum.counts / total
    mean = float(contributions.sum())
    signs = _signs(len(shares))
    flipped, kept = contributions @ signs, shares @ signs
    all_alike = np.abs(kept) > 1 - 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(mean - flipped) / (1 - kept), (mean + flipped) / (1 + kept)])
    low = np.where(all_alike, -np.inf, np.minimum(ends.min(axis=0), mean))
    high = np.where(all_alike, np.inf, np.maximum(ends.max(axis=0), mean))
    rejected = math.floor((1 - level) * len(low) + 1e-9)
    edge = 1e-12 * float(np.abs(stratum.sums / stratum.counts).max())
    p = float(((low <= edge) & (high >= -edge)).mean())
    return float(np.sort(low)[rejected]), float(np.sort(high)[-1 - rejected]), p


@lru_cache(maxsize=4)
def _signs(groups: int) -> np.ndarray:
    """Patterns of signs (groups, patterns): all where those are few, else FLIPS drawn ones, no sign flipped first."""
    if groups <= ENUMERATED:
        return np.array(np.meshgrid(*[[1.0, -1.0]] * groups)).reshape(groups, -1)
    signs = generator(0, "sign flip", groups).integers(0, 2, size=(groups, FLIPS)) * 2.0 - 1.0
    signs[:, 0] = 1.0
    return signs
