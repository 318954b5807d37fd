"""Joint training: the union in any order, as many steps as the separate fits, balanced by image or by task."""

from __future__ import annotations

from collections import Counter

import pytest
from toy_sequences import QUICK, TINY, look, made, same

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.methods.alignment import Alignment
from casam_cache.methods.joint import Joint
from casam_cache.training.epochs import TrainingMasks, draw_epoch
from casam_cache.training.loop import fit_head

VIEWS = {"b": look("b", 2, 3), "a": look("a", 1, 7, empty=1), "c": look("c", 3, 1)}


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


def fit(backbone, method, views, training=QUICK):
    head = method.build(backbone, 0)
    return fit_head(head, backbone, method.items(views), method.training(training, views))


@pytest.mark.parametrize("balance", ["sample", "task"])
def test_the_order_of_the_tasks_does_not_matter(backbone, balance):
    method = made(Joint, f"balance={balance}")
    other = dict(sorted(VIEWS.items()))
    assert list(other) != list(VIEWS)
    first, second = fit(backbone, method, VIEWS), fit(backbone, method, other)
    assert same(first.head, second.head)
    assert first.history == second.history


@pytest.mark.parametrize("balance", ["sample", "task"])
@pytest.mark.parametrize(
    "change", [{}, {"max_steps": 4}, {"max_steps": 1000}, {"batch_size": 4}, {"epochs": 5}]
)
def test_as_many_steps_as_the_separate_fits(backbone, balance, change):
    training = QUICK.model_copy(update=change)
    separate = 0
    for view in VIEWS.values():
        alignment = made(Alignment)
        separate += fit_head(alignment.build(backbone, 0), backbone, view, training).steps
    assert fit(backbone, made(Joint, f"balance={balance}"), VIEWS, training).steps == separate


def visits(balance, epoch):
    masks = TrainingMasks.prepare(made(Joint, f"balance={balance}").items(VIEWS))
    batches = draw_epoch(masks, QUICK, 0, epoch)
    return Counter(masks.items[index].task for batch in batches for index in batch.items), masks.visits


def test_balance_by_image_and_by_task():
    assert visits("sample", 0) == ({"a": 6, "b": 3, "c": 1}, 10)
    for epoch in range(5):
        assert visits("task", epoch) == ({"a": 4, "b": 4, "c": 4}, 12)  # ten images of three tasks


def test_one_task_is_its_own_fit(backbone):
    alignment = made(Alignment)
    own = fit_head(alignment.build(backbone, 0), backbone, VIEWS["a"], QUICK)
    for balance in ("sample", "task"):
        assert same(own.head, fit(backbone, made(Joint, f"balance={balance}"), {"a": VIEWS["a"]}).head)


def test_a_task_without_masks_takes_no_part():
    views = {**VIEWS, "d": look("d", 4, 2, empty=2)}
    method = made(Joint, "balance=task")
    assert TrainingMasks.prepare(method.items(views)).visits == 12
    assert method.training(QUICK, views) == method.training(QUICK, VIEWS)
    with pytest.raises(CasamError, match="training images have masks"):
        method.items({"d": views["d"]})
    with pytest.raises(CasamError, match="training images have masks"):
        method.training(QUICK, {"d": views["d"]})
