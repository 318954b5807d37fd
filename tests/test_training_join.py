"""Items made of items: what they hold, what they keep from whom, and how joint epochs are balanced."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from toy_sequences import QUICK, TINY, look, setting_of

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.geometry import Geometry
from casam_cache.heads.files import build_head
from casam_cache.methods.memory import Exemplar, Memory
from casam_cache.methods.naive import Naive, NaiveOptions
from casam_cache.methods.sequential import Past
from casam_cache.store import AnnotatedMask, AnnotatedSample, EmbeddingStore, ItemResult, StoreWriter
from casam_cache.store.annotations import Annotations, write_annotations
from casam_cache.training.epochs import TrainingMasks, draw_epoch
from casam_cache.training.items import Row, add_views, join, open_split, pick
from casam_cache.training.options import TrainingOptions
from casam_cache.views import parse_views

A, B = look("a", 1, 5, empty=1), look("b", 2, 3)


def test_a_join_holds_each_part_in_turn():
    joined = join([A, B])
    assert (joined.task, joined.embedding_shape, len(joined)) == ("a + b", (16, 8, 8), 8)
    assert [joined.item(index).task for index in range(8)] == ["a"] * 5 + ["b"] * 3
    np.testing.assert_array_equal(joined.feature("embedding", 6), B.feature("embedding", 1))
    np.testing.assert_array_equal(joined.feature("embedding", 4), A.feature("embedding", 4))
    assert joined.masks(5) is B.masks(0)
    for index in (-1, 8):
        with pytest.raises(IndexError, match="of a \\+ b"):
            joined.item(index)


def test_embeddings_of_other_shapes_are_not_joined():
    small = replace(A, embedding_shape=(8, 8, 8))
    with pytest.raises(CasamError, match="cannot be joined"):
        join([A, small])
    with pytest.raises(CasamError, match="cannot be joined"):
        join([])


def drawn(items, epoch: int = 0, options: TrainingOptions = QUICK):
    """(task, id) -> the prompts of each visit, as plain lists."""
    masks = TrainingMasks.prepare(items)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for batch in draw_epoch(masks, options, 0, epoch):
        for pair, image in enumerate(batch.image):
            item = masks.items[batch.items[image]]
            found.setdefault((item.task, item.id), []).append(batch.coordinates[pair].tolist())
    return found


def test_joining_changes_no_random_choice():
    assert drawn(join([A, B])) == drawn(A) | drawn(B)
    assert drawn(join([B, A])) == drawn(A) | drawn(B)


def test_a_purpose_makes_choices_of_its_own():
    replayed = drawn(join([A, B], purposes=[(), ("replay", "a")]))
    assert {name: prompts for name, prompts in replayed.items() if name[0] == "a"} == drawn(A)
    assert all(replayed[name] != prompts for name, prompts in drawn(B).items())
    other = drawn(join([A, B], purposes=[(), ("replay", "c")]))
    assert all(replayed[name] != other[name] for name in drawn(B))


def test_tasks_are_visited_equally_often_and_each_visit_draws_for_itself():
    parts = [look("large", 1, 9), look("small", 2, 2), look("middle", 3, 4)]
    visits = [5 / 9, 5 / 2, 5 / 4]  # 15 images of three tasks
    joined = join(parts, visits)
    assert TrainingMasks.prepare(joined).visits == 15
    in_all: Counter[tuple[str, str]] = Counter()
    for epoch in range(36):
        seen = drawn(joined, epoch)
        per_task = Counter(task for (task, _), prompts in seen.items() for _ in prompts)
        assert per_task == {"large": 5, "small": 5, "middle": 5}
        own = [len(prompts) for (task, _), prompts in sorted(seen.items()) if task == "small"]
        assert sorted(own) == [2, 3]
        for prompts in seen.values():
            assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
        in_all.update({name: len(prompts) for name, prompts in seen.items()})
    means = {name: count / 36 for name, count in in_all.items()}
    for part, mean in zip(parts, visits, strict=True):
        assert {name for name in means if name[0] == part.task} == {(part.task, i.id) for i in part}
        assert all(means[part.task, item.id] == pytest.approx(mean, abs=0.25) for item in part)


def test_further_visits_leave_the_first_as_it_was():
    twice = drawn(join([B], [2]))
    assert all(len(twice[name]) == 2 and prompts[0] in twice[name] for name, prompts in drawn(B).items())


def test_picked_are_the_named_images_in_sorted_order():
    named = [("b", "image 2"), ("a", "image 3"), ("a", "image 0"), ("b", "image 2")]
    view = pick({"b": B, "a": A}, named)
    assert view.task == "replay"
    assert [(item.task, item.id) for item in view] == sorted(set(named))
    np.testing.assert_array_equal(view.feature("embedding", 1), A.feature("embedding", 3))
    np.testing.assert_array_equal(view.feature("embedding", 2), B.feature("embedding", 2))
    assert view.masks(0) is A.masks(0)
    for index in (-1, 3):
        for read in (view.item, lambda i: view.feature("embedding", i), view.masks):
            with pytest.raises(IndexError, match="of the 3 of replay"):
                read(index)


def test_an_exemplar_that_is_gone_is_said():
    with pytest.raises(CasamError, match="a/image 9 is not in the training split"):
        pick({"a": A}, [("a", "image 9")])
    with pytest.raises(CasamError, match="needs an image"):
        pick({"a": A}, [])


# A method that looks everywhere it can.

SPLITS = ("train", "train", "test", "train", "val")


def store(folder: Path, code: int) -> EmbeddingStore:
    """Five images; every number of an embedding is `code` + the image's place."""
    bitmap = np.zeros((48, 64), dtype=bool)
    bitmap[4:20, 6:30] = True
    mask = AnnotatedMask.from_bitmap(bitmap, 1, 1, (6, 4, 29, 19), (10, 10))
    geometry = Geometry.fit(48, 64, 64, 8)
    with StoreWriter.open_or_create(
        folder / "tiny.zarr", {"weights": "none"}, embedding_shape=(16, 8, 8), image_size=64, patch_size=8
    ) as writer:
        writer.plan([(f"image {place}", f"images/{place}.png") for place in range(5)], 5)
        (batch,) = writer.pending()
        features = [np.full((16, 8, 8), code + place, np.float16) for place in range(5)]
        writer.append(
            batch,
            [ItemResult({"embedding": one}, geometry, bytes([code] * 32)) for one in features],
        )
    samples = [
        AnnotatedSample(place, split, f"patient {place}", (mask,)) for place, split in enumerate(SPLITS)
    ]
    write_annotations(folder / "tiny.zarr", samples, {"mask_mode": "binary"})
    return EmbeddingStore.open(folder / "tiny.zarr")


def reachable(*roots: Any) -> list[Any]:
    """Everything that public attributes, containers and public calls with an index lead to."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(
            thing, (type, ModuleType, FunctionType, torch.nn.Module, torch.Tensor)
        ):
            continue
        seen.add(id(thing))
        found.append(thing)  # kept alive, so that no id is used twice
        if isinstance(thing, (str, bytes, int, float, np.ndarray, np.generic)) or thing is None:
            continue
        if isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting += list(thing)
        elif isinstance(thing, partial):
            waiting += [thing.func, *thing.args, *thing.keywords.values()]
        elif callable(thing):
            waiting.append(getattr(thing, "__self__", None))
            if type(getattr(thing, "__self__", None)).__module__.startswith("casam_cache.training"):
                for arguments in [(i,) for i in range(-6, 9)] + [("embedding", i) for i in range(-6, 9)]:
                    try:
                        waiting.append(thing(*arguments))
                    except Exception:  # whatever keeps it out
                        continue
            continue
        if isinstance(thing, Row):
            waiting += [thing.read, thing.masks, thing.read("embedding"), thing.masks()]
        if type(thing).__module__.startswith("casam_cache"):
            for name in dir(thing):
                if not name.startswith("_"):
                    try:
                        waiting.append(getattr(thing, name))
                    except Exception:
                        continue
    return found


class Cheat(Naive):
    """Looks at all it is given, at every occasion."""

    def __init__(self) -> None:
        super().__init__(NaiveOptions())
        self.found: list[Any] = []

    def start(self, past, setting):
        self.found += reachable(past, setting)
        return super().start(past, setting)

    def items(self, items, past, setting):
        self.found += reachable(items, past, setting)
        return join([items, past.replay])

    def remember(self, head, items, past, penalty, setting):
        self.found += reachable(items, past, setting)
        return Memory(exemplars=(Exemplar("one", "image 2"),))  # a test image, by a name it may know


def test_a_method_that_cheats_finds_its_task_and_its_exemplars_only(tmp_path):
    one, two = store(tmp_path / "one", 10), store(tmp_path / "two", 20)
    views = {"one": open_split(one, "train"), "two": open_split(two, "train")}
    backbone = seeded_backbone(TINY, 0)
    head = build_head("alignment", {"blocks": 1}, backbone, 0).eval()
    memory = Memory(exemplars=(Exemplar("one", "image 3"),))
    past = Past(head, memory, pick(views, memory.exemplars), ("one",))
    setting = setting_of(backbone, QUICK, "two")
    cheat = Cheat()
    cheat.start(past, setting)
    joined = cheat.items(views["two"], past, setting)
    cheat.found += reachable(joined)
    stolen = cheat.remember(head, views["two"], past, None, setting)
    images = {
        float(thing.reshape(-1)[0])
        for thing in cheat.found
        if isinstance(thing, np.ndarray) and thing.shape == (16, 8, 8)
    }
    assert images == {20, 21, 23, 13}  # the training images of "two", and the exemplar
    assert not any(isinstance(thing, (EmbeddingStore, Annotations, Path)) for thing in cheat.found)
    with pytest.raises(CasamError, match="one/image 2 is not in the training split"):
        pick(views, stolen.exemplars)


def test_joined_views_keep_their_places_among_the_others():
    (flip,) = parse_views("flip_h")
    both = join([A, add_views(B, [flip])])
    assert [item.variants for item in both] == [()] * 5 + [(8,), (9,), (10,)] + [()] * 3
    assert all(both.item(item.variants[0]).id == item.id for item in both if item.variants)
