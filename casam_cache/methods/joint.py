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
from casam_cache.training.data import Items
from casam_cache.training.join import JoinedItems
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
    Options: ClassVar[type[BaseModel]] = JointOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        """An Alignment Layer; the same initial weights as a single task's."""
        return build_alignment(self.options, backbone, seed)

    def items(self, views: Mapping[str, Items]) -> Items:
        """The union, in sorted task order; random choices still belong to (seed, task, epoch, sample).

        Args:
            views: the training view of each task.

        Raises:
            CasamError: no task, none with a mask, or embeddings of different shapes.
        """
        assert isinstance(self.options, JointOptions)
        parts = [views[task] for task in sorted(views)]
        counts = _with_masks(parts)
        if self.options.balance == "sample":
            return JoinedItems(parts)
        quota = -(-sum(counts) // sum(count > 0 for count in counts))
        return JoinedItems(parts, visits=[quota / count if count else 1.0 for count in counts])

    def training(self, training: TrainingOptions, views: Mapping[str, Items]) -> TrainingOptions:
        """The recipe of the union: with `training` each task's own fit, together as many steps as this one.

        Args:
            training: of a single task's fit.
            views: the training view of each task.

        Raises:
            CasamError: no task has a mask.
        """
        size = training.batch_size
        counts = _with_masks(views.values())
        own = [training.epochs * -(-count // size) for count in counts]
        steps = sum(min(one, training.max_steps or one) for one in own)
        visits = sum(counts)
        if getattr(self.options, "balance", "sample") == "task":
            tasks = sum(count > 0 for count in counts)
            visits = tasks * -(-visits // tasks)
        per_epoch = -(-visits // size)
        return training.model_copy(update={"epochs": -(-steps // per_epoch), "max_steps": steps})


def _with_masks(views: Iterable[Items]) -> list[int]:
    """The images of each view that have masks."""
    counts = [sum(view.item(index).masks > 0 for index in range(len(view))) for view in views]
    if not any(counts):
        raise CasamError("joint training needs a task whose training images have masks")
    return counts
