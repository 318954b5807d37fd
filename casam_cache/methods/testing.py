"""Tests that a method of yours can be put through: subclass `MethodContract` in a test file and run pytest.

    from casam_cache.methods.testing import MethodContract

    class TestMyMethod(MethodContract):
        method = "my_file.py:MyMethod"

Everything runs on a tiny seeded SAM and drawn features, in seconds, on a CPU. pytest itself is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.decoder import SamDecoding
from casam_cache.backbones.sam import SamBackbone, seeded_backbone
from casam_cache.config import parse_assignments, validated
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head
from casam_cache.heads.files import load_head, save_head
from casam_cache.heads.testing import TINY as TINY
from casam_cache.methods.base import Method
from casam_cache.methods.joint import Joint
from casam_cache.methods.memory import Memory, load_memory, save_memory
from casam_cache.methods.registry import METHODS
from casam_cache.methods.routed import Routed
from casam_cache.methods.sequential import Past, Sequential, Setting
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays, pick
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.step import Penalty

SHORT = TrainingOptions(epochs=2, batch_size=2, learning_rate=1e-3, precision="fp32")
TASKS = ("heart", "liver", "aorta")  # not in sorted order, as orders are


def drawn_items(task: str, images: int = 4) -> Items:
    """A task of `images` images with a rectangle each, and every feature; drawn by the task's name alone."""
    rng = np.random.default_rng(list(task.encode()))
    towards = 2 * rng.standard_normal(TINY.channels)
    grid = TINY.grid
    embedding = 0.5 * rng.standard_normal((images, TINY.channels, grid, grid))
    items, bitmaps = [], []
    for index in range(images):
        y, x = int(rng.integers(0, 24)), int(rng.integers(0, 36))
        bitmap = np.zeros((48, 64), dtype=bool)
        bitmap[y : y + 24, x : x + 28] = True
        embedding[index, :, y // 8 : y // 8 + 3, x // 8 : x // 8 + 3] += towards[:, None, None]
        box = np.array([x, y, x + 27, y + 23], dtype=np.float32)
        bitmaps.append([ItemMask(bitmap, 1, 1, box, box[:2] + 10)])
        items.append(Item(f"{task} {index}", task, f"patient {index // 2}", Geometry.fit(48, 64, 64, 8), 1))
    further = {
        "early": rng.standard_normal((images, TINY.width, grid, grid)).astype(np.float16),
        "tokens": rng.standard_normal((images, TINY.width)).astype(np.float16),
    }
    return items_from_arrays(task, items, embedding.astype(np.float16), bitmaps, further)


class MethodContract:
    """What the bench relies on in every method. Set `method`, and `options` where the defaults do not do.

    Attributes:
        method: a name, `my_file.py:MyMethod`, or the class.
        options: values by name; keep what is trained small.
    """

    method: ClassVar[str | type[Method]]
    options: ClassVar[Mapping[str, Any]] = {}

    def made(self) -> Method:
        cls = self._class()
        return cls(validated(cls.options_model(), self.options))

    def test_options_are_checked_by_name_and_type(self) -> None:
        """Defaults exist, unknown names are refused, and no name is one of the training's."""
        cls = self._class()
        validated(cls.options_model(), {})
        clash = set(cls.options_model().model_fields) & set(TrainingOptions.model_fields)
        assert not clash, f"these options have names of training options: {sorted(clash)}"
        try:
            parse_assignments(["no_such_option=1"], [cls.options_model(), TrainingOptions])
        except OptionError:
            pass
        else:
            raise AssertionError('Options takes unknown names: model_config = ConfigDict(extra="forbid")')
        try:
            validated(cls.options_model(), {"no_such_option": 1})
        except OptionError:
            return
        raise AssertionError('Options takes unknown names: model_config = ConfigDict(extra="forbid")')

    def test_it_needs_features_that_stores_have(self) -> None:
        """`needs` names arrays of `casam encode`, the embedding among them."""
        method = self.made()
        assert "embedding" in method.needs
        stored = _backbone().features()
        assert set(method.needs) <= set(stored), f"stores have {', '.join(stored)}"
        head = method.build(_backbone(), 0)
        assert set(head.needs) <= {*method.needs, "valid"}, "the head reads what the method does not need"

    def test_its_family_says_which_class_it_extends(self) -> None:
        """What the bench does with a method goes by `family`."""
        cls = self._class()
        for family, base in (("sequential", Sequential), ("joint", Joint)):
            assert (cls.family == family) == issubclass(cls, base)

    def test_initial_weights_depend_on_the_seed_alone(self) -> None:
        """Neither torch's global generator nor anything built before decides them, nor are they left disturbed."""
        method, backbone = self.made(), _backbone()
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = method.build(backbone, 5)
        assert torch.equal(torch.get_rng_state(), before), "build draws from torch's global generator"
        torch.manual_seed(2)
        _assert_same_weights(first, method.build(backbone, 5), "two builds with one seed differ")

    def test_two_steps_train_the_head_and_nothing_else(self) -> None:
        """Parameters move, losses are finite, and the backbone stays as it was."""
        method, backbone = self.made(), _backbone()
        head = method.build(backbone, 0)
        if not head.trained_parameters():
            return
        frozen = {id(parameter) for part in _parts(backbone) for parameter in part.parameters()}
        assert not frozen & {id(p) for p in head.trained()}, "the head trains the backbone's own parameters"
        before = [tensor.clone() for part in _parts(backbone) for tensor in part.state_dict().values()]
        start = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        result = self._fit(head, backbone, TASKS[0], None, max_steps=2)
        assert result.steps == 2
        assert all(np.isfinite(record.loss) for record in result.history)
        after = [tensor for part in _parts(backbone) for tensor in part.state_dict().values()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the backbone has changed"
        moved = [name for name, tensor in head.state_dict().items() if not torch.equal(tensor, start[name])]
        assert moved, "nothing was trained in two steps"

    def test_a_saved_head_comes_back(self, tmp_path: Path) -> None:
        """It is found again by its files alone, with the same weights and the same masks."""
        method, backbone = self.made(), _backbone()
        head = method.build(backbone, 0)
        if head.trained_parameters():
            self._fit(head, backbone, TASKS[0], None)
        save_head(head, tmp_path)
        loaded = load_head(tmp_path, backbone)
        _assert_same_weights(head, loaded, "the loaded head has other weights")
        assert _same(_score(head, backbone), _score(loaded, backbone)), "the loaded head gives other masks"

    def test_resumed_equals_uninterrupted(self, tmp_path: Path) -> None:
        """A fit that is killed after an epoch and goes on gives the same bits, its penalty's state included."""
        method, backbone = self.made(), _backbone()
        pasts: list[Past | None] = [None]
        if isinstance(method, Sequential):
            pasts.append(self._learn(method, backbone, None, TASKS[0], tmp_path)[0])
        for number, past in enumerate(pasts):
            task, folder = TASKS[number], tmp_path / f"killed {number}"
            folder.mkdir()
            ends = []
            for kill, where in ((False, None), (True, folder), (False, folder)):
                head, items, penalty = self._begin(method, backbone, past, task)
                if not head.trained_parameters():
                    return
                try:
                    self._fit(head, backbone, task, penalty, items=items, checkpoints=where, kill=kill)
                except _KilledError:
                    continue
                ends.append(head)
            _assert_same_weights(ends[0], ends[1], "a resumed fit differs from an uninterrupted one")

    def test_a_sequence_sees_its_declared_memory_and_nothing_else(self, tmp_path: Path) -> None:
        """Three tasks, each begun from what was written to disk after the last; twice with the same result."""
        method, backbone = self.made(), _backbone()
        if not isinstance(method, Sequential):
            return
        heads = []
        for run in range(2):
            past: Past | None = None
            for task in TASKS:
                folder = tmp_path / f"{run} {task}"
                folder.mkdir()
                past, memory = self._learn(method, backbone, past, task, folder)
                if memory.exemplars or memory.tensors or memory.facts:
                    assert method.remembers, "a method that keeps a memory sets remembers = True"
                seen = past.tasks
                assert all(exemplar.task in seen for exemplar in memory.exemplars)
            assert past is not None
            heads.append(past.head)
        _assert_same_weights(heads[0], heads[1], "the same sequence twice gives different heads")

    def test_routed_heads_do_not_depend_on_the_order_of_tasks(self, tmp_path: Path) -> None:
        """Experts are fits of a single-task method; merging gives a head a task, whatever the order."""
        method, backbone = self.made(), _backbone()
        if not isinstance(method, Routed):
            return
        assert method.routing in ("density", "classifier", "oracle")
        expert = method.expert_method()
        assert set(expert.needs) <= set(method.needs), "the experts read what the method does not need"
        heads: dict[str, Head] = {}
        for task in TASKS:
            heads[task] = expert.build(backbone, 0)
            if heads[task].trained_parameters():
                self._fit(heads[task], backbone, task, None)
        assert method.bytes_kept(heads) >= 0
        if not method.merges:
            return
        first = method.merge(backbone, 0, {task: heads[task] for task in sorted(heads)})
        second = method.merge(backbone, 0, heads)
        assert set(first) == set(second) == set(heads)
        for task in TASKS:
            _assert_same_weights(first[task], second[task], "merging depends on the order of the tasks")
            folder = tmp_path / task
            folder.mkdir()
            save_head(first[task], folder)
            _assert_same_weights(first[task], load_head(folder, backbone), "a merged head does not come back")

    def test_joint_items_are_those_of_the_tasks(self) -> None:
        """A joint method's items are every task's images, in an order that does not depend on the tasks'."""
        method = self.made()
        if not isinstance(method, Joint):
            return
        tasks = {task: drawn_items(task) for task in TASKS}
        first, second = method.items(tasks), method.items(dict(reversed(tasks.items())))
        assert [item.id for item in first] == [item.id for item in second]
        assert {item.task for item in first} == set(TASKS)

    def _class(self) -> type[Method]:
        return METHODS.get(self.method) if isinstance(self.method, str) else self.method

    def _begin(
        self, method: Method, backbone: Backbone, past: Past | None, task: str
    ) -> tuple[Head, Items, Penalty | None]:
        own = drawn_items(task)
        if not isinstance(method, Sequential):
            return method.build(backbone, 0), own, None
        setting = Setting(backbone, SHORT, 0, task)
        head = method.start(past, setting)
        return head, method.items(own, past, setting), method.penalty(own, past, setting)

    def _learn(
        self, method: Sequential, backbone: Backbone, past: Past | None, task: str, folder: Path
    ) -> tuple[Past, Memory]:
        """One task, and the past of the next as the disk has it."""
        own, setting = drawn_items(task), Setting(backbone, SHORT, 0, task)
        penalty: Penalty | None = None
        if past is None and method.first is not None:  # an ordinary fit, which other methods share
            made = METHODS.get(method.first)
            values = method.options.model_dump(mode="json")
            shared = {name: value for name, value in values.items() if name in made.Options.model_fields}
            head = made(validated(made.Options, shared)).build(backbone, 0)
            self._fit(head, backbone, task, None)
        else:
            head, items, penalty = self._begin(method, backbone, past, task)
            self._fit(head, backbone, task, penalty, items=items)
        save_head(head, folder)
        save_memory(method.remember(head, own, past, penalty, setting), folder)
        memory = load_memory(folder)
        loaded = load_head(folder, backbone).requires_grad_(False)
        tasks = (*(past.tasks if past else ()), task)
        replay = None
        if memory.exemplars:
            replay = pick({name: drawn_items(name) for name in tasks}, memory.exemplars)
        return Past(loaded, memory, replay, tasks), memory

    def _fit(
        self,
        head: Head,
        backbone: Backbone,
        task: str,
        penalty: Penalty | None,
        *,
        items: Items | None = None,
        checkpoints: Path | None = None,
        kill: bool = False,
        max_steps: int | None = None,
    ) -> FitResult:
        def stop(*_: object) -> None:
            if kill:
                raise _KilledError

        training = SHORT.model_copy(update={"max_steps": max_steps})
        return fit_head(
            head, backbone, items if items is not None else drawn_items(task), training,
            penalty=penalty, checkpoint_dir=checkpoints, on_epoch=stop,
        )  # fmt: skip


class _KilledError(Exception):
    """Ends a fit after its first epoch."""


def _backbone() -> SamBackbone:
    return seeded_backbone(TINY, 0)


def _parts(backbone: SamDecoding) -> tuple[torch.nn.Module, torch.nn.Module]:
    return backbone.prompt_encoder, backbone.mask_decoder


def _score(head: Head, backbone: Backbone) -> Outcomes:
    return evaluate(head, backbone, drawn_items(TASKS[1]))


def _same(first: Outcomes, second: Outcomes) -> bool:
    return all(
        np.array_equal(one, other, equal_nan=True)
        for one, other in (
            (first.scores["iou"], second.scores["iou"]),
            (first.predicted_iou, second.predicted_iou),
        )
    )


def _assert_same_weights(first: Head, second: Head, message: str) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys(), message
    for name, tensor in one.items():
        assert torch.equal(tensor.cpu(), other[name].cpu()), f"{message}: {name}"
