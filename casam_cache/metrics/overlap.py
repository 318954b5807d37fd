"""How well one predicted mask covers one true mask: IoU, Dice and Boundary IoU.

Where both masks are empty the three are undefined and NaN (to be left out and counted); where only the truth
is empty they are 0.
"""

from __future__ import annotations

import math

import numpy as np

from casam_cache.metrics.base import Metric

Box = tuple[int, int, int, int]  # first row, last row + 1, first column, last column + 1


def _same_shape(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise ValueError(f"masks of shapes {predicted.shape} and {truth.shape}: two equal (H, W) are needed")
    return predicted.astype(bool, copy=False), truth.astype(bool, copy=False)


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool masks (H, W), in [0, 1]; NaN where both are empty.

    Raises:
        ValueError: for masks of different shapes.
    """
    predicted, truth = _same_shape(predicted, truth)
    both = _count(predicted & truth)
    return _ratio(both, _count(predicted) + _count(truth) - both)


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient of two bool masks (H, W), in [0, 1]; NaN where both are empty.

    Raises:
        ValueError: for masks of different shapes.
    """
    predicted, truth = _same_shape(predicted, truth)
    both = _count(predicted & truth)
    return _ratio(2 * both, _count(predicted) + _count(truth))


def boundary_iou(predicted: np.ndarray, truth: np.ndarray, thickness: int | None = None) -> float:
    """IoU of the inner boundaries of two bool masks (H, W), in [0, 1]; NaN where both masks are empty.

    The boundary is what `thickness` erosions with a 3 x 3 square take away, everything outside the image
    counting as background. The scores are those of the published definition (pad one pixel of zeros, erode d
    times, subtract).

    Args:
        predicted: predicted mask.
        truth: true mask, at the original resolution of the image.
        thickness: d in pixels; `boundary_thickness` of the shape unless given.

    Raises:
        ValueError: for masks of different shapes.
    """
    predicted, truth = _same_shape(predicted, truth)
    distance = boundary_thickness(*truth.shape) if thickness is None else thickness
    first_box, second_box = _bounding_box(predicted), _bounding_box(truth)
    first, second = _boundary(predicted, first_box, distance), _boundary(truth, second_box, distance)
    top, bottom = max(first_box[0], second_box[0]), min(first_box[1], second_box[1])
    left, right = max(first_box[2], second_box[2]), min(first_box[3], second_box[3])
    both = 0
    if top < bottom and left < right:
        both = _count(
            first[top - first_box[0] : bottom - first_box[0], left - first_box[2] : right - first_box[2]]
            & second[
                top - second_box[0] : bottom - second_box[0], left - second_box[2] : right - second_box[2]
            ]
        )
    return _ratio(both, _count(first) + _count(second) - both)


def boundary_thickness(height: int, width: int) -> int:
    """Boundary IoU's d, max(1, round(0.02 * diagonal)), pixels: 7, 14, 29 at 256, 512, 1024 pixels a side."""
    return max(1, round(0.02 * math.sqrt(height**2 + width**2)))


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan


def _bounding_box(mask: np.ndarray) -> Box:
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _boundary(mask: np.ndarray, box: Box, distance: int) -> np.ndarray:
    """The boundary inside the mask's bounding box; all beyond it, in or out of the image, is background."""
    crop = mask[box[0] : box[1], box[2] : box[3]]
    side = 2 * distance + 1
    if min(crop.shape) < side:
        return crop
    # d erosions with a 3 x 3 square are one with a (2d + 1) square, which is separable; a run of `side`
    # pixels is all foreground exactly where the difference of running sums is `side`.
    rows = np.zeros((crop.shape[0] + 1, crop.shape[1]), dtype=np.int32)
    np.cumsum(crop, axis=0, dtype=np.int32, out=rows[1:])
    tall = (rows[side:] - rows[:-side]) == side
    columns = np.zeros((tall.shape[0], tall.shape[1] + 1), dtype=np.int32)
    np.cumsum(tall, axis=1, dtype=np.int32, out=columns[:, 1:])
    boundary = crop.copy()
    boundary[distance:-distance, distance:-distance] &= (columns[:, side:] - columns[:, :-side]) != side
    return boundary


class IoU(Metric):
    """Intersection over union."""

    name, label, better = "iou", "IoU", "high"

    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        return iou(predicted, truth)


class BoundaryIoU(Metric):
    """Boundary IoU, the boundary's thickness following from the image's size."""

    name, label, better = "biou", "BIoU", "high"

    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        return boundary_iou(predicted, truth)


class Dice(Metric):
    """Dice coefficient."""

    name, label, better = "dice", "Dice", "high"

    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        return dice(predicted, truth)
