"""EWC: the Fisher information sample by sample, the penalty by hand, and what each mode remembers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toy_sequences import QUICK, TINY, learn, look, made, past_of, setting_of

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.heads.files import build_head
from casam_cache.methods.ewc import EWC, Quadratic
from casam_cache.training.epochs import TrainingMasks, draw_prompt, low_res_cover, low_res_target
from casam_cache.training.feed import pack_prompts
from casam_cache.training.fisher import fisher_diagonal, scaled_to_mean_one
from casam_cache.training.losses import segmentation_loss

VIEW = look("toy", 1, 4, empty=1)


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


@pytest.fixture
def head(backbone):
    return build_head("alignment", {"blocks": 1, "init": "random"}, backbone, 1).eval()


def gradients(head, backbone, loss):
    """One sample at a time: its gradient by name, its prompt drawn as the issue says."""
    masks = TrainingMasks.prepare(VIEW)
    for index in range(3):
        item, (mask,) = VIEW.item(index), VIEW.masks(index)
        rng = generator(0, "toy", "fisher", item.id)
        rng.random()
        rng.permutation(1)
        is_box, corners = draw_prompt(masks.runs[index], item.geometry, QUICK, rng)
        prompts = pack_prompts(torch.tensor([is_box]), torch.from_numpy(corners)[None])
        sparse, dense = backbone.embed_prompts(prompts)
        aligned = head(torch.from_numpy(VIEW.feature("embedding", index).astype(np.float32))[None])
        low_res, iou = backbone.decode(aligned, None, sparse, dense, False)
        target = torch.from_numpy(low_res_target(mask.bitmap, item.geometry))[None]
        rows, columns = map(torch.from_numpy, low_res_cover(item.geometry))
        weight = (rows[:, None] * columns)[None]
        if loss == "likelihood":
            value = F.binary_cross_entropy_with_logits(low_res[:, 0], target.float(), weight, reduction="sum")
        else:
            value = segmentation_loss(low_res[:, 0], iou[:, 0], target, weight, QUICK).total
        named = dict(head.named_parameters())
        yield dict(zip(named, torch.autograd.grad(value, list(named.values())), strict=True))


@pytest.mark.parametrize("loss", ["likelihood", "training"])
def test_fisher_is_the_mean_of_squared_gradients_not_the_square_of_the_mean(backbone, head, loss):
    before = [tensor.clone() for tensor in head.state_dict().values()]
    fisher = fisher_diagonal(head, backbone, VIEW, QUICK, seed=0, task="toy", loss=loss)
    single = list(gradients(head, backbone, loss))
    for name, found in fisher.items():
        each = torch.stack([one[name] for one in single])
        torch.testing.assert_close(found, each.square().mean(0), rtol=2e-4, atol=1e-6 * float(found.max()))
    name = "blocks.0.conv1.weight" if "blocks.0.conv1.weight" in fisher else next(iter(fisher))
    each = torch.stack([one[name] for one in single])
    assert not torch.allclose(fisher[name], each.mean(0).square(), rtol=0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, head.state_dict().values(), strict=True))


def test_fisher_belongs_to_seed_task_and_image(backbone, head):
    def fisher(**more):
        given = {"seed": 0, "task": "toy", **more}
        return fisher_diagonal(head, backbone, VIEW, QUICK, **given)

    def equal(first, second):
        return all(torch.equal(first[name], second[name]) for name in first)

    torch.manual_seed(5)
    assert equal(fisher(), fisher())
    assert not equal(fisher(), fisher(seed=1))
    assert not equal(fisher(), fisher(task="other"))
    assert not equal(fisher(), fisher(images=2))
    assert equal(fisher(), fisher(images=3))
    frozen = build_head("alignment", head.options, backbone, 1).eval().requires_grad_(False)
    assert equal(fisher(), fisher_diagonal(frozen, backbone, VIEW, QUICK, seed=0, task="toy"))


def test_fisher_needs_a_mask(backbone, head):
    with pytest.raises(CasamError, match="has a mask"):
        fisher_diagonal(head, backbone, look("empty", 1, 2, empty=2), QUICK, seed=0, task="empty")


def test_scaling_makes_the_mean_one():
    scaled = scaled_to_mean_one({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[9.0]])})
    torch.testing.assert_close(scaled["a"], torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(scaled["b"], torch.tensor([[2.25]]))
    nothing = {"a": torch.zeros(2)}
    assert scaled_to_mean_one(nothing) == nothing


def drawn(head, rng, positive=False):
    draw = {name: rng.standard_normal(p.shape) for name, p in head.named_parameters()}
    return {name: np.abs(value) if positive else value for name, value in draw.items()}


def tensors(arrays):
    return {name: torch.from_numpy(array).float() for name, array in arrays.items()}


def test_the_penalty_of_several_tasks_is_the_sum_of_their_parabolas(head):
    """Against Algorithm 2 written out in numpy, value and gradient; a weight that mattered to nobody is free."""
    rng = np.random.default_rng(0)
    tasks = [(drawn(head, rng, positive=True), drawn(head, rng)) for _ in range(3)]
    for fisher, _ in tasks:
        fisher["blocks.0.conv1.bias"][0] = 0
    penalty = Quadratic([(tensors(fisher), tensors(weights)) for fisher, weights in tasks], 0.7)
    value = penalty.term(SimpleNamespace(head=head))
    value.backward()
    expected = 0.0
    for name, parameter in head.named_parameters():
        now = parameter.detach().numpy().astype(np.float64)
        expected += sum((fisher[name] * (now - weights[name]) ** 2).sum() for fisher, weights in tasks)
        slope = sum(1.4 * fisher[name] * (now - weights[name]) for fisher, weights in tasks)
        np.testing.assert_allclose(parameter.grad, slope, rtol=1e-4, atol=1e-4)
    assert value.item() == pytest.approx(0.7 * expected, rel=1e-5)


def run(backbone, tmp_path, *options, order=("a", "b", "c")):
    views = {name: look(name, number) for number, name in enumerate("abc")}
    method = made(EWC, "fisher_scale=none", *options)
    return method, views, learn(method, backbone, views, order, tmp_path)


def fisher_of(backbone, view, head, task):
    return fisher_diagonal(head, backbone, view, QUICK, seed=0, task=task)


@pytest.mark.parametrize("mode", ["last", "online", "separate"])
def test_what_each_mode_keeps_and_holds(backbone, tmp_path, mode):
    method, views, learnt = run(backbone, tmp_path, f"consolidation={mode}", "ewc_gamma=0.5", "ewc_weight=2")
    fishers = [fisher_of(backbone, views[t], h, t) for t, h in zip("abc", learnt.heads, strict=True)]
    kept = learnt.memories[1]
    names = [name for name, _ in learnt.heads[0].named_parameters()]
    if mode == "separate":
        assert sorted(kept.tensors) == sorted(
            f"{k}/{t}/{n}" for k in ("fisher", "weights") for t in "ab" for n in names
        )
        assert kept.bytes == 2 * learnt.memories[0].bytes
    else:
        assert sorted(kept.tensors) == sorted(f"fisher/{name}" for name in names)
        assert kept.bytes == learnt.memories[0].bytes == 4 * learnt.heads[0].trained_parameters()
    head = build_head("alignment", {"blocks": 1}, backbone, 5)
    past = past_of(tmp_path / "1 b", backbone, views, ["a", "b"], ["a", "b"])
    value = method.penalty(views["c"], past, setting_of(backbone, QUICK, "c")).term(
        SimpleNamespace(head=head)
    )
    expected = 0.0
    for name, parameter in head.named_parameters():
        at = [dict(h.named_parameters())[name].detach().double() for h in learnt.heads]
        away = [(parameter.detach().double() - one).square() for one in at]
        first, second = fishers[0][name].double(), fishers[1][name].double()
        terms = {
            "last": second * away[1],
            "online": (0.5 * first + second) * away[1],
            "separate": first * away[0] + second * away[1],
        }
        expected += 2 * float(terms[mode].sum())
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_separate_sums_do_not_depend_on_the_order_of_the_tasks(backbone, tmp_path):
    _, _, learnt = run(backbone, tmp_path, "consolidation=separate", order=("b", "a"))
    assert learnt.memories[1].facts == {"tasks": ["a", "b"]}


def test_no_memory_no_penalty(backbone):
    setting = setting_of(backbone, QUICK, "a")
    assert made(EWC).penalty(VIEW, None, setting).term(None) is None


def test_a_strong_penalty_holds_the_weights_that_mattered(backbone, tmp_path):
    def moved(weight):
        """The distance of the layer after the second task from that after the first, by importance."""
        views = {"a": look("a", 1), "b": look("b", 1, sign=-1)}
        method = made(EWC, f"ewc_weight={weight}")
        training = QUICK.model_copy(update={"epochs": 8})
        learnt = learn(method, backbone, views, ["a", "b"], tmp_path / str(weight), training)
        before, after = (head.state_dict() for head in learnt.heads)
        fisher = learnt.memories[0].tensors
        return sum(float((fisher[f"fisher/{n}"] * (before[n] - after[n]).square()).sum()) for n in before)

    assert moved(100) < 0.2 * moved(0)
