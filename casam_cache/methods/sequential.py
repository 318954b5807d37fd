"""Methods that carry one head through the tasks, one after the other."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from casam_cache.backbones.sam import Backbone
from casam_cache.heads.base import Head
from casam_cache.methods.base import Method
from casam_cache.methods.memory import Memory
from casam_cache.training.items import Items
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Penalty


@dataclass(frozen=True)
class Past:
    """All that is left of earlier tasks.

    Attributes:
        head: as it stood after the last task, frozen, in evaluation mode, on the backbone's device.
        memory: what the method declared then.
        replay: exactly the memory's exemplars (their training features and masks); None without exemplars.
        tasks: names of the tasks seen, in order.
    """

    head: Head
    memory: Memory
    replay: Items | None
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """What stays the same while one task is learnt.

    Attributes:
        backbone: frozen.
        training: the recipe of this task's fit.
        seed: of the run; random choices belong to (seed, task, ...), never to the position in the order.
        task: the one being learnt.
    """

    backbone: Backbone
    training: TrainingOptions
    seed: int
    task: str


class Sequential(Method):
    """One head, fine-tuned task after task. By itself this is naive fine-tuning; methods override what they change.

    For each task the bench calls `start`, `items` and `penalty`, hands the three to the training loop, then calls
    `remember` and writes head and memory to disk. The next task sees what was written, and nothing else.

    Attributes:
        first: the single-task method whose ordinary fit is this method's first task, so that methods share it; its
            options are taken from the options of the same names. None: the first task is learnt as the others,
            with no past.
        remembers: whether it has a memory at all.
    """

    family = "sequential"
    first: ClassVar[str | None] = "alignment"
    remembers: ClassVar[bool] = False

    def start(self, past: Past | None, setting: Setting) -> Head:
        """The head that training of this task begins with: a copy of the last one, or a new one."""
        if past is None:
            return self.build(setting.backbone, setting.seed)
        head = copy.deepcopy(past.head)
        for parameter in head.parameters():
            parameter.requires_grad_(True)
        return head

    def items(self, items: Items, past: Past | None, setting: Setting) -> Items:
        """What to train on: the task's own training images, or those joined with the past's replay."""
        return items

    def penalty(self, items: Items, past: Past | None, setting: Setting) -> Penalty:
        """What is added to the loss of each step."""
        return Penalty()

    def remember(
        self, head: Head, items: Items, past: Past | None, penalty: Penalty | None, setting: Setting
    ) -> Memory:
        """The memory after this task.

        Args:
            head: trained on the task, in evaluation mode.
            items: the task's own training images.
            past: of before this task.
            penalty: the one that training used, with its final state; None after a first task that was an
                ordinary fit.
            setting: of this task.
        """
        return Memory()
