"""Successive halving over tasks and steps: most points cost a ninth of a full fit of every task.

A point goes on to the next rung where it is among the best third of all that reached its rung so far, itself among them
(asynchronous successive halving). A fit of fewer steps is a fit of its own, with its own schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from casam_cache.bench.search.objectives import dominated_by
from casam_cache.training.options import TrainingOptions

KEPT = 3  # one of so many goes on
WORK = (1 / 9, 1 / 3, 1.0)  # of each rung, as shares of a full fit of every task


@dataclass(frozen=True)
class Rung:
    """What a point is judged by at one level.

    Attributes:
        tasks: the first so many of the search's.
        part: of the steps of a full fit.
    """

    tasks: tuple[str, ...]
    part: float

    def training(self, full: TrainingOptions, visits: int) -> TrainingOptions:
        """The recipe of a fit here.

        Args:
            full: of the full fit.
            visits: images with masks of the task's training split.
        """
        if self.part == 1:
            return full
        steps = max(1, math.ceil(full.steps(visits) * self.part))
        least = None if full.min_steps is None else min(full.min_steps, steps)
        checks = max(
            1, math.ceil(full.checks * self.part)
        )  # as far apart as in the full fit: each costs seconds
        return full.model_copy(update={"max_steps": steps, "min_steps": least, "checks": checks})

    def to_json(self) -> dict[str, Any]:
        return {"tasks": list(self.tasks), "part": self.part}


def rungs_of(tasks: Sequence[str], pruning: bool) -> tuple[Rung, ...]:
    """From the cheapest to the full one, which alone there is without pruning.

    What is saved is saved half by fewer tasks and half by fewer steps, as far as there are tasks.
    """
    found = []
    for work in WORK if pruning else WORK[-1:]:
        count = math.ceil(len(tasks) * math.sqrt(work) - 1e-9)
        found.append(Rung(tuple(tasks[:count]), min(1.0, work * len(tasks) / count)))
    return tuple(found)


def goes_on(values: Sequence[Sequence[float]], objectives: Sequence[str]) -> bool:
    """Whether the last of these, which all reached one rung, is among the best third of them.

    With several objectives a point is the better, the fewer others dominate it. Of equal ones the first is better:
    where few steps change nothing yet, many are worth what the frozen SAM is.
    """
    counts = dominated_by(values, objectives)
    alike = sum(tuple(other) == tuple(values[-1]) for other in values[:-1])
    return int((counts < counts[-1]).sum()) + alike < math.ceil(len(values) / KEPT)
