"""Heads that the training loop fits: apart from `head.py`, so that what only reads heads knows nothing of training."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from casam_cache.bench.stages.head import HeadStage, about
from casam_cache.bench.tasks import Place, SplitRef
from casam_cache.engine.stage import Work
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head, save_head
from casam_cache.methods.joint import Joint
from casam_cache.training.items import Items
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Penalty


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedStage(HeadStage):
    """A head that the training loop fits.

    Attributes:
        training: the recipe, its precision resolved.
    """

    training: TrainingOptions

    @property
    @abstractmethod
    def task(self) -> str:
        """A task whose store says which backbone it is about."""

    @property
    def label(self) -> str:
        return f"{self.method.name} on {self.task}"

    def train(
        self,
        work: Work,
        head: Head,
        items: Items,
        penalty: Penalty | None = None,
        training: TrainingOptions | None = None,
        alone: bool = False,
    ) -> dict[str, Any]:
        """Fits `head`, keeps it as the stage's result, and returns what is recorded.

        With `alone` the head is all that stands between encoder and decoder: where even its best state is worse on
        held-out groups than none, what is kept is the identity; but not of a network that replaces SAM.
        """
        place: Place = work.place
        work.use(type(head))
        fitted = fit_head(
            head, self.backbone(place, self.task), items, training or self.training,
            seed=self.seed, device=place.torch_device, checkpoint_dir=work.resumable(), penalty=penalty,
            on_step=work.progress, warn=work.say,
        )  # fmt: skip
        none = alone and not head.replaces_sam and fitted.chosen is not None and fitted.chosen.below_frozen
        save_head(build_head("identity", None, place.backbone(self.task), 0) if none else head, work.result)
        return {**about(work, self.task), "fit": fitted.to_json(), "parameters": head.trained_parameters()}


def train_items(work: Work, refs: tuple[SplitRef, ...]) -> dict[str, Items]:
    return {ref.task: work.place.items(ref) for ref in refs}


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
        return self.items.task

    def compute(self, work: Work) -> dict[str, Any]:
        head = self.method.make(work).build(self.backbone(work.place, self.task), self.seed)
        return {
            "method": self.method.name,
            **self.train(work, head, work.place.items(self.items), alone=True),
        }


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
        return f"{self.method.name} on {len(self.items)} tasks"

    def compute(self, work: Work) -> dict[str, Any]:
        method = self.method.make(work)
        assert isinstance(method, Joint)
        parts = train_items(work, self.items)
        head = method.build(work.place.backbone(self.task), self.seed)
        facts = self.train(work, head, method.items(parts), None, method.training(self.training, parts))
        return {"method": self.method.name, **facts, "task": ""}
