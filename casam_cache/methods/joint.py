"""Joint training: one Alignment Layer on the union of all tasks (the paper's upper bound)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.alignment import build_alignment
from casam_cache.methods.base import Method
from casam_cache.training.held_out import hold_out
from casam_cache.training.items import Items, join
from casam_cache.training.options import TrainingOptions


class JointOptions(AlignmentOptions):
    """What an epoch of the union consists of.

    Attributes:
        balance: `sample` visits each image once an epoch; `task` visits each task equally often, the images of small
            tasks more than once and those of large ones not in every epoch, with as many visits in all.
    """

    balance: Literal["sample", "task"] = "sample"


class Joint(Method):
    """A head on the union of several tasks, the same for every order of them.

    It takes exactly as many optimiser steps as the separate fits of its tasks together. The bench calls `items` and
    `training`, and fits what `build` gives; subclasses may build another head.
    """

    name = "joint"
    family = "joint"
    Options: ClassVar[type[BaseModel]] = JointOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        """An Alignment Layer; the same initial weights as a single task's."""
        return build_alignment(self.options, backbone, seed)

    def items(self, tasks: Mapping[str, Items]) -> Items:
        """The union, in sorted task order; random choices still belong to (seed, task, epoch, sample).

        Args:
            tasks: the training images of each task.

        Raises:
            CasamError: no task, none with a mask, or embeddings of different shapes.
        """
        assert isinstance(self.options, JointOptions)
        parts = [tasks[task] for task in sorted(tasks)]
        counts = _with_masks(parts)
        if self.options.balance == "sample":
            return join(parts)
        quota = -(-sum(counts) // sum(count > 0 for count in counts))
        return join(parts, visits=[quota / count if count else 1.0 for count in counts])

    def training(self, training: TrainingOptions, tasks: Mapping[str, Items]) -> TrainingOptions:
        """The recipe of the union: with `training` each task's own fit, together as many steps as this one.

        Args:
            training: of a single task's fit.
            tasks: the training images of each task.

        Raises:
            CasamError: no task has a mask.
        """
        size = training.batch_size
        counts = _with_masks(hold_out(items, training.held_out)[0] for items in tasks.values())
        steps = sum(training.steps(count) for count in counts if count)
        visits = sum(counts)
        if getattr(self.options, "balance", "sample") == "task":
            trained = sum(count > 0 for count in counts)
            visits = trained * -(-visits // trained)
        per_epoch = -(-visits // size)
        exactly = {"epochs": -(-steps // per_epoch), "min_steps": None, "max_steps": steps}
        return training.model_copy(update=exactly)


def _with_masks(parts: Iterable[Items]) -> list[int]:
    counts = [sum(item.masks > 0 for item in items) for items in parts]
    if not any(counts):
        raise CasamError("joint training needs a task whose training images have masks")
    return counts
