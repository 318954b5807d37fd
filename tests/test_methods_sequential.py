"""Methods that go over tasks with one head: arithmetic, resume, memory on disk, and what they forget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_sequences import QUICK, TINY, learn, look, made, past_of, same, setting_of

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import OptionError
from casam_cache.heads.files import build_head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.alignment import Alignment
from casam_cache.methods.der import DER
from casam_cache.methods.er import ER
from casam_cache.methods.ewc import EWC
from casam_cache.methods.joint import Joint
from casam_cache.methods.lwf import LwF
from casam_cache.methods.memory import Memory, load_memory, save_memory
from casam_cache.methods.naive import Naive
from casam_cache.methods.registry import METHODS
from casam_cache.methods.sequential import Past
from casam_cache.training.epochs import TrainingMasks, draw_epoch
from casam_cache.training.evaluate import evaluate
from casam_cache.training.feed import Feed, place_features
from casam_cache.training.loop import fit_head
from casam_cache.training.losses import distillation_loss
from casam_cache.training.options import TrainingOptions
from casam_cache.training.outcomes import score
from casam_cache.training.step import Step, forward_pairs

EVERY = [
    (Naive, ()),
    (LwF, ()),
    (EWC, ()),
    (EWC, ("consolidation=online",)),
    (EWC, ("consolidation=separate",)),
    (ER, ("buffer_size=4",)),
    (ER, ("buffer_size=4", "replay=batch")),
    (DER, ("buffer_size=4", "alpha=1")),
]
NAMES = [" ".join([method.name, *options]) for method, options in EVERY]
every = pytest.mark.parametrize(("method", "options"), EVERY, ids=NAMES)


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


@pytest.fixture(scope="module")
def views():
    return {"a": look("a", 1, 5, empty=1), "b": look("b", 2, 4), "c": look("c", 3, 3)}


def test_methods_are_found_by_name():
    for method in (Naive, LwF, EWC, ER, DER, Joint):
        assert METHODS.get(method.name) is method


@pytest.mark.parametrize("method", [Naive, LwF, EWC, ER, DER, Joint])
def test_options_are_checked_by_name_and_type(method):
    with pytest.raises(OptionError, match="unknown option 'no_such'"):
        made(method, "no_such=1")
    with pytest.raises(OptionError, match="wrong value for norm"):
        made(method, "norm=nowhere")
    assert set(method.Options.model_fields).isdisjoint(TrainingOptions.model_fields)
    assert set(AlignmentOptions.model_fields) <= set(method.Options.model_fields)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (LwF, "distillation_weight=-1"),
        (LwF, "distillation_temperature=0"),
        (EWC, "consolidation=twice"),
        (EWC, "ewc_gamma=2"),
        (EWC, "fisher_images=0"),
        (ER, "buffer_size=0"),
        (ER, "selection=best"),
        (DER, "alpha=-0.1"),
        (DER, "buffer_size=many"),
        (Joint, "balance=both"),
    ],
)
def test_wrong_values_are_refused(method, wrong):
    with pytest.raises(OptionError, match=f"wrong value for {wrong.split('=')[0]}"):
        made(method, wrong)


@every
def test_a_first_task_starts_as_an_ordinary_fit(backbone, views, method, options):
    sequential = made(method, *options)
    setting = setting_of(backbone, QUICK, "a")
    head = sequential.start(None, setting)
    assert same(head, made(Alignment).build(backbone, 0))
    assert (head.name, head.options) == (
        "alignment",
        AlignmentOptions(blocks=1),
    )  # a file that `predict` reads
    assert sequential.items(views["a"], None, setting) is views["a"]


def test_naive_is_a_fit_that_starts_from_the_last_head(backbone, views, tmp_path):
    learnt = learn(made(Naive), backbone, views, ["a", "b"], tmp_path)
    head = made(Alignment).build(backbone, 0)
    for task, found in zip("ab", learnt.heads, strict=True):
        head.requires_grad_(True)
        fit_head(head, backbone, views[task], QUICK)
        assert same(head, found)
    assert learnt.memories[1].bytes == 0
    assert not Naive.remembers


def test_the_last_head_stays_as_it_was(backbone, views, tmp_path):
    learn(made(Naive), backbone, views, ["a"], tmp_path)
    past = past_of(tmp_path / "0 a", backbone, views, ["a"], ["a"])
    kept = [parameter.clone() for parameter in past.head.parameters()]
    head = made(Naive).start(past, setting_of(backbone, QUICK, "b"))
    assert same(head, past.head)
    assert all(parameter.requires_grad for parameter in head.parameters())
    fit_head(head, backbone, views["b"], QUICK)
    assert not any(parameter.requires_grad for parameter in past.head.parameters())
    assert all(torch.equal(a, b) for a, b in zip(kept, past.head.parameters(), strict=True))


# LwF


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(("temperature", "dice"), [(1.0, True), (2.0, False), (4.0, True)])
def test_distillation_by_hand(temperature, dice):
    rng = np.random.default_rng(1)
    student, teacher = rng.standard_normal((2, 2, 3, 3)) * 4
    weight = rng.random((2, 3, 3))
    weight[:, 2] = 0  # padding
    p, q = sigmoid(student / temperature), sigmoid(teacher / temperature)
    entropy = -(q * np.log(p) + (1 - q) * np.log(1 - p))
    expected = (weight * entropy).sum((1, 2)) / weight.sum((1, 2))
    if dice:
        both = (weight * p * q).sum((1, 2))
        expected += 1 - (2 * both + 1) / ((weight * (p + q)).sum((1, 2)) + 1)
    found = distillation_loss(
        *map(torch.from_numpy, (student, teacher, weight)), temperature, 1.0 if dice else None
    )
    np.testing.assert_allclose(found, temperature**2 * expected, rtol=1e-5)


def first_step(head, backbone, view):
    masks = TrainingMasks.prepare(view)
    feed = Feed(masks, place_features(view, masks.trained, backbone.device, head.needs), backbone)
    pairs = next(feed.epoch(draw_epoch(masks, QUICK, 0, 0)))
    return Step(head, backbone, pairs, *forward_pairs(head, backbone, pairs), 0, 0)


def test_lwf_asks_the_last_head_with_the_same_prompts(backbone, views):
    teacher = (
        build_head("alignment", {"blocks": 1, "init": "random"}, backbone, 3).eval().requires_grad_(False)
    )
    head = build_head("alignment", {"blocks": 1, "init": "random"}, backbone, 4)
    past = Past(teacher, Memory(), None, ("a",))
    method = made(LwF, "distillation_weight=0.5", "distillation_temperature=2")
    step = first_step(head, backbone, views["b"])
    term = method.penalty(views["b"], past, setting_of(backbone, QUICK, "b")).term(step)
    assert step.pairs.weight.min() == 0  # the images are wider than high
    _, taught, _ = forward_pairs(teacher, backbone, step.pairs)
    p, q = sigmoid(step.low_res.detach().numpy() / 2), sigmoid(taught.numpy() / 2)
    weight = step.pairs.weight.numpy()
    entropy = (weight * -(q * np.log(p) + (1 - q) * np.log(1 - p))).sum((1, 2)) / weight.sum((1, 2))
    dice = 1 - (2 * (weight * p * q).sum((1, 2)) + 1) / ((weight * (p + q)).sum((1, 2)) + 1)
    assert term.item() == pytest.approx(0.5 * 4 * (entropy + dice).mean(), rel=1e-4)
    term.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


# What holds for all of them


class KilledError(Exception):
    pass


@every
def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(
    backbone, views, tmp_path, method, options, monkeypatch
):
    monkeypatch.setattr("casam_cache.training.loop.REPORT_EVERY", 1)
    sequential = made(method, *options)
    learn(sequential, backbone, views, ["a", "b"], tmp_path)
    setting = setting_of(backbone, QUICK.model_copy(update={"epochs": 3}), "c")
    for past in (None, past_of(tmp_path / "1 b", backbone, views, ["a", "b"], ["a", "b"])):
        folder = tmp_path / f"checkpoint {past is None}"
        folder.mkdir()

        def run(past=past, **more):
            head = sequential.start(past, setting)
            penalty = sequential.penalty(views["c"], past, setting)
            items = sequential.items(views["c"], past, setting)
            fit = fit_head(head, backbone, items, setting.training, penalty=penalty, **more)
            return fit, sequential.remember(head, views["c"], past, penalty, setting)

        def kill(progress):
            if progress.step == 2 * progress.steps // 3 + 1:  # in the third epoch
                raise KilledError

        whole, memory = run()
        with pytest.raises(KilledError):
            run(checkpoint_dir=folder, on_step=kill)
        resumed, again = run(checkpoint_dir=folder)
        assert resumed.resumed_from == 2
        assert same(whole.head, resumed.head)
        assert resumed.history == whole.history
        assert_same_memory(memory, again)
        finished, once_more = run(checkpoint_dir=folder)
        assert finished.seconds == 0
        assert_same_memory(memory, once_more)


def assert_same_memory(first, second):
    assert (first.facts, first.exemplars) == (second.facts, second.exemplars)
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@every
def test_memory_comes_back_from_disk(backbone, views, tmp_path, method, options):
    sequential = made(method, *options)
    memory = learn(sequential, backbone, views, ["b", "a"], tmp_path).memories[-1]
    folder = tmp_path / "again"
    folder.mkdir()
    save_memory(memory, folder)
    assert_same_memory(memory, load_memory(folder))
    assert load_memory(folder).bytes == memory.bytes
    assert method.remembers == bool(memory.tensors or memory.exemplars)


@every
def test_a_task_is_learnt_the_same_wherever_it_stands(backbone, views, tmp_path, method, options):
    """Only the head and the memory count: neither how many tasks came before, nor their names."""
    sequential = made(method, *options)
    learn(sequential, backbone, views, ["b", "a"], tmp_path)
    past = past_of(tmp_path / "1 a", backbone, views, ["b", "a"], ["b", "a"])
    found = []
    for tasks in (past.tasks, ("z", "y", "b", "x", "a")):
        now = replace(past, tasks=tasks)
        setting = setting_of(backbone, QUICK, "c")
        torch.manual_seed(len(tasks))
        head = sequential.start(now, setting)
        penalty = sequential.penalty(views["c"], now, setting)
        fit_head(head, backbone, sequential.items(views["c"], now, setting), QUICK, penalty=penalty)
        found.append((head, sequential.remember(head, views["c"], now, penalty, setting)))
    assert same(found[0][0], found[1][0])
    assert_same_memory(found[0][1], found[1][1])


@pytest.mark.slow
def test_naive_forgets_what_er_and_ewc_keep(tmp_path):
    """In the second task the object is where the first had background, and the other way round."""
    sam = seeded_backbone(TINY, 0)
    training = TrainingOptions(epochs=60, learning_rate=1e-2)
    tuned = fit_head(build_head("decoder", None, sam, 1), sam, look("known", 99, 6), training)
    backbone = sam.with_decoder(tuned.head.mask_decoder.requires_grad_(False))
    views = {"a": look("a", 1, 6), "b": look("b", 1, 6, sign=-1)}
    training = TrainingOptions(epochs=40, learning_rate=5e-3)
    forgotten = {}
    for method in (Naive, ER, EWC):
        heads = learn(made(method), backbone, views, ["a", "b"], tmp_path / method.name, training).heads
        first, last = (score(evaluate(head, backbone, views["a"]))["iou"].mean for head in heads)
        forgotten[method.name] = first - last
    assert forgotten["naive"] > 0.5
    assert forgotten["er"] < 0.1
    assert forgotten["ewc"] < 0.3


def test_exemplars_reach_the_next_task_by_name_alone(backbone, views, tmp_path):
    learnt = learn(made(ER, "buffer_size=3"), backbone, views, ["a"], tmp_path)
    (memory,) = learnt.memories
    assert len(memory.exemplars) == 3
    assert memory.bytes == 0
    past = past_of(tmp_path / "0 a", backbone, views, ["a"], ["a"])
    assert [(item.task, item.id) for item in past.replay] == list(memory.exemplars)
