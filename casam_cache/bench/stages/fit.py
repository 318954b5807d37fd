"""A head fitted to one task, or to the union of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from casam_cache.bench.stages.head import TrainedStage, train_items
from casam_cache.bench.tasks import SplitRef
from casam_cache.engine.stage import Work
from casam_cache.methods.joint import Joint


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit(TrainedStage):
    """One task from its train split: a single-task fit, and every routed method's expert.

    Attributes:
        items: the train split.
    """

    kind: ClassVar[str] = "fit"

    items: SplitRef

    @property
    def task(self) -> str:
        """The task it is fitted to."""
        return self.items.task

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.method.name} on {self.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        """Writes the head."""
        head = self.method.make(work).build(work.place.backbone(self.task), self.seed)
        return {"method": self.method.name, **self.train(work, head, work.place.items(self.items))}


@dataclass(frozen=True, eq=False, kw_only=True)
class JointFit(TrainedStage):
    """One head on the union of several tasks' train splits.

    Attributes:
        items: the train splits, sorted by task.
    """

    kind: ClassVar[str] = "joint"

    items: tuple[SplitRef, ...]

    @property
    def task(self) -> str:
        """The first task by name: all share one backbone."""
        return self.items[0].task

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.method.name} on {len(self.items)} tasks"

    def compute(self, work: Work) -> dict[str, Any]:
        """Writes the head."""
        method = self.method.make(work)
        assert isinstance(method, Joint)
        parts = train_items(work, self.items)
        head = method.build(work.place.backbone(self.task), self.seed)
        facts = self.train(work, head, method.items(parts), None, method.training(self.training, parts))
        return {"method": self.method.name, **facts, "task": ""}
