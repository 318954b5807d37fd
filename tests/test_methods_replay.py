"""ER and DER: which images stay, which are replayed when, and what the terms come to."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_sequences import QUICK, TINY, learn, look, made, past_of, same, setting_of

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.heads.files import build_head
from casam_cache.methods.der import DER, DarkReplay
from casam_cache.methods.er import ER
from casam_cache.methods.sequential import Past
from casam_cache.training.exemplars import select_exemplars, shares
from casam_cache.training.items import join, pick
from casam_cache.training.loop import fit_head
from casam_cache.training.losses import segmentation_loss, squared_error
from casam_cache.training.replay import AHEAD, Replay
from casam_cache.training.reservoir import Reservoir
from casam_cache.training.step import Step, forward_pairs

VIEWS = {"a": look("a", 1, 5, empty=1), "b": look("b", 2, 4), "c": look("c", 3, 3)}
EXEMPLARS = [("a", "image 0"), ("a", "image 3"), ("b", "image 1")]


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


def ids(count):
    return [f"i{number}" for number in range(count)]


# Which images stay


def one_by_one(order, sizes, size, selection):
    """What is kept when tasks come one after the other, each time from what is left and the new task."""
    kept: list[tuple[str, str]] = []
    for task in order:
        candidates = {name: [item for own, item in kept if own == name] for name in {own for own, _ in kept}}
        kept = select_exemplars({**candidates, task: ids(sizes[task])}, size, selection, 0)
    return kept


@pytest.mark.parametrize("selection", ["balanced", "reservoir"])
@pytest.mark.parametrize("size", [1, 5, 10, 100])
def test_what_is_kept_does_not_depend_on_the_order_of_the_tasks(selection, size):
    sizes = {"a": 12, "b": 2, "c": 7, "d": 30}
    kept = one_by_one("abcd", sizes, size, selection)
    assert kept == one_by_one("dbca", sizes, size, selection) == one_by_one("bdac", sizes, size, selection)
    assert kept == sorted(set(kept))
    assert len(kept) == min(size, 51)


def test_balanced_shares_and_reservoir_is_in_proportion():
    sizes = {"a": 1000, "b": 3, "c": 200}
    shared = Counter(task for task, _ in one_by_one("abc", sizes, 60, "balanced"))
    assert shared == {"a": 29, "b": 3, "c": 28}
    assert shares({"b": 9, "a": 9}, 5) == {"a": 3, "b": 2}
    uniform = Counter(task for task, _ in one_by_one("abc", sizes, 240, "reservoir"))
    assert uniform["a"] == pytest.approx(240 * 1000 / 1203, abs=20)


def test_a_reservoir_is_a_uniform_choice():
    """Each of 12 images, seen in two tasks, stays in a bank of 4 with probability one third."""
    kept = Counter(
        name
        for seed in range(600)
        for name in select_exemplars({"a": ids(5), "b": ids(7)}, 4, "reservoir", seed)
    )
    assert len(kept) == 12
    assert all(count / 600 == pytest.approx(1 / 3, abs=0.08) for count in kept.values())


def test_er_keeps_images_with_masks_and_only_their_names(backbone):
    setting = setting_of(backbone, QUICK, "a")
    memory = made(ER, "buffer_size=100").remember(None, VIEWS["a"], None, None, setting)
    assert [exemplar.item for exemplar in memory.exemplars] == [
        f"image {i}" for i in range(4)
    ]  # the fifth has none
    assert memory.tensors == {}


# Replay of a batch at each step


def replay(backbone, task="c", seed=0, exemplars=EXEMPLARS, options=QUICK):
    return Replay(pick(VIEWS, exemplars), backbone, options, ("embedding",), seed, task)


def names(pairs):
    return [(item.task, item.id) for item in pairs.items]


def test_a_replayed_batch_is_a_function_of_seed_task_and_step(backbone):
    straight = list(map(replay(backbone).at, range(AHEAD + 4)))
    other = replay(backbone)
    for step in (7, AHEAD + 2, 3, 4):
        pairs = other.at(step)
        assert names(pairs) == names(straight[step])
        assert torch.equal(pairs.sparse, straight[step].sparse)
        assert torch.equal(pairs.features["embedding"], straight[step].features["embedding"])
        assert torch.equal(pairs.target, straight[step].target)
    assert all(len(set(names(pairs))) == 2 for pairs in straight)  # a step's images, without replacement
    assert len({str(pairs.coordinates) for pairs in straight}) == len(straight)
    drawn = [names(pairs) for pairs in straight]
    assert drawn != [names(pairs) for pairs in map(replay(backbone, task="d").at, range(AHEAD + 4))]
    assert drawn != [names(pairs) for pairs in map(replay(backbone, seed=1).at, range(AHEAD + 4))]


def test_a_small_bank_is_replayed_whole(backbone):
    few = replay(backbone, exemplars=EXEMPLARS[:1])
    assert names(few.at(0)) == names(few.at(1)) == EXEMPLARS[:1]


def a_step(head, backbone, pairs, index=0, epoch=0):
    return Step(head, backbone, pairs, *forward_pairs(head, backbone, pairs), epoch, index)


def test_er_adds_the_loss_of_the_replayed_batch(backbone):
    head = build_head("alignment", {"blocks": 1, "init": "random"}, backbone, 4)
    method = made(ER, "replay=batch", "replay_weight=0.25")
    past = Past(head, None, pick(VIEWS, EXEMPLARS), ("a", "b"))
    setting = setting_of(backbone, QUICK, "c")
    term = method.penalty(VIEWS["c"], past, setting).term(
        SimpleNamespace(head=head, backbone=backbone, index=5)
    )
    pairs = replay(backbone).at(5)
    _, low_res, iou = forward_pairs(head, backbone, pairs)
    expected = segmentation_loss(low_res, iou, pairs.target, pairs.weight, QUICK).total
    assert term.item() == pytest.approx(0.25 * expected.item(), rel=1e-5)
    assert method.items(VIEWS["c"], past, setting) is VIEWS["c"]


def test_er_concatenates_as_algorithm_3_is_written(backbone, tmp_path):
    method = made(ER, "buffer_size=4")
    learnt = learn(method, backbone, VIEWS, ["a", "b"], tmp_path)
    assert learnt.fits[1].pairs == QUICK.epochs * (4 + 4)
    past = past_of(tmp_path / "0 a", backbone, VIEWS, ["a"], ["a"])
    head = made(ER).start(past, setting_of(backbone, QUICK, "b"))
    union = join([VIEWS["b"], past.replay], purposes=[(), ("replay", "b")])
    fit_head(head, backbone, union, QUICK)
    assert same(head, learnt.heads[1])
    assert method.penalty(VIEWS["b"], past, setting_of(backbone, QUICK, "b")).term(None) is None


# DER's reservoir


class Pairs(SimpleNamespace):
    def __len__(self):
        return len(self.coordinates)


def pairs_of(task, order):
    """Pairs of some images of a view, one mask each, with boxes of consecutive numbers."""
    return Pairs(
        items=tuple(VIEWS[task].item(i) for i in order),
        image_index=None,
        is_box=np.arange(len(order)) % 2 == 0,
        coordinates=np.arange(4 * len(order), dtype=np.float32).reshape(-1, 4),
    )


def offered(task, order, epoch, value):
    """A step whose logits are `value` + the image's number, everywhere."""
    low_res = torch.stack([torch.full((32, 32), value + i) for i in order])
    return SimpleNamespace(pairs=pairs_of(task, order), low_res=low_res, epoch=epoch)


def key(task, epoch, item, seed=0):
    return generator(seed, task, "reservoir", epoch, item, 0).random()


def test_the_reservoir_against_a_direct_simulation(backbone):
    """Offer by offer: what a list of all offers, sorted by their numbers, begins with."""
    reservoir = Reservoir(5, [VIEWS["a"]], backbone, ("embedding",), 0, "a")
    everything = []
    for epoch in range(6):
        for order in ([2, 0], [3, 1]):
            step = offered("a", order, epoch, 100.0 * epoch)
            reservoir.offer(step)
            for place, i in enumerate(order):
                box = step.pairs.coordinates[place]
                name = ("a", f"image {i}")
                everything.append(
                    (key("a", epoch, name[1]), name, 100.0 * epoch + i, place == 0, box.tolist())
                )
            state = reservoir.state()
            held = sorted(
                zip(
                    state["keys"].tolist(),
                    map(tuple, state["entries"]),
                    state["logits"][:, 3, 4].tolist(),
                    state["is_box"].tolist(),
                    state["coordinates"].tolist(),
                    strict=True,
                )
            )
            assert held == sorted(everything)[:5]
    assert state["logits"].dtype == torch.float16
    assert len(reservoir) == 5


def test_pairs_of_one_image_draw_for_themselves(backbone):
    reservoir = Reservoir(9, [VIEWS["a"]], backbone, ("embedding",), 0, "a")
    step = offered("a", [1, 2, 3], 0, 0.0)
    step.pairs.items = step.pairs.items[:2]
    step.pairs.image_index = torch.tensor([0, 0, 1])
    reservoir.offer(step)
    assert reservoir.entries == [("a", "image 1"), ("a", "image 1"), ("a", "image 2")]
    assert len(set(reservoir.state()["keys"].tolist())) == 3


def test_a_full_reservoir_that_takes_two_of_a_step_for_one_place_keeps_the_last(backbone):
    for size in (1, 2):
        reservoir = Reservoir(size, [VIEWS["a"]], backbone, ("embedding",), 0, "a")
        for epoch in range(8):
            reservoir.offer(offered("a", [0, 1, 2, 3], epoch, 100.0 * epoch))
        best = sorted((key("a", e, f"image {i}"), 100.0 * e + i) for e in range(8) for i in range(4))[:size]
        state = reservoir.state()
        assert sorted(state["logits"][:, 0, 0].tolist()) == sorted(value for _, value in best)


def test_every_offer_stays_equally_often(backbone):
    stayed = Counter()
    for seed in range(300):
        keys = sorted((key("a", epoch, f"i{i}", seed), epoch, i) for epoch in range(3) for i in range(4))
        stayed.update((epoch, i) for _, epoch, i in keys[:3])
    assert all(stayed[epoch, i] / 300 == pytest.approx(0.25, abs=0.1) for epoch in range(3) for i in range(4))


def filled(backbone, residency="auto", size=5):
    reservoir = Reservoir(
        size, [VIEWS["c"], pick(VIEWS, EXEMPLARS)], backbone, ("embedding",), 0, "c", residency
    )
    reservoir.offer(offered("c", [0, 2], 0, 1.0))
    past = offered("a", [0, 3], 0, 2.0)
    reservoir.offer(past)
    return reservoir


def test_der_by_hand(backbone):
    """alpha times the mean over pairs of the squared difference, over the cells that hold image."""
    reservoir = filled(backbone)
    head = build_head("alignment", {"blocks": 1, "init": "random"}, backbone, 4)
    step = offered("c", [0], 1, 0.0)
    vars(step).update(head=head, backbone=backbone, index=3)
    slots = reservoir.draw(3, 2)
    now, then, weight = (tensor.detach().numpy() for tensor in reservoir.replay(head, slots))
    names_then = [reservoir.entries[slot] for slot in slots]
    assert set(np.unique(weight)) == {0, 1}
    assert weight[:, 24:].max() == 0  # 48 of 64 rows hold image
    for row, name in enumerate(names_then):
        assert np.unique(then[row]) == {"c": 1.0, "a": 2.0}[name[0]] + int(name[1][-1])
    cells = (now - then)[:, :24] ** 2
    expected = 0.3 * cells.reshape(2, -1).mean(1).mean()
    term = DarkReplay(reservoir, 0.3, 2).term(step)
    assert term.item() == pytest.approx(expected, rel=1e-5)
    assert len(reservoir) == 5  # the step's own pair came in afterwards
    term.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    one = torch.ones(1, 2, 2)
    assert squared_error(3 * one, one, one).item() == 4.0  # a mean, not a norm


def test_logits_that_did_not_change_cost_nothing(backbone):
    """Replayed with the same head, image and prompt, the difference is what half precision leaves."""
    head = build_head("alignment", {"blocks": 1, "init": "random"}, backbone, 4)
    pairs = replay(backbone, exemplars=EXEMPLARS).at(0)
    reservoir = Reservoir(3, [pick(VIEWS, EXEMPLARS)], backbone, ("embedding",), 0, "c")
    reservoir.offer(a_step(head, backbone, pairs))
    now, then, weight = reservoir.replay(head, reservoir.draw(0, 3))
    assert squared_error(now, then, weight).max() < 1e-5 * then.square().mean()


def test_the_same_numbers_wherever_features_wait(backbone):
    head = build_head("alignment", {"blocks": 1, "init": "random"}, backbone, 4)
    found = []
    for residency in ("device", "stream"):
        reservoir = filled(backbone, residency)
        again = Reservoir(
            5, [VIEWS["c"], pick(VIEWS, EXEMPLARS)], backbone, ("embedding",), 0, "c", residency
        )
        again.restore(reservoir.state())
        assert again.entries == reservoir.entries
        found += [one.replay(head, np.arange(4)) for one in (reservoir, again)]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_der_goes_on_from_the_memory_of_the_task_before(backbone, tmp_path):
    learnt = learn(made(DER, "buffer_size=6"), backbone, VIEWS, ["b", "a"], tmp_path)
    first, second = learnt.memories
    # 2 epochs of 4 images, twice: the six smallest numbers of all offers of both tasks
    offers = sorted(
        (key(task, epoch, item.id), task, item.id)
        for task in "ab"
        for epoch in range(2)
        for item in VIEWS[task]
        if item.masks
    )[:6]
    assert sorted(second.tensors["keys"].tolist()) == [one for one, _, _ in offers]
    entries = Counter((task, item) for _, task, item in offers)
    assert Counter(map(tuple, second.facts["entries"])) == entries
    assert list(second.exemplars) == sorted(set(entries))
    kept = dict(zip(first.tensors["keys"].tolist(), first.tensors["logits"], strict=True))
    for number, logits in zip(second.tensors["keys"].tolist(), second.tensors["logits"], strict=True):
        assert number not in kept or torch.equal(logits, kept[number])
    assert second.bytes == 6 * (2 * 32 * 32 + 8 + 1 + 16)


def test_der_stores_what_the_model_said_at_that_step(backbone):
    """With a learning rate of almost zero all logits of the trajectory are those of the first head."""
    setting = setting_of(backbone, QUICK.model_copy(update={"learning_rate": 1e-12, "epochs": 1}), "c")
    method = made(DER, "buffer_size=9")
    head = method.start(None, setting)
    penalty = method.penalty(VIEWS["c"], None, setting)
    fit_head(head, backbone, VIEWS["c"], setting.training, penalty=penalty)
    memory = method.remember(head, VIEWS["c"], None, penalty, setting)
    reservoir = Reservoir(9, [VIEWS["c"]], backbone, ("embedding",), 0, "c")
    reservoir.restore({**memory.tensors, **memory.facts})
    with torch.no_grad():
        now, then, _ = reservoir.replay(head, np.arange(3))
    torch.testing.assert_close(now.half().float(), then, rtol=2e-3, atol=1e-4)


def test_an_entry_whose_image_is_not_there_is_refused(backbone):
    state = filled(backbone).state()
    with pytest.raises(CasamError, match="a/image 0 is not among those replayed"):
        Reservoir(5, [VIEWS["c"]], backbone, ("embedding",), 0, "c").restore(state)
