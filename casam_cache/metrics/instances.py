"""How well objects that were found match the true ones: average precision, and mean segmentation accuracy.

Average precision is COCO's. At a threshold t of IoU each found object, the surest first, takes the best of the true
ones that none before it took, where their IoU is t at least. Precision is then interpolated at 101 recalls:

    AP_t = 1/101 sum over r in {0, 0.01, ..., 1} of max {precision(k) : recall(k) >= r}

over the first k found objects of all images together; AP is the mean of AP_t over t = 0.50, 0.55, ..., 0.95.

Mean segmentation accuracy is that of the 2018 Data Science Bowl, as stardist and micro-sam have it: of one image

    mSA = mean over the same t of TP_t / (TP_t + FP_t + FN_t)

where a true object belongs to one found object at most, so that as many as can be match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.metrics.intervals import Interval, mean_interval

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)


def mask_ious(found: Sequence[Cutout], true: Sequence[Cutout]) -> np.ndarray:
    """IoU of each found object with each true one, float64 (n, m)."""
    ious = np.zeros((len(found), len(true)))
    if not ious.size:
        return ious
    corners = [np.array([_corners(cutout) for cutout in cutouts]) for cutouts in (found, true)]
    areas = [np.array([cutout.area for cutout in cutouts]) for cutouts in (found, true)]
    low = np.maximum(corners[0][:, None, :2], corners[1][None, :, :2])
    high = np.minimum(corners[0][:, None, 2:], corners[1][None, :, 2:])
    for i, j in np.argwhere((high > low).all(axis=2)):
        (top, left), (bottom, right) = low[i, j], high[i, j]
        first, second = (
            one.pixels[top - one.top : bottom - one.top, left - one.left : right - one.left]
            for one in (found[i], true[j])
        )
        both = np.count_nonzero(first & second)
        ious[i, j] = both / max(1, areas[0][i] + areas[1][j] - both)
    return ious


def _corners(cutout: Cutout) -> tuple[int, int, int, int]:
    rows, columns = cutout.pixels.shape
    return cutout.top, cutout.left, cutout.top + rows, cutout.left + columns


def hits(ious: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """Which found objects take a true one, as COCO matches them: bool (T, n).

    Args:
        ious: (n, m), the found objects by falling score.
        thresholds: T of them.
    """
    taken = np.zeros((len(thresholds), ious.shape[1]), bool)
    matched = np.zeros((len(thresholds), ious.shape[0]), bool)
    for row, threshold in enumerate(thresholds):
        for place in range(ious.shape[0]):
            free = np.where(taken[row], -1.0, ious[place])
            if not len(free) or free.max() < threshold:
                continue
            best = len(free) - 1 - int(free[::-1].argmax())  # of equal ones the last, as in pycocotools
            taken[row, best] = matched[row, place] = True
    return matched


def average_precision(matched: np.ndarray, true: int) -> np.ndarray:
    """AP at each threshold, float64 (T,); NaN where there is no true object.

    Args:
        matched: bool (T, n), of all found objects by falling score.
        true: how many true objects there are.
    """
    if not true:
        return np.full(len(matched), np.nan)
    precisions = np.zeros((len(matched), len(RECALLS)))
    right = matched.cumsum(axis=1)
    precision = right / np.arange(1, matched.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for row, recall in enumerate(right / true):
        places = np.searchsorted(recall, RECALLS, side="left")
        reached = places < len(recall)
        precisions[row, reached] = precision[row, places[reached]]
    return precisions.mean(axis=1)


def segmentation_accuracy(ious: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """MSA of one image; NaN where nothing is true and nothing was found.

    Args:
        ious: (n, m), of found and true objects.
        thresholds: whose mean it is.
    """
    from scipy.optimize import linear_sum_assignment

    found, true = ious.shape
    if not found and not true:
        return float("nan")
    values = []
    for threshold in thresholds:
        fits = ious >= threshold
        # As many as can be, and of those the ones with the highest IoU.
        worth = fits + ious * fits / (2 * max(1, min(found, true)))
        rows, columns = linear_sum_assignment(worth, maximize=True)
        matched = int(fits[rows, columns].sum())
        values.append(matched / (found + true - matched))
    return float(np.mean(values))


def jackknife(value: Callable[[np.ndarray], float], groups: Sequence[str]) -> Interval:
    """A figure of a whole set with its interval by groups, where it is no mean of values (delete-a-group jackknife).

    With G groups and v the figure, group g stands for G v - (G - 1) v_g, where v_g is the figure without the group; the
    interval is that of a mean of these G numbers, moved to v.

    Args:
        value: the figure of some rows, bool (N,); NaN where they have none.
        groups: of each of the N rows.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    whole = value(np.ones(len(member), bool))
    if np.isnan(whole):
        return Interval(whole, np.nan, np.nan, 0, 0, len(member))
    pseudo = np.array([value(member != group) for group in range(len(names))])
    pseudo = len(names) * whole - (len(names) - 1) * pseudo
    finite = np.isfinite(pseudo)
    found = mean_interval(pseudo[finite], [str(name) for name in names[finite]])
    moved = whole - found.mean
    return Interval(whole, found.low + moved, found.high + moved, len(member), found.groups, 0, found.p)
