"""Merged heads, and what makes one routed model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from casam_cache.bench.stages.head import HeadStage, MethodRef, about
from casam_cache.bench.stages.routing import FitRouter, Query
from casam_cache.engine.stage import Stage, Work
from casam_cache.heads.files import save_head
from casam_cache.methods.routed import Routed
from casam_cache.routers.choice import PoolingChoice
from casam_cache.routers.files import save_pooling

MODEL = "model.json"


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(HeadStage):
    """The heads that a merging method uses after a set of tasks, one folder a task; routing has no part in them.

    Attributes:
        experts: the fitted heads by task, sorted.
    """

    kind: ClassVar[str] = "merge"

    experts: Mapping[str, HeadStage]

    @property
    def label(self) -> str:
        return f"{self.method.name} of {len(self.experts)} heads"

    def compute(self, work: Work) -> dict[str, Any]:
        method = self.method.make(work)
        assert isinstance(method, Routed)
        backbone = work.place.backbone(next(iter(self.experts)))
        heads = {task: expert.head(work.runs, backbone) for task, expert in self.experts.items()}
        work.use(*(type(head) for head in heads.values()))
        for task, head in method.merge(backbone, self.seed, heads).items():
            (work.result / task).mkdir()
            save_head(head, work.result / task)
        first = next(iter(heads.values()))
        return {"parameters": first.trained_parameters(), "bytes": method.bytes_kept(heads)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Model(Stage):
    """Which heads and routers make one routed model: what `casam predict --run` reads.

    Attributes:
        method: with all its options, the threshold rule among them.
        pooling: its deciding options.
        router: its deciding options, with its threshold rule.
        heads: by task.
        routers: by task.
    """

    kind: ClassVar[str] = "model"

    method: MethodRef
    pooling: Mapping[str, Any]
    router: Mapping[str, Any]
    heads: Mapping[str, HeadStage]
    routers: Mapping[str, FitRouter]

    @property
    def label(self) -> str:
        return f"{self.method.name} model"

    def compute(self, work: Work) -> dict[str, Any]:
        named = {f"head/{task}": stage.name for task, stage in self.heads.items()}
        named |= {f"router/{task}": stage.name for task, stage in self.routers.items()}
        for task, stage in self.routers.items():
            if isinstance(stage.features, Query):
                named[f"query/{task}"] = stage.features.name
        described = {
            "method": self.method.key_data(),
            "pooling": dict(self.pooling),
            "router": dict(self.router),
            "tasks": sorted(self.heads),
            "stages": named,
        }
        (work.result / MODEL).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
        choice = PoolingChoice.restore(self.pooling)
        if not choice.learned:  # a learned one lies with each task
            save_pooling(choice.make(), work.result)
        return {**about(work, min(self.heads)), "method": self.method.name}
