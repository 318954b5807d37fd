"""Finished stages as arrays, read once: the outcome table that every question about routing is a look-up in."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.engine.code import other_modules
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage


@dataclass(frozen=True)
class OutcomeTable:
    """Per-mask outcomes on one split.

    Attributes:
        item: ids of the masks' images (M,).
        group: patients or slides (M,), named with their task.
        scores: float64 (M,) a metric, NaN where undefined.
    """

    item: np.ndarray
    group: np.ndarray
    scores: Mapping[str, np.ndarray]

    def choose(self, others: Sequence[OutcomeTable], choice: dict[str, int]) -> OutcomeTable:
        """Mask by mask, the outcome under the head chosen for its image; -1 is this table.

        Args:
            others: the same masks under other heads.
            choice: index into `others` by image id.
        """
        picked = np.array([choice[item] for item in self.item], dtype=np.int64)
        rows = np.arange(len(picked))
        chosen = {
            name: np.stack([table.scores[name] for table in (*others, self)])[picked, rows]
            for name in self.scores
        }
        return OutcomeTable(self.item, self.group, chosen)

    def means(self) -> dict[str, float]:
        """Each metric's mean over the masks where it is defined; NaN where there is none."""
        found = {}
        for name, values in self.scores.items():
            finite = values[np.isfinite(values)]
            found[name] = float(finite.mean()) if len(finite) else float("nan")
        return found


class Tables:
    """Reads finished stages of a runs folder, each once."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._outcomes: dict[str, OutcomeTable] = {}

    def outcomes(self, stage: Evaluate) -> OutcomeTable:
        if stage.key not in self._outcomes:
            read = stage.read(self.runs)
            groups = [f"{task}/{group}" for task, group in zip(read.task, read.group, strict=True)]
            self._outcomes[stage.key] = OutcomeTable(
                np.array(read.item, dtype=object),
                np.array(groups, dtype=object),
                {name: np.array(values, dtype=np.float64) for name, values in read.scores.items()},
            )
        return self._outcomes[stage.key]

    def seconds(self, stages: Sequence[Stage]) -> float:
        return float(sum(self.runs.recorded(stage).get("seconds", 0.0) for stage in stages))

    def step_seconds(self, fits: Sequence[Stage]) -> float | None:
        """Of one optimiser step, the median over these; None where none took any."""
        found = [step_seconds(self.runs.recorded(stage)["fit"]) for stage in fits]
        taken = [each for each in found if each]
        return round(statistics.median(taken), 6) if taken else None

    def folder(self, stage: Stage) -> str:
        return str(self.runs.folder(stage))

    def mixtures(self, stages: Sequence[Stage]) -> dict[str, list[str]]:
        """Devices, threads, versions and code behind some stages, where there is more than one of a kind.

        They are no part of any key: results should not depend on device, threads and versions; where these differ, they
        may in the last digits. Code that is no longer this code is there because it was asked to be kept.
        """
        seen: dict[str, set[str]] = {}
        other = Counter[str]()
        for stage in stages:
            record = self.runs.find(stage)
            if record is None:
                continue
            facts = record.recorded
            told = {name: facts.get(name) for name in ("device", "threads", "machine")}
            for name, value in {**told, **facts.get("versions", {})}.items():
                if value is not None:
                    seen.setdefault(name, set()).add(str(value))
            other.update(other_modules(record.code))
        found = {name: sorted(values) for name, values in sorted(seen.items()) if len(values) > 1}
        if other:
            found["code"] = [
                f"{module} has changed since ({count} stages)" for module, count in sorted(other.items())
            ]
        return found


def step_seconds(fit: Mapping[str, Any]) -> float:
    """Of one optimiser step where a fit was computed, reading its inputs included; 0 where it took none.

    Args:
        fit: what is recorded of it.
    """
    speed, steps = fit["samples_per_second"], fit["steps"]
    return float(fit["pairs"] / steps / speed) if speed and steps else 0.0
