"""IoU, Dice and Boundary IoU against the plainest possible reference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_cache.metrics.overlap import boundary_iou, boundary_thickness, dice, iou


def erode_once(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1, constant_values=True)  # as OpenCV: what is outside the array never erodes
    height, width = mask.shape
    shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.logical_and.reduce(shifts)


def reference_boundary(mask: np.ndarray, thickness: int) -> np.ndarray:
    padded = np.pad(mask, 1, constant_values=False)
    eroded = padded
    for _ in range(thickness):
        eroded = erode_once(eroded)
    return mask & ~eroded[1:-1, 1:-1]


def reference_boundary_iou(predicted: np.ndarray, truth: np.ndarray, thickness: int) -> float:
    if not predicted.any() and not truth.any():
        return math.nan
    first, second = reference_boundary(predicted, thickness), reference_boundary(truth, thickness)
    return (first & second).sum() / (first | second).sum()


def random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Rectangles, some over the border, with specks and holes."""
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(rng.integers(0, 4)):
        y0, y1 = np.sort(rng.integers(-5, height + 5, 2))
        x0, x1 = np.sort(rng.integers(-5, width + 5, 2))
        mask[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
    if rng.random() < 0.5:
        mask ^= rng.random((height, width)) < 0.02
    return mask


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))
def test_boundary_iou_equals_the_naive_reference(seed, height, width, thickness):
    rng = np.random.default_rng(seed)
    predicted, truth = random_mask(rng, height, width), random_mask(rng, height, width)
    expected = reference_boundary_iou(predicted, truth, thickness)
    np.testing.assert_equal(boundary_iou(predicted, truth, thickness), expected)


@pytest.mark.parametrize("full", [(64, 64), (120, 90)])
def test_boundary_iou_at_its_own_thickness_with_masks_at_the_border(full):
    rng = np.random.default_rng(7)
    whole = np.ones(full, dtype=bool)
    for _ in range(20):
        other = random_mask(rng, *full)
        expected = reference_boundary_iou(whole, other, boundary_thickness(*full))
        np.testing.assert_equal(boundary_iou(whole, other), expected)


def test_thickness_is_two_percent_of_the_diagonal():
    assert [boundary_thickness(side, side) for side in (4, 256, 512, 1024)] == [1, 7, 14, 29]


def test_empty_masks():
    empty, full = np.zeros((8, 8), dtype=bool), np.ones((8, 8), dtype=bool)
    for metric in (iou, dice, boundary_iou):
        assert math.isnan(metric(empty, empty))
        assert metric(full, empty) == 0
        assert metric(empty, full) == 0
        assert metric(full, full) == 1


def test_values_by_hand():
    predicted, truth = np.zeros((2, 20, 20), dtype=bool)
    predicted[0:10, 0:10] = True
    truth[0:10, 5:15] = True
    assert iou(predicted, truth) == pytest.approx(50 / 150)
    assert dice(predicted, truth) == pytest.approx(100 / 200)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes"):
        iou(np.zeros((2, 2), dtype=bool), np.zeros((2, 3), dtype=bool))
