"""Comparing methods honestly: over the runs of one method, and many pairs of methods at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.metrics.intervals import LEAST_FREEDOM


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: over the runs with a defined value; NaN where there are none.
        half: half width of the interval; NaN where there are too few seeds and orders for one.
        runs: runs that entered.
        seeds: distinct seeds among them.
        orders: distinct orders among them.
        undefined: runs left out because their value is NaN.
        values: of the runs that entered, in their order.
    """

    mean: float
    half: float
    runs: int
    seeds: int
    orders: int
    undefined: int
    values: tuple[float, ...] = ()


def over_runs(
    values: Sequence[float | None],
    seeds: Sequence[Hashable],
    orders: Sequence[Hashable],
    *,
    level: float = 0.95,
) -> Estimate:
    """The mean over runs and its interval over seeds and orders.

    Runs of one seed share initial weights and runs of one order share the path, so runs are not independent. The
    variance of the mean is that of the means by seed plus that of the means by order, each over their number, as far as
    there are several; the t-interval has Satterthwaite's degrees of freedom. Below two (two orders of one seed) there
    is none: its half width would be thirteen times the standard error, which says nothing. Neither is there one where
    all runs have the same value: what does not depend on the order says nothing of seeds by not varying with it.

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
    by_seed, by_order = (
        _means_by([unit for unit, known in zip(units, finite, strict=True) if known], kept)
        for units in (seeds, orders)
    )
    varied = float(np.ptp(kept)) > 0
    half = _t_half([means for means in (by_seed, by_order) if len(means) > 1], level) if varied else math.nan
    return Estimate(
        float(kept.mean()), half, len(kept), len(by_seed), len(by_order), len(column) - len(kept),
        tuple(kept.tolist()),
    )  # fmt: skip


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


def _t_half(parts: Sequence[np.ndarray], level: float) -> float:
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    variances = [float(means.var(ddof=1)) / len(means) for means in parts]
    total = sum(variances)
    if total == 0:
        return 0.0 if sum(len(means) - 1 for means in parts) >= LEAST_FREEDOM else math.nan
    spread = sum(own**2 / (len(means) - 1) for own, means in zip(variances, parts, strict=True))
    freedom = total**2 / spread
    if freedom < LEAST_FREEDOM * (1 - 1e-9):
        return math.nan
    return math.sqrt(total) * float(stdtrit(freedom, (1 + level) / 2))
