"""One more task of a sequential method, and the memory that it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from casam_cache.backbones.base import Backbone
from casam_cache.bench.stages.fit import Fit, TrainedStage, train_items
from casam_cache.bench.stages.head import HeadStage
from casam_cache.bench.tasks import SplitRef
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Work
from casam_cache.methods.memory import Memory, load_memory, save_memory
from casam_cache.methods.sequential import Past, Sequential, Setting
from casam_cache.training.items import pick


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceStage(TrainedStage):
    """What learning a task and remembering it have in common.

    Attributes:
        items: the task's train split.
    """

    items: SplitRef

    @property
    def task(self) -> str:
        return self.items.task

    def memory(self, runs: Runs) -> Memory:
        return load_memory(runs.open(self))

    def _method(self, work: Work) -> Sequential:
        method = self.method.make(work)
        assert isinstance(method, Sequential)
        return method

    def _setting(self, work: Work) -> Setting:
        return Setting(work.place.backbone(self.task), self.training, self.seed, self.task)


@dataclass(frozen=True, eq=False, kw_only=True)
class Remember(SequenceStage):
    """The memory after a first task whose head is an ordinary fit.

    Attributes:
        fitted: that head.
    """

    kind: ClassVar[str] = "memory"

    fitted: Fit

    @property
    def label(self) -> str:
        return f"memory of {self.method.name} after {self.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        method, setting = self._method(work), self._setting(work)
        head = self.fitted.head(work.runs, setting.backbone).to(work.place.torch_device)
        work.use(type(head))
        items = work.place.items(self.items)
        save_memory(method.remember(head, items, None, None, setting), work.result)
        return {}

    def head(self, runs: Runs, backbone: Backbone, member: str = "") -> Any:
        """It has none of its own: the fit's."""
        return self.fitted.head(runs, backbone, member)


@dataclass(frozen=True, eq=False, kw_only=True)
class Learn(SequenceStage):
    """One more task: trains the head, then makes the memory.

    Attributes:
        last: the head before; None for a first task.
        last_memory: the memory before; None where nothing is remembered.
        past: train splits of the tasks learnt before, in order.
    """

    kind: ClassVar[str] = "learn"

    last: HeadStage | None
    last_memory: SequenceStage | None
    past: tuple[SplitRef, ...]

    def compute(self, work: Work) -> dict[str, Any]:
        method, setting = self._method(work), self._setting(work)
        items, past = work.place.items(self.items), self._past(work)
        head = method.start(past, setting)
        penalty = method.penalty(items, past, setting)
        facts = self.train(work, head, method.items(items, past, setting), penalty)
        save_memory(method.remember(head, items, past, penalty, setting), work.result)
        return {"method": self.method.name, **facts}

    def _past(self, work: Work) -> Past | None:
        """The last head, the memory, and the memory's exemplars alone."""
        if self.last is None:
            return None
        head = self.last.head(work.runs, work.place.backbone(self.task)).to(work.place.torch_device).eval()
        head.requires_grad_(False)
        memory = Memory() if self.last_memory is None else self.last_memory.memory(work.runs)
        replay = None
        if memory.exemplars:
            named = {exemplar.task for exemplar in memory.exemplars}
            parts = train_items(work, tuple(ref for ref in self.past if ref.task in named))
            replay = pick(parts, memory.exemplars)
        return Past(head, memory, replay, tuple(ref.task for ref in self.past))
