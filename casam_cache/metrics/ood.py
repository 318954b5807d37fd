"""What a router decided: on images of tasks it was fitted to, and on images of none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

FALLBACK = -1  # the frozen SAM


def routing_accuracy(chosen: Sequence[int] | np.ndarray, true: Sequence[int] | np.ndarray) -> float:
    """Share of the images sent to the head of their own task; a fallback is wrong. NaN without images.

    Args:
        chosen: index of the head chosen for each image, `FALLBACK` for the frozen SAM.
        true: index of each image's task.

    Raises:
        ValueError: for columns of different length.
    """
    heads, tasks = np.asarray(chosen), np.asarray(true)
    if heads.shape != tasks.shape:
        raise ValueError(f"{len(heads)} choices for {len(tasks)} images")
    return float((heads == tasks).mean()) if len(heads) else math.nan


def ood_accuracy(chosen: Sequence[int] | np.ndarray) -> float:
    """Share of unseen images sent to the frozen SAM ("Acc" of Tables 6, 10 and 11). NaN without images."""
    heads = np.asarray(chosen)
    return float((heads == FALLBACK).mean()) if len(heads) else math.nan


def over_sets(values: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """Mean over unseen sets weighted by their counts, in sorted name order; sets with NaN are left out.

    Args:
        values: of each set.
        counts: images (accuracy) or masks (IoU) of each set, as the mean is to be weighted.

    Raises:
        ValueError: a set has no count.
    """
    missing = sorted(set(values) - set(counts))
    if missing:
        raise ValueError(f"no count for {', '.join(missing)}")
    names = [name for name in sorted(values) if math.isfinite(values[name])]
    total = sum(counts[name] for name in names)
    return sum(values[name] * counts[name] for name in names) / total if total else math.nan
