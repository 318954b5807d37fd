"""Several fits at once: each as alone within rounding, with its own rate, seed and loss, and resumed bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import QUICK, TINY, KilledError, same_weights, toy_view
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.heads.alignment import AlignmentLayer
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.training.checkpoint import FILE, read_checkpoint
from casam_cache.training.data import ItemsInMemory
from casam_cache.training.evaluate import evaluate
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.pack import PackRequest, fit_pack, why_not_packed

# What may differ within a pack: seed, learning rate, loss, prompts, and the head's own options.
MEMBERS: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
    (0, {}, {}),
    (1, {"learning_rate": 3e-3}, {}),
    (2, {"focal_weight": 5.0, "focal_gamma": 1.5, "dice_smooth": 0.5}, {"init": "random"}),
    (0, {"box_share": 1.0, "box_jitter": 0.3}, {"blocks": 2, "relu": "post"}),
]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return seeded_backbone(TINY, 0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def member(backbone: Backbone, number: int, options: TrainingOptions = QUICK) -> PackRequest:
    seed, changed, head = MEMBERS[number]
    return PackRequest(
        build_head("alignment", head, backbone, seed), options.model_copy(update=changed), seed
    )


def pack(backbone: Backbone, options: TrainingOptions = QUICK, **more: Any) -> list[FitResult]:
    asked = [member(backbone, number, options) for number in range(len(MEMBERS))]
    return fit_pack(asked, backbone, toy_view(), **more)


def alone(backbone: Backbone, number: int, options: TrainingOptions = QUICK, **more: Any) -> FitResult:
    one = member(backbone, number, options)
    return fit_head(one.head, backbone, toy_view(), one.options, seed=one.seed, **more)


class Steps:
    """Gradients before, and weights after, every step of every optimiser."""

    def __init__(self) -> None:
        self.gradients: list[dict[int, torch.Tensor]] = []
        self.weights: list[dict[int, torch.Tensor]] = []

    @staticmethod
    def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
        return [parameter for group in optimiser.param_groups for parameter in group["params"]]

    @contextmanager
    def kept(self) -> Iterator[None]:
        def before(optimiser: Any, *_: Any) -> None:
            self.gradients.append({id(p): p.grad.clone() for p in self._parameters(optimiser)})

        def after(optimiser: Any, *_: Any) -> None:
            self.weights.append({id(p): p.detach().clone() for p in self._parameters(optimiser)})

        hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        yield
        for hook in hooks:
            hook.remove()


@contextmanager
def led_by(steps: Steps, follower: Head, leader: Head, gradients: list[list[torch.Tensor]]) -> Iterator[None]:
    """Keeps the follower's gradients, and gives it the leader's weights after every step."""
    done = 0

    def before(*_: Any) -> None:
        gradients.append([p.grad.clone() for p in follower.trained() if p.grad is not None])

    def after(*_: Any) -> None:
        nonlocal done
        for own, other in zip(follower.trained(), leader.trained(), strict=True):
            own.data.copy_(steps.weights[done][id(other)])
        done += 1

    hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("masks_per_image", [1, 3])
def test_loss_and_gradients_of_each_step_are_those_of_alone(backbone: Backbone, masks_per_image: int) -> None:
    """One step an epoch, so that its record is the step's; alone goes on from the pack's weights at every step."""
    options = QUICK.model_copy(update={"epochs": 5, "batch_size": 8, "masks_per_image": masks_per_image})
    steps = Steps()
    with steps.kept():
        packed = pack(backbone, options)
    assert [record.steps for record in packed[0].history] == [1] * 5
    for number, result in enumerate(packed):
        one, found = member(backbone, number, options), []
        with led_by(steps, one.head, result.head, found):
            single = fit_head(one.head, backbone, toy_view(), one.options, seed=one.seed)
        for own, other in zip(result.history, single.history, strict=True):
            assert own.pairs == other.pairs
            for term in ("loss", "focal", "dice", "iou"):
                assert getattr(own, term) == pytest.approx(getattr(other, term), rel=1e-5)
        assert len(found) == len(steps.gradients) == 5
        for own_step, expected in zip(steps.gradients, found, strict=True):
            own_gradients = [own_step[id(p)] for p in result.head.trained()]
            for got, wanted in zip(own_gradients, expected, strict=True):
                assert (got - wanted).norm() <= 1e-5 * wanted.norm()


def test_ends_where_alone_ends(backbone: Backbone) -> None:
    """Rates, seeds, losses, prompts and block counts of their own; several steps an epoch, of unequal masks."""
    options = QUICK.model_copy(update={"epochs": 6})
    packed = pack(backbone, options)
    for number, result in enumerate(packed):
        single = alone(backbone, number, options)
        assert result.steps == single.steps == 18
        assert result.pairs == single.pairs
        losses = [[record.loss for record in one.history] for one in (result, single)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for got, wanted in zip(result.head.parameters(), single.head.parameters(), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
        scored = [evaluate(one.head, backbone, toy_view()).summary() for one in (result, single)]
        assert abs(scored[0]["iou"] - scored[1]["iou"]) < 0.002
        assert not result.head.training
    assert not same_weights(packed[0], packed[1])


def test_a_pack_of_one_and_max_steps(backbone: Backbone) -> None:
    options = QUICK.model_copy(update={"max_steps": 4})
    [result] = fit_pack([member(backbone, 0, options)], backbone, toy_view())
    assert [record.steps for record in result.history] == [3, 1]
    single = alone(backbone, 0, options)
    assert [one.loss for one in result.history] == pytest.approx([one.loss for one in single.history])


def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack(backbone)
    monkeypatch.setattr("casam_cache.training.pack.REPORT_EVERY", 1)
    for instant in (5, 8):

        def kill(progress: Any, instant: int = instant) -> None:
            if progress.step == instant:
                raise KilledError

        with pytest.raises(KilledError):
            pack(backbone, checkpoint_dir=tmp_path, on_step=kill)
    resumed = pack(backbone, checkpoint_dir=tmp_path)
    again = pack(backbone, checkpoint_dir=tmp_path)
    for first, second, third in zip(whole, resumed, again, strict=True):
        assert (second.resumed_from, third.resumed_from) == (2, 3)
        assert first.history == second.history == third.history
        assert same_weights(first, second)
        assert same_weights(first, third)
        assert third.seconds == 0


def test_some_members_of_a_finished_pack_are_what_they_were(backbone: Backbone, tmp_path: Path) -> None:
    whole = pack(backbone, checkpoint_dir=tmp_path)
    some = fit_pack([member(backbone, n) for n in (3, 1)], backbone, toy_view(), checkpoint_dir=tmp_path)
    assert same_weights(some[0], whole[3])
    assert same_weights(some[1], whole[1])


def test_some_members_go_on_from_the_pack_with_their_adam_states(backbone: Backbone, tmp_path: Path) -> None:
    longer = QUICK.model_copy(update={"epochs": 4})
    epochs = []

    def stop(records: Any, progress: Any) -> None:
        epochs.append(records)
        if len(epochs) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        pack(backbone, longer, checkpoint_dir=tmp_path, on_epoch=stop)
    some = fit_pack(
        [member(backbone, n, longer) for n in (3, 1)], backbone, toy_view(), checkpoint_dir=tmp_path
    )
    for number, result in zip((3, 1), some, strict=True):
        assert result.resumed_from == 2
        single = alone(backbone, number, longer)
        assert [r.loss for r in result.history] == pytest.approx([r.loss for r in single.history], rel=1e-4)


def test_the_checkpoint_is_one_file_and_belongs_to_its_fits(backbone: Backbone, tmp_path: Path) -> None:
    pack(backbone, checkpoint_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    saved = read_checkpoint(tmp_path, "pack")
    assert saved is not None
    assert len(saved["members"]) == len(MEMBERS)
    other = PackRequest(build_head("alignment", None, backbone, 9), QUICK, 9)
    with pytest.raises(CasamError, match="other options, data or seeds"):
        fit_pack([member(backbone, 0), other], backbone, toy_view(), checkpoint_dir=tmp_path)
    with pytest.raises(CasamError, match="other options, data or seed"):
        alone(backbone, 0, checkpoint_dir=tmp_path)
    with pytest.raises(CasamError, match="the same fit twice"):
        fit_pack([member(backbone, 0), member(backbone, 0)], backbone, toy_view(), checkpoint_dir=tmp_path)


def test_the_same_numbers_wherever_embeddings_are_kept(backbone: Backbone) -> None:
    kept = pack(backbone, residency="device")
    for residency in ("host", "stream"):
        other = pack(backbone, residency=residency)
        assert all(same_weights(*both) for both in zip(kept, other, strict=True))


def test_cached_views_are_drawn_by_each_member(backbone: Backbone) -> None:
    view = toy_view()
    mirrored = replace(view, further={"view_flip_h": view.embeddings[..., ::-1].copy()})
    options = QUICK.model_copy(update={"views": "flip_h"})
    asked = [member(backbone, number, options) for number in (0, 1)]
    for number, result in enumerate(fit_pack(asked, backbone, mirrored)):
        one = member(backbone, number, options)
        single = fit_head(one.head, backbone, mirrored, one.options, seed=one.seed)
        assert [r.loss for r in result.history] == pytest.approx([r.loss for r in single.history], rel=1e-4)
        assert result.history != alone(backbone, number).history


def test_embeddings_are_read_once_for_all(backbone: Backbone) -> None:
    read: list[int] = []

    class Counted(ItemsInMemory):
        def embedding(self, index: int) -> Any:
            read.append(index)
            return super().embedding(index)

    view = toy_view()
    counted = Counted(view.task, view.items, view.embeddings, view.bitmaps)
    fit_pack([member(backbone, n) for n in range(4)], backbone, counted, residency="device")
    assert len(read) <= len(view) + 1  # one more to see the shape


def test_what_cannot_be_packed_is_refused(backbone: Backbone) -> None:
    def refused(head: Head, reason: str, options: TrainingOptions = QUICK) -> None:
        asked = [member(backbone, 0), PackRequest(head, options, 5)]
        with pytest.raises(CasamError, match=reason):
            fit_pack(asked, backbone, toy_view())

    def built(name: str) -> Head:
        return build_head(name, None, backbone, 1)

    refused(built("decoder"), "'decoder' cannot be packed: it has a mask decoder of its own")
    refused(built("hq-sam"), "'hq-sam' cannot be packed: it reads early")
    refused(built("prompt-pool"), "'prompt-pool' cannot be packed")
    refused(built("identity"), "has nothing to train")
    for name, value in {"epochs": 9, "batch_size": 3, "masks_per_image": 1, "max_steps": 5}.items():
        refused(built("alignment"), f"different {name}", QUICK.model_copy(update={name: value}))
    one = member(backbone, 0)
    with pytest.raises(ValueError, match="a head object of its own"):
        fit_pack([one, one], backbone, toy_view())
    with pytest.raises(ValueError, match="at least one fit"):
        fit_pack([], backbone, toy_view())
    assert why_not_packed(built("alignment")) is None


def test_a_member_that_diverges_is_named_and_spoils_no_other(backbone: Backbone, tmp_path: Path) -> None:
    class Infinite(AlignmentLayer):
        def forward(self, embedding: torch.Tensor) -> torch.Tensor:
            return super().forward(embedding) * float("inf")

    options = QUICK.model_copy(update={"epochs": 1, "learning_rate": 0.5})
    bad = Infinite(16, build_head("alignment", None, backbone, 0).options, 0)  # type: ignore[arg-type]
    good = member(backbone, 0, QUICK.model_copy(update={"epochs": 1}))
    with pytest.raises(
        CasamError, match=r"seed 7, learning_rate=0.5: the loss is no longer finite in epoch 1"
    ):
        fit_pack([good, PackRequest(bad, options, 7)], backbone, toy_view())
    single = alone(backbone, 0, QUICK.model_copy(update={"epochs": 1}))
    for got, wanted in zip(good.head.parameters(), single.head.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_bf16_trains(backbone: Backbone) -> None:
    packed = pack(backbone, QUICK.model_copy(update={"precision": "bf16"}))
    for number, result in enumerate(packed):
        assert result.precision == "bf16"
        assert result.history[-1].loss == pytest.approx(alone(backbone, number).history[-1].loss, rel=0.1)
