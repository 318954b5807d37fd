"""How long stages will take, from what stages of their kind took here before."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from casam_cache.engine.runs import RECORD, Runs
from casam_cache.engine.stage import Stage

SAMPLED = 40  # records read a kind


@dataclass(frozen=True)
class Rates:
    """Seconds a unit of cost, by kind of stage; only kinds of which some stage is recorded."""

    by_kind: dict[str, float]

    @classmethod
    def read(cls, runs: Runs, kinds: Iterable[str]) -> Rates:
        """From the records in a runs folder."""
        found = {}
        for kind in kinds:
            seconds = cost = 0.0
            for path in islice((runs.root / kind).glob(f"*/{RECORD}"), SAMPLED):
                try:
                    recorded = json.loads(path.read_text())["recorded"]
                    seconds, cost = seconds + recorded["seconds"], cost + recorded["cost"]
                except (OSError, ValueError, KeyError, TypeError):
                    continue
            if cost:
                found[kind] = seconds / cost
        return cls(found)

    def seconds(self, stages: Iterable[Stage]) -> float | None:
        """Of all these together; None if one is of a kind that was never timed here."""
        total = 0.0
        for stage in stages:
            if stage.kind not in self.by_kind:
                return None
            total += stage.cost * self.by_kind[stage.kind]
        return total
