"""Scores of whole images that were cut into tiles: a fitted head beside the frozen SAM, over their objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.tasks import TaskSplit
from casam_cache.engine.runs import Runs
from casam_cache.metrics.intervals import Interval
from casam_cache.training.outcomes import Score, gain, score


@dataclass(frozen=True)
class WholeScore:
    """Means over the objects of whole images, in [0, 1].

    Attributes:
        images: that have an object.
        fitted, frozen: of IoU and Dice.
        gain: paired difference fitted - frozen by metric.
    """

    images: int
    fitted: Score
    frozen: Score
    gain: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "fitted": self.fitted.to_json(),
            "frozen": self.frozen.to_json(),
            "gain": {name: interval.to_json() for name, interval in self.gain.items()},
        }


def whole_score(split: TaskSplit, fitted: Evaluate, frozen: Evaluate, runs: Runs) -> WholeScore | None:
    """From two scorings of tiles, once computed; None where images are no tiles."""
    if not split.tiles:
        return None
    after, before = fitted.read_whole_images(runs), frozen.read_whole_images(runs)
    return WholeScore(len(set(after.item)), score(after), score(before), gain(after, before))
