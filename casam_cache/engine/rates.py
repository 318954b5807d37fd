"""How long stages will take, from what stages like them took here before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casam_cache.engine.runs import RECORD, DamagedError, Runs, read_record
from casam_cache.engine.stage import Stage

SAMPLED = 200  # records read a kind, the newest: this plan's own are among them
ENOUGH = 8  # of one pace, the newest: what the machine does now counts


@dataclass(frozen=True)
class Rates:
    """Seconds a unit of cost.

    Attributes:
        by_kind: of all stages of a kind; only kinds of which some stage is recorded.
        by_pace: of those of one `Stage.pace` of a kind.
    """

    by_kind: Mapping[str, float]
    by_pace: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def read(cls, runs: Runs, kinds: Iterable[str]) -> Rates:
        """From the records in a runs folder."""
        by_kind: dict[str, float] = {}
        by_pace: dict[tuple[str, str], float] = {}
        for kind in kinds:
            paces: dict[str, list[tuple[float, float]]] = {}
            for recorded in _newest(runs.root / kind):
                try:
                    spent = float(recorded["seconds"]), float(recorded["cost"])
                    paces.setdefault(str(recorded.get("pace", "")), []).append(spent)
                except (KeyError, TypeError, ValueError):
                    continue
            rates = {
                pace: rate for pace, spent in paces.items() if (rate := _rate(spent[:ENOUGH])) is not None
            }
            if rates:
                by_kind[kind] = sum(rates.values()) / len(rates)
                by_pace |= {(kind, pace): rate for pace, rate in rates.items()}
        return cls(by_kind, by_pace)

    def seconds(self, stages: Iterable[Stage]) -> float | None:
        """Of all these together; None if one is of a kind that was never timed here.

        A pace that was never timed is taken for the mean of those of its kind that were.
        """
        total = 0.0
        for stage in stages:
            rate = self.by_pace.get((stage.kind, stage.pace), self.by_kind.get(stage.kind))
            if rate is None:
                return None
            total += stage.cost * rate
        return total


def _rate(spent: Iterable[tuple[float, float]]) -> float | None:
    seconds, cost = (sum(values) for values in zip(*spent, strict=True))
    return seconds / cost if cost else None


def _newest(folder: Path) -> list[Mapping[str, Any]]:
    """What is recorded of the newest stages of a kind."""
    found = []
    for path in folder.glob(f"*/{RECORD}"):
        try:
            found.append((path.stat().st_mtime, path.parent))
        except FileNotFoundError:
            continue
    recorded: list[Mapping[str, Any]] = []
    for _, stage in sorted(found, reverse=True)[:SAMPLED]:
        try:
            recorded.append(read_record(stage, verify=False).recorded)
        except DamagedError:  # a plan that needs it says so
            continue
    return recorded
