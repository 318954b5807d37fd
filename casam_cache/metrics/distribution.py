"""Distances between two feature distributions: total variation and Jensen-Shannon (appendix E, equations 13-14).

The paper does not say how its histograms were made. Here, by default: one histogram a channel, over equal bins between
the smallest and the largest value that either set has in that channel; the distance is computed in each channel and
averaged. `over="values"` is one histogram of all values of all channels instead. Both sets are read twice (ranges, then
counts) and never held at once.

Total variation bounds the divergence: JS <= TV * ln 2 in nats, JS <= TV in bits. The paper's 0.2398 beside 0.2830 is
more than nats allow (0.1962); a divergence in bits, or the square root that some libraries return, would fit. So all
three are here, each under its name, and equation 14 with the natural logarithm is `js`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Over = Literal["channels", "values"]


@dataclass(frozen=True)
class Distance:
    """How far two distributions are apart.

    Attributes:
        tv: equation 13, in [0, 1].
        js: equation 14 in nats, in [0, ln 2].
        js_bits: the same with base 2, in [0, 1].
        js_root: mean of the square roots of the divergences in nats (the metric called Jensen-Shannon distance).
    """

    tv: float
    js: float
    js_bits: float
    js_root: float


def feature_distance(
    first: Iterable[np.ndarray], second: Iterable[np.ndarray], *, bins: int = 256, over: Over = "channels"
) -> Distance:
    """TV and JS between two sets of features.

    Args:
        first: batches (n, C, ...) of real features; anything that can be iterated twice.
        second: the other set; batches of any size with the same C.
        bins: of each histogram.
        over: `channels` averages the distances of the channels; `values` makes one histogram of everything.

    Raises:
        ValueError: for different numbers of channels, an empty set, a value that is not finite, fewer than one bin, or
            batches that can be read only once.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins")
    for batches in (first, second):
        if iter(batches) is batches:
            raise ValueError(
                "the features are read twice: give a list, or an object that can be iterated again"
            )
    low, high = _common_range(first, second, over)
    p, q = (_shares(batches, low, high, bins, over) for batches in (first, second))
    nats = jensen_shannon(p, q)
    return Distance(
        tv=float(total_variation(p, q).mean()),
        js=float(nats.mean()),
        js_bits=float(nats.mean() / math.log(2)),
        js_root=float(np.sqrt(nats).mean()),
    )


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Equation 13 along the last axis: half the sum of |P - Q|.

    Args:
        p: distributions (..., bins) that sum to 1.
        q: the others, of the same shape.
    """
    return 0.5 * np.abs(p - q).sum(axis=-1)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Equation 14 along the last axis, in nats; 0 log 0 is 0, and never negative by rounding.

    Args:
        p: distributions (..., bins) that sum to 1.
        q: the others, of the same shape.
    """
    middle = 0.5 * (p + q)
    return np.maximum(0.5 * (_kl(p, middle) + _kl(q, middle)), 0.0)


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)  # where p > 0, q = (p + other) / 2 > 0
    return (p * np.log(ratio)).sum(axis=-1)


def _rows(batch: np.ndarray, over: Over) -> np.ndarray:
    """Values by histogram: (C, n * ...), or (1, everything)."""
    values = np.asarray(batch, dtype=np.float64)
    if values.ndim < 2:
        raise ValueError(f"a batch of shape {values.shape}: (n, C, ...) is needed")
    if not np.isfinite(values).all():
        raise ValueError("the features hold a value that is not finite")
    return (
        values.reshape(1, -1) if over == "values" else np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    )


def _common_range(
    first: Iterable[np.ndarray], second: Iterable[np.ndarray], over: Over
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each histogram over both sets."""
    lows: list[np.ndarray] = []
    highs: list[np.ndarray] = []
    for batches in (first, second):
        before = len(lows)
        for batch in batches:
            rows = _rows(batch, over)
            if rows.size:
                lows.append(rows.min(axis=1))
                highs.append(rows.max(axis=1))
        if len(lows) == before:
            raise ValueError("an empty set of features has no distribution")
    if len({len(low) for low in lows}) > 1:
        raise ValueError(f"features of different numbers of channels: {sorted({len(low) for low in lows})}")
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _shares(
    batches: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray, bins: int, over: Over
) -> np.ndarray:
    """Share of the values in each bin, (histograms, bins); a channel that is constant has all in its first bin."""
    counts = np.zeros((len(low), bins))
    width = np.where(high > low, high - low, 1.0)
    offset = np.arange(len(low))[:, None] * bins
    for batch in batches:
        rows = _rows(batch, over)
        index = np.minimum(((rows - low[:, None]) / width[:, None] * bins).astype(np.int64), bins - 1)
        counts += np.bincount((index + offset).ravel(), minlength=counts.size).reshape(counts.shape)
    return counts / counts.sum(axis=1, keepdims=True)
