"""IoU, Dice and Boundary IoU against the plainest possible reference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_cache.bench.stages.evaluate import metric_refs
from casam_cache.errors import OptionError
from casam_cache.metrics.boundary import boundary_note
from casam_cache.metrics.overlap import boundary_iou, boundary_thickness, dice, iou
from casam_cache.metrics.registry import METRICS, make_metrics


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


def test_a_cap_tells_masks_apart_that_are_tiny_against_the_image():
    truth, predicted = np.zeros((2, 1500, 1500), dtype=bool)
    truth[700:730, 700:730], predicted[702:732, 700:730] = True, True
    plain, capped = (make_metrics(["biou_3px"])[name] for name in ("biou", "biou_3px"))
    assert plain(predicted, truth) == iou(predicted, truth)
    assert capped(predicted, truth) == reference_boundary_iou(predicted, truth, 3) < plain(predicted, truth)


def test_a_cap_above_the_distance_changes_nothing_and_has_a_key_of_its_own():
    rng = np.random.default_rng(3)
    predicted, truth = random_mask(rng, 64, 64), random_mask(rng, 64, 64)
    assert METRICS.get("biou_90px")()(predicted, truth) == boundary_iou(predicted, truth)
    names = [name for name, _ in metric_refs(["biou_90px", "biou_2px"])]
    assert names == ["iou", "biou", "dice", "biou_90px", "biou_2px"]
    assert METRICS.get("biou_2px").facts().label == "BIoU 2 px"
    with pytest.raises(OptionError, match="biou_0px"):
        METRICS.get("biou_0px")


def test_a_line_says_where_boundary_iou_is_iou():
    assert "for 2 of 3 masks" in boundary_note([0.5, 0.7, 0.8, 1.0, math.nan], [0.5, 0.7, 0.6, 1.0, math.nan])
    assert not boundary_note([0.5, 0.7, 0.8], [0.4, 0.7, 0.6])
    assert not boundary_note([1.0, 0.0], [1.0, 0.0])
