"""Distances between two feature distributions: total variation and Jensen-Shannon (appendix E, equations 13-14).

The paper does not say how its histograms were made. Here, by default: one histogram a channel; the distance is computed
in each channel and averaged. `over="values"` is one histogram of all values of all channels instead. All sets that are
to be compared share their bins, or their distances could not be: equal ones between the 0.1 and the 99.9 percentile of
all sets together, each counted alike, so that no single outlier stretches them; what lies beyond is in the first or the
last. Each set is read twice (ranges, then counts) and never held at once.

Total variation bounds the divergence: JS <= TV * ln 2 in nats, JS <= TV in bits. The paper's 0.2398 beside 0.2830 is
more than nats allow (0.1962); a divergence in bits, or the square root that some libraries return, would fit. So all
three are here, each under its name, and equation 14 with the natural logarithm is `js`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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


def feature_distances(
    reference: Iterable[np.ndarray],
    sides: Mapping[str, Iterable[np.ndarray]],
    *,
    bins: int = 256,
    over: Over = "channels",
) -> dict[str, Distance]:
    """TV and JS of some sets of features to one, by name, over bins that they all share.

    Args:
        reference: batches (n, C, ...) of real features; anything that can be iterated twice.
        sides: the other sets; batches of any size with the same C.
        bins: of each histogram.
        over: `channels` averages the distances of the channels; `values` makes one histogram of everything.

    Raises:
        ValueError: for different numbers of channels, an empty set, a value that is not finite, fewer than one bin, or
            batches that can be read only once.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins")
    every = [reference, *sides.values()]
    if any(iter(batches) is batches for batches in every):
        raise ValueError("the features are read twice: give a list, or an object that can be iterated again")
    low, high = _common_range(every, over)
    q = _shares(reference, low, high, bins, over)
    return {name: _distance(_shares(batches, low, high, bins, over), q) for name, batches in sides.items()}


def feature_distance(
    first: Iterable[np.ndarray], second: Iterable[np.ndarray], *, bins: int = 256, over: Over = "channels"
) -> Distance:
    """TV and JS between two sets; arguments and errors as of `feature_distances`."""
    return feature_distances(second, {"": first}, bins=bins, over=over)[""]


def _distance(p: np.ndarray, q: np.ndarray) -> Distance:
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


_TAIL = 0.001  # on either side
_SAMPLED = 512  # values of a batch, of each histogram


def _common_range(sets: Iterable[Iterable[np.ndarray]], over: Over) -> tuple[np.ndarray, np.ndarray]:
    """Where the bins of each histogram begin and end: percentiles of all sets, from values at even distances."""
    lows: list[np.ndarray] = []
    highs: list[np.ndarray] = []
    for batches in sets:
        sampled = []
        for batch in batches:
            rows = _rows(batch, over)
            if rows.size:
                sampled.append(rows[:, :: max(1, rows.shape[1] // _SAMPLED)])
        if not sampled:
            raise ValueError("an empty set of features has no distribution")
        channels = {len(rows) for rows in sampled} | {len(low) for low in lows}
        if len(channels) > 1:
            raise ValueError(f"features of different numbers of channels: {sorted(channels)}")
        values = np.concatenate(sampled, axis=1)
        lows.append(np.quantile(values, _TAIL, axis=1, method="lower"))
        highs.append(np.quantile(values, 1 - _TAIL, axis=1, method="higher"))
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _shares(
    batches: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray, bins: int, over: Over
) -> np.ndarray:
    """Share of the values in each bin, (histograms, bins).

    What lies beyond the bins is in the first or the last; a channel that is constant has all in its first.
    """
    counts = np.zeros((len(low), bins))
    width = np.where(high > low, high - low, 1.0)
    offset = np.arange(len(low))[:, None] * bins
    for batch in batches:
        rows = _rows(batch, over)
        place = np.floor((rows - low[:, None]) / width[:, None] * bins)
        index = np.clip(place, 0, bins - 1).astype(np.int64)
        counts += np.bincount((index + offset).ravel(), minlength=counts.size).reshape(counts.shape)
    return counts / counts.sum(axis=1, keepdims=True)
