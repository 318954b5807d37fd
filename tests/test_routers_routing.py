"""Thresholds, folds by group, and the choice of a task."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from casam_cache.errors import OptionError
from casam_cache.routers.fit import assign_folds
from casam_cache.routers.routing import FALLBACK, decision, ood_accuracy, route, routing_accuracy
from casam_cache.routers.thresholds import RULES, conformal_place, threshold


def test_rules_by_hand():
    scores = np.arange(101.0)
    np.random.default_rng(0).shuffle(scores)
    assert threshold(scores, "p95") == 95
    assert threshold(scores, "p97") == 97
    assert threshold(scores, "p99") == 99
    assert threshold(scores, "mu2s") == pytest.approx(50 + 2 * math.sqrt((101**2 - 1) / 12))
    assert threshold(scores, "conformal") == 98  # ceil(0.97 * 102) = 99th smallest
    assert threshold(scores, "none") == math.inf
    assert threshold(np.array([1.0, 2.0]), "p97") == pytest.approx(1.97)  # linear between two


def test_conformal_needs_33_scores():
    assert threshold(np.arange(32.0), "conformal") == math.inf
    assert threshold(np.arange(33.0), "conformal") == 32
    assert [conformal_place(n) for n in (32, 33, 65, 66, 99)] == [33, 33, 65, 65, 97]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_held_out_is_no_threshold(rule):
    assert threshold(np.zeros(0), rule) == math.inf


def test_unknown_rule_lists_rules():
    with pytest.raises(OptionError, match="p97"):
        threshold(np.ones(3), "p50")


@given(st.integers(33, 400))
def test_conformal_place_covers_97_percent(count):
    place = conformal_place(count)
    assert place <= count
    assert 100 * place >= 97 * (count + 1)
    assert 100 * (place - 1) < 97 * (count + 1)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(2, 6), st.randoms())
def test_folds_keep_groups_whole(members, folds, random):
    groups = [f"patient {member}" for member in members]
    assigned = assign_folds(groups, folds, seed=3, task="a")
    assert set(assigned) == set(range(max(1, min(folds, len(set(groups))))))
    by_group = {}
    for group, fold in zip(groups, assigned, strict=True):
        assert by_group.setdefault(group, fold) == fold
    order = list(range(len(groups)))
    random.shuffle(order)
    shuffled = assign_folds([groups[i] for i in order], folds, seed=3, task="a")
    assert all(by_group[groups[i]] == fold for i, fold in zip(order, shuffled, strict=True))


def test_folds_are_balanced_and_drawn_for_the_task():
    groups = [str(i) for i in range(23)]
    assigned = assign_folds(groups, 5, seed=0, task="a")
    assert sorted(np.bincount(assigned)) == [4, 4, 5, 5, 5]
    assert not np.array_equal(assigned, assign_folds(groups, 5, seed=0, task="b"))
    assert not np.array_equal(assigned, assign_folds(groups, 5, seed=1, task="a"))


def test_route_takes_the_lowest_or_none():
    scores = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 4.0], [2.0, 2.0]])
    taus = np.array([2.0, 2.0])
    np.testing.assert_array_equal(route(scores, taus), [0, 1, -1, 0])
    np.testing.assert_array_equal(route(scores, taus, strict=True), [0, -1, -1, -1])
    np.testing.assert_array_equal(route(scores, taus, fallback=False), [0, 1, 1, 0])
    np.testing.assert_array_equal(route(scores, np.array([0.5, np.inf])), [-1, 1, 1, -1])


def test_only_the_nearest_task_is_asked():
    # A further task would accept, but argmin comes first (equation 7).
    assert route(np.array([[1.0, 2.0]]), np.array([0.5, 3.0]))[0] == -1


def test_route_without_tasks_or_images():
    np.testing.assert_array_equal(route(np.zeros((3, 0)), np.zeros(0)), [-1, -1, -1])
    assert route(np.zeros((0, 2)), np.zeros(2)).shape == (0,)


@pytest.mark.parametrize(
    ("scores", "taus"), [([[np.nan]], [1.0]), ([[1.0]], [np.nan]), ([[1.0]], [1.0, 2.0])]
)
def test_route_refuses_nonsense(scores, taus):
    with pytest.raises(ValueError, match=r"NaN|fit"):
        route(np.array(scores), np.array(taus))


@given(arrays(np.float64, (5, 3), elements=st.floats(0, 4)), arrays(np.float64, 3, elements=st.floats(0, 4)))
def test_raising_thresholds_only_accepts_more(scores, taus):
    first, second = route(scores, taus), route(scores, taus + 1)
    accepted = first >= 0
    np.testing.assert_array_equal(first[accepted], second[accepted])


def test_decision_names_what_happened():
    near = decision(["a", "b"], np.array([3.0, 1.0]), np.array([9.0, 2.0]))
    assert (near.task, near.nearest, near.score, near.threshold, near.fallback) == ("b", "b", 1.0, 2.0, False)
    far = decision(["a", "b"], np.array([3.0, 2.5]), np.array([9.0, 2.0]))
    assert (far.task, far.nearest, far.fallback) == (None, "b", True)
    assert far.scores == {"a": 3.0, "b": 2.5}
    with pytest.raises(ValueError, match="sorted"):
        decision(["b", "a"], np.array([3.0, 2.5]), np.array([9.0, 2.0]))


def test_shares_of_routed_images():
    assert routing_accuracy([0, 1, FALLBACK, 1], [0, 1, 1, 0]) == 0.5
    assert ood_accuracy([FALLBACK, 2, FALLBACK, FALLBACK]) == 0.75
    assert math.isnan(routing_accuracy([], []))
    assert math.isnan(ood_accuracy([]))
    with pytest.raises(ValueError, match="1 choices for 2"):
        routing_accuracy([0], [0, 1])
