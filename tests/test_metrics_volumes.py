"""Dice, IoU and surface distances in volumes: known answers, and scipy's distance transform as a second opinion."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from casam_cache.errors import CasamError
from casam_cache.metrics.volumes import score_volume, surface_distances


def slab(shape: tuple[int, int, int], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*edges) for edges in ranges)] = True
    return mask


def test_overlap_of_cuboids_is_counted_by_hand():
    truth = slab((6, 8, 10), (1, 5), (1, 5), (1, 5))  # 64 voxels
    predicted = slab((6, 8, 10), (1, 5), (1, 5), (3, 9))  # 96, 32 of them shared
    found = score_volume(predicted, truth, (1, 1, 1))
    assert found.dice == pytest.approx(2 * 32 / (64 + 96))
    assert found.iou == pytest.approx(32 / 128)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_apart_are_as_far_as_their_axis_says(axis):
    # Walls through the whole volume, so that nearly all surface is two planes, 4 voxels apart on each side.
    spacing = (5.0, 0.7, 1.3)
    shape = [60, 60, 60]
    shape[axis] = 20
    edges = [(0, side) for side in shape]
    first, second = edges.copy(), edges.copy()
    first[axis], second[axis] = (3, 6), (7, 10)
    assd, hd95 = surface_distances(slab(tuple(shape), *first), slab(tuple(shape), *second), spacing)
    assert hd95 == pytest.approx(4 * spacing[axis])
    # Front face to front face 4, back face of the first to front face of the second 1: the nearest counts.
    assert assd == pytest.approx((4 + 1) / 2 * spacing[axis], rel=0.1)


def test_a_shifted_box_is_at_most_its_shift_away():
    truth = slab((12, 40, 40), (3, 9), (10, 30), (10, 30))
    moved = np.roll(truth, 2, axis=0)
    assd, hd95 = surface_distances(moved, truth, (2.5, 1, 1))
    assert hd95 == pytest.approx(5.0)
    assert 0 < assd < 5


def test_equal_masks_are_perfect():
    mask = slab((5, 5, 5), (1, 4), (0, 3), (2, 5))
    assert vars(score_volume(mask, mask, (3, 1, 2))) == {"dice": 1.0, "iou": 1.0, "assd": 0.0, "hd95": 0.0}


def test_empty_masks():
    some, none = slab((4, 4, 4), (1, 3), (1, 3), (1, 3)), np.zeros((4, 4, 4), bool)
    assert all(math.isnan(value) for value in vars(score_volume(none, none, (1, 1, 1))).values())
    for pair in ((some, none), (none, some)):
        found = score_volume(*pair, (1, 1, 1))
        assert (found.dice, found.iou) == (0, 0)
        assert math.isnan(found.assd)
        assert math.isnan(found.hd95)


def test_without_spacing_there_are_no_distances():
    mask = slab((4, 4, 4), (1, 3), (1, 3), (1, 3))
    found = score_volume(mask, mask)
    assert found.dice == 1
    assert math.isnan(found.assd)
    assert math.isnan(found.hd95)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, math.nan, 1), (1, -1, 1)])
def test_a_wrong_spacing_is_refused(spacing):
    mask = slab((4, 4, 4), (1, 3), (1, 3), (1, 3))
    with pytest.raises(ValueError, match="three positive numbers"):
        surface_distances(mask, mask, spacing)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="two equal"):
        score_volume(np.zeros((2, 3, 4), bool), np.zeros((2, 3, 5), bool))


def test_the_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "surface_distance", None)
    mask = slab((4, 4, 4), (1, 3), (1, 3), (1, 3))
    with pytest.raises(CasamError, match="surface-distance") as error:
        score_volume(mask, mask, (1, 1, 1))
    assert error.value.hint == "pip install 'casam-cache[medical]'"


def blob(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > np.quantile(noise, 0.8)


def by_voxels(predicted: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """The same distances between voxels of the masks' inner borders, each counting alike."""
    lists = []
    for own, other in ((truth, predicted), (predicted, truth)):
        border, target = (
            mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))
            for mask in (own, other)
        )
        lists.append(ndimage.distance_transform_edt(~target, sampling=spacing)[border])
    return float(np.mean(np.concatenate(lists))), max(float(np.percentile(each, 95)) for each in lists)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 3.0])] * 3),
)
def test_agrees_with_distances_between_border_voxels(seed, spacing):
    # Surface elements against voxels' centres: both round by less than a voxel's diagonal.
    first, second = blob(seed, (14, 24, 20)), blob(seed + 1, (14, 24, 20))
    assd, hd95 = surface_distances(first, second, spacing)
    mean, percentile = by_voxels(first, second, spacing)
    diagonal = float(np.linalg.norm(spacing))
    assert abs(assd - mean) < 0.5 * diagonal
    assert abs(hd95 - percentile) < diagonal
    assert surface_distances(second, first, spacing) == pytest.approx((assd, hd95))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6), order=st.permutations([0, 1, 2]), flips=st.tuples(*[st.booleans()] * 3))
def test_turning_the_volume_changes_nothing(seed, order, flips):
    spacing = (2.0, 0.5, 1.0)
    first, second = blob(seed, (10, 12, 14)), blob(seed + 1, (10, 12, 14))
    expected = score_volume(first, second, spacing)

    def turn(mask: np.ndarray) -> np.ndarray:
        return np.flip(mask.transpose(order), [axis for axis, flip in enumerate(flips) if flip])

    found = score_volume(turn(first), turn(second), [spacing[axis] for axis in order])
    assert list(vars(found).values()) == pytest.approx(list(vars(expected).values()), rel=1e-6)
