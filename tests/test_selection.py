"""The state that a fit hands out: chosen on groups that were set apart, the one it began with among the candidates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toy_sequences import TINY, look

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import DivergedError
from casam_cache.heads.files import build_head
from casam_cache.report.fit_table import changes_nothing
from casam_cache.training.evaluate import evaluate
from casam_cache.training.held_out import hold_out
from casam_cache.training.items import Items, join
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions

RECIPE = TrainingOptions(epochs=6, batch_size=4, learning_rate=1e-2, held_out=0.25, checks=3)


@pytest.fixture(scope="module")
def backbone() -> Any:
    return seeded_backbone(TINY, 0)


def images(count: int = 20, groups: int = 10, task: str = "toy", empty: int = 0) -> Items:
    """Images of `groups` patients."""
    items = look(task, 99, count, empty=empty)
    rows = tuple(
        replace(row, item=replace(row.item, group=f"patient {index % groups}"))
        for index, row in enumerate(items.rows)
    )
    return replace(items, rows=rows)


def fit(backbone: Any, items: Items, options: TrainingOptions = RECIPE, **more: Any) -> Any:
    head = build_head("alignment", {"kind": "depthwise", "blocks": 1, "norm": "none"}, backbone, 1)
    return fit_head(head, backbone, items, options, **more)


def test_groups_are_held_out_whole_and_images_without_masks_go_with_them() -> None:
    items = images(empty=3)
    left, apart = hold_out(items, 0.25)
    assert apart is not None
    groups = {item.group for item in apart}
    assert len(groups) == 2
    assert groups.isdisjoint(item.group for item in left)
    assert {item.id for item in left} | {item.id for item in items if item.group in groups} == {
        item.id for item in items
    }
    assert all(item.masks for item in apart)
    assert [item.id for item in left] == [item.id for item in items if item.group not in groups]


def test_which_groups_depends_on_their_names_alone() -> None:
    items = images()
    _, apart = hold_out(items, 0.25)
    shuffled = replace(items, rows=items.rows[::-1])
    _, again = hold_out(shuffled, 0.25)
    assert apart is not None
    assert again is not None
    assert [item.id for item in apart] == [item.id for item in again]
    _, more = hold_out(images(40, 20), 0.25)
    assert more is not None
    assert {item.group for item in apart} <= {item.group for item in more}


@pytest.mark.parametrize(
    ("groups", "share"), [(7, 0.25), (10, 0.0)], ids=["seven groups", "nothing asked for"]
)
def test_nothing_is_held_out(groups: int, share: float) -> None:
    items = images(groups=groups)
    assert hold_out(items, share) == (items, None)


def test_each_joined_task_holds_out_its_own() -> None:
    large, few = images(), images(5, 5, "few")
    left, apart = hold_out(join([large, few]), 0.25)
    assert apart is not None
    assert {item.task for item in apart} == {"toy"}
    assert sum(item.task == "few" for item in left) == 5
    assert [item.id for item in apart] == [item.id for item in hold_out(large, 0.25)[1] or ()]


def test_a_look_is_bounded() -> None:
    _, apart = hold_out(images(600, 300), 0.5)
    assert apart is not None
    assert sum(item.masks for item in apart) == 64


def test_the_best_state_is_handed_out(backbone: Any) -> None:
    found = fit(backbone, images())
    chosen = found.chosen
    assert [check.step for check in chosen.checks] == [0, 8, 16, 24]
    assert (chosen.groups, chosen.masks) == (2, 4)
    best = max(check.iou for check in chosen.checks)
    assert chosen.iou == best > chosen.frozen
    _, apart = hold_out(images(), 0.25)
    assert apart is not None
    scores = evaluate(found.head, backbone, apart).scores["iou"]
    assert np.mean(scores) == best
    assert chosen.checks[0].iou == chosen.frozen, "the layer begins as the identity"


def test_where_nothing_is_better_the_head_is_as_it_began(backbone: Any) -> None:
    head = build_head("alignment", {"kind": "depthwise", "blocks": 1, "norm": "none"}, backbone, 1)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    harmful = RECIPE.model_copy(update={"learning_rate": 10.0, "epochs": 2})
    found = fit_head(head, backbone, images(), harmful)
    assert found.chosen is not None
    assert found.chosen.step == 0
    assert not found.chosen.below_frozen
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.head.state_dict().items())


def test_a_head_that_begins_as_noise_and_stays_worse_is_known_as_such(backbone: Any) -> None:
    head = build_head("alignment", {"init": "random"}, backbone, 1)
    found = fit_head(head, backbone, images(), RECIPE.model_copy(update={"learning_rate": 1e-9}))
    assert found.chosen is not None
    assert found.chosen.below_frozen


@pytest.mark.parametrize(
    ("step", "iou", "gain", "nothing"),
    [
        (0, 0.5, 0.0, True),  # the frozen SAM itself
        (0, 0.6, 0.02, False),  # a random start that was better
        (8, 0.4, 0.0, True),  # a layer that was dropped
        (8, 0.4, -0.1, False),  # a network that takes SAM's place
        (8, 0.6, 0.0, False),
    ],
)
def test_what_is_said_to_change_nothing(step: int, iou: float, gain: float, nothing: bool) -> None:
    assert changes_nothing({"step": step, "iou": iou, "frozen": 0.5}, gain) is nothing


def test_weights_that_the_last_step_left_infinite_are_not_handed_out(backbone: Any) -> None:
    options = TrainingOptions(max_steps=1, learning_rate=1e38)
    with pytest.raises(DivergedError, match="no longer finite after step 1"):
        fit(backbone, images(groups=2), options)


def test_patience_ends_training(backbone: Any) -> None:
    harmful = RECIPE.model_copy(update={"learning_rate": 10.0, "patience": 1})
    found = fit(backbone, images(), harmful)
    assert found.chosen.stopped
    assert found.steps == 8
    assert not fit(backbone, images(), RECIPE).chosen.stopped


# The last state is far from a good one, and on the way to it lies a better one than any that was reached.
OVERSHOT = RECIPE.model_copy(update={"interpolations": 3, "learning_rate": 0.1, "checks": 1})


def test_points_on_the_way_to_a_state_are_candidates_too(backbone: Any) -> None:
    items = images()
    head = build_head("alignment", {"kind": "depthwise", "blocks": 1, "norm": "none"}, backbone, 1)
    start = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    whole = fit(backbone, items, OVERSHOT)
    chosen = whole.chosen
    _, apart = hold_out(items, 0.25)
    assert apart is not None
    end = _last_state(backbone, items)
    points = []
    for share in (0.25, 0.5, 0.75):
        head.load_state_dict({name: start[name] + share * (end[name] - start[name]) for name in start})
        points.append(float(np.mean(evaluate(head, backbone, apart).scores["iou"])))
    assert [(point.step, point.share) for point in chosen.between] == [(24, 0.25), (24, 0.5), (24, 0.75)]
    np.testing.assert_allclose([point.iou for point in chosen.between], points, atol=1e-6)
    assert max(points) > max(check.iou for check in chosen.checks), (
        "a case in which a point is better than both ends"
    )
    assert (chosen.step, chosen.share) == (24, (0.25, 0.5, 0.75)[int(np.argmax(points))])
    assert chosen.iou == max(point.iou for point in chosen.between)
    assert np.mean(evaluate(whole.head, backbone, apart).scores["iou"]) == chosen.iou


def _last_state(backbone: Any, items: Items) -> dict[str, torch.Tensor]:
    """What the fit reaches, on the same images: those that it holds out are not there."""
    left, _ = hold_out(items, 0.25)
    plain = OVERSHOT.model_copy(update={"held_out": 0.0, "interpolations": 0})
    return fit(backbone, left, plain).head.state_dict()


def test_where_nothing_can_be_held_out_a_fit_goes_part_of_the_way(backbone: Any) -> None:
    few = images(12, 6, empty=2)
    head = build_head("alignment", {"kind": "depthwise", "blocks": 1, "norm": "none"}, backbone, 1)
    start = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    whole = fit(backbone, few)
    assert (whole.chosen, whole.shrunk) == (None, None)
    part = fit(backbone, few, RECIPE.model_copy(update={"interpolations": 3}))
    assert (part.chosen, part.shrunk) == (None, 10 / 12), "ten images have masks"
    end = whole.head.state_dict()
    for name, tensor in part.head.state_dict().items():
        torch.testing.assert_close(tensor, start[name] + 10 / 12 * (end[name] - start[name]))


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({}, True),
        ({"norm": "none", "init": "zero"}, True),
        ({"init": "zero"}, False),
        ({"init": "random"}, False),
    ],
)
def test_a_head_that_begins_as_something_else_goes_all_the_way(
    backbone: Any, options: dict[str, Any], begins: bool
) -> None:
    head = build_head("alignment", {"kind": "depthwise", "blocks": 1, **options}, backbone, 1)
    assert head.begins_as_frozen is begins
    found = fit_head(
        head, backbone, images(6, 6), RECIPE.model_copy(update={"epochs": 1, "interpolations": 3})
    )
    assert found.shrunk == (0.75 if begins else None)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "groups"),
    [(RECIPE, 10), (OVERSHOT, 10), (OVERSHOT, 7)],
    ids=["states", "points between", "part"],
)
def test_resumed_equals_uninterrupted(
    backbone: Any, tmp_path: Path, options: TrainingOptions, groups: int
) -> None:
    items = images(groups=groups)
    whole = fit(backbone, items, options)
    for epochs in (1, 3, 5):

        def kill(record: Any, progress: Any, epochs: int = epochs) -> None:
            if record.epoch == epochs:
                raise KilledError

        with pytest.raises(KilledError):
            fit(backbone, items, options, checkpoint_dir=tmp_path, on_epoch=kill)
    resumed = fit(backbone, items, options, checkpoint_dir=tmp_path)
    assert resumed.resumed_from == 6
    assert resumed.chosen == whole.chosen
    assert resumed.history == whole.history
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, resumed.head.state_dict()[name])


def test_steps_have_a_minimum_and_a_maximum() -> None:
    options = TrainingOptions(epochs=2, batch_size=4, min_steps=30, max_steps=40)
    assert [options.steps(visits) for visits in (1, 10, 70, 1000)] == [30, 30, 36, 40]
    assert TrainingOptions(epochs=2, batch_size=4).steps(9) == 6
    with pytest.raises(ValidationError, match="more than max_steps"):
        TrainingOptions(min_steps=3, max_steps=2)
    with pytest.raises(ValidationError, match="held_out"):
        TrainingOptions(patience=3)
    with pytest.raises(ValidationError, match="interpolations needs images to look at"):
        TrainingOptions(interpolations=3)


def test_warm_up_and_weight_decay(backbone: Any) -> None:
    """One step of Adam moves each weight by the learning rate: half of it in the first of a warm-up of one step."""
    one = TrainingOptions(epochs=1, max_steps=1, learning_rate=1e-3)
    plain, warm = (
        fit(backbone, images(), one.model_copy(update={"warmup_steps": steps})).head.state_dict()
        for steps in (0, 1)
    )
    start = build_head(
        "alignment", {"kind": "depthwise", "blocks": 1, "norm": "none"}, backbone, 1
    ).state_dict()
    moved = {name: (plain[name] - start[name]).abs().max() for name in start}
    half = {name: (warm[name] - start[name]).abs().max() for name in start}
    assert any(moved.values())
    for name, far in moved.items():
        torch.testing.assert_close(half[name], far / 2, rtol=1e-3, atol=1e-7)
    decayed = fit(backbone, images(), one.model_copy(update={"weight_decay": 0.5})).head.state_dict()
    for name in start:
        torch.testing.assert_close(
            decayed[name], plain[name] - 1e-3 * 0.5 * start[name], rtol=1e-4, atol=1e-6
        )


def test_later_options_that_are_not_used_name_nothing_anew() -> None:
    assert set(TrainingOptions().model_dump()) == {
        "epochs", "batch_size", "learning_rate", "masks_per_image", "max_steps", "precision", "focal_weight",
        "dice_weight", "iou_weight", "focal_alpha", "focal_gamma", "dice_smooth", "box_share", "box_jitter",
        "jitter_limit",
    }  # fmt: skip
