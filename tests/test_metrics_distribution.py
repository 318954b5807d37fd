"""Equations 13 and 14."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from casam_cache.metrics.distribution import (
    feature_distance,
    feature_distances,
    jensen_shannon,
    total_variation,
)


def test_by_hand():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert total_variation(p, q) == pytest.approx(0.5)
    m = [0.375, 0.375, 0.25]
    kl_p = 2 * 0.5 * math.log(0.5 / m[0])
    kl_q = 2 * 0.25 * math.log(0.25 / m[0]) + 0.5 * math.log(0.5 / m[2])
    assert jensen_shannon(p, q) == pytest.approx(0.5 * (kl_p + kl_q))


def test_disjoint_sets_are_as_far_apart_as_can_be_and_equal_ones_not_at_all():
    first, second = np.zeros((4, 2, 3)), np.ones((5, 2, 3))
    far = feature_distance([first], [second], bins=10)
    assert (far.tv, far.js, far.js_bits) == (1, pytest.approx(math.log(2)), pytest.approx(1))
    near = feature_distance([second], [second, second], bins=10)
    assert (near.tv, near.js, near.js_root) == (0, 0, 0)


def test_histograms_of_each_channel_over_common_bins():
    first = np.array(
        [[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [4.0, 5.0]]
    )  # (n, C); the second channel is constant
    second = np.array([[0.0, 5.0], [0.5, 5.0], [3.0, 5.0], [3.9, 5.0]])
    # channel 1, bins of 1 over [0, 4]: first 1 1 1 1, second 2 0 0 2
    found = feature_distance([first], [second], bins=4)
    assert found.tv == pytest.approx((0.5 + 0) / 2)
    p, q = np.array([0.25, 0.25, 0.25, 0.25]), np.array([0.5, 0, 0, 0.5])
    assert found.js == pytest.approx(jensen_shannon(p, q) / 2)
    assert found.js_root == pytest.approx(jensenshannon(p, q) / 2)
    assert found.js_bits == pytest.approx(found.js / math.log(2))


def test_batches_do_not_matter_and_one_histogram_of_all_values_is_possible():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (6, 3, 4, 4)), rng.normal(0.3, 1, (6, 3, 4, 4))
    whole = feature_distance([first], [second], bins=20)
    assert feature_distance([first[:1], first[1:]], list(second[:, None]), bins=20) == whole
    pooled = feature_distance([first], [second], bins=20, over="values")
    flat = feature_distance([first.reshape(-1, 1)], [second.reshape(-1, 1)], bins=20)
    assert pooled == flat
    assert pooled != whole


def test_an_outlier_moves_nothing_and_all_sides_share_their_bins():
    """A single value a thousand times as large stretched the bins until everything else fell into one of them."""
    rng = np.random.default_rng(0)
    reference, near, far = (rng.normal(at, 1, (5000, 2)) for at in (0, 0.2, 2))
    plain = feature_distance([near], [reference])
    wild = near.copy()
    wild[17] = 1e6
    assert feature_distance([wild], [reference]).tv == pytest.approx(plain.tv, abs=1e-3)
    both = feature_distances([reference], {"near": [near], "wild": [wild], "far": [far]}, bins=64)
    assert both["near"].tv == pytest.approx(both["wild"].tv, abs=1e-3)
    assert both["near"].tv < both["far"].tv
    beyond = np.full((5000, 2), 50.0)
    assert feature_distance([beyond], [reference]).tv == pytest.approx(1, abs=1e-3)


def test_what_has_no_distribution_is_refused():
    fine = [np.zeros((1, 2))]
    for wrong, message in (
        ([], "empty"),
        ([np.zeros((1, 3))], "different numbers of channels"),
        ([np.array([[1.0, math.nan]])], "not finite"),
        ([np.zeros(3)], "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            feature_distance(fine, wrong)
    with pytest.raises(ValueError, match="twice"):
        feature_distance(fine, iter(fine))
    with pytest.raises(ValueError, match="0 bins"):
        feature_distance(fine, fine, bins=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=8))
def test_total_variation_bounds_the_divergence(pairs: list[tuple[int, int]]):
    p, q = (np.array(side, dtype=float) + 1e-9 for side in zip(*pairs, strict=True))
    p, q = p / p.sum(), q / q.sum()
    tv, js = total_variation(p, q), jensen_shannon(p, q)
    assert 0 <= js <= tv * math.log(2) + 1e-9
    assert js == pytest.approx(jensen_shannon(q, p))
    assert js == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-9)
