"""Per-mask outcomes on disk, and the means people quote with intervals from resampling groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.errors import CasamError
from casam_cache.metrics.intervals import Interval, difference_interval
from casam_cache.store.files import write_file
from casam_cache.training.outcomes import Outcomes

FILE = "outcomes.csv"
_NAMES = "surrogatepass"  # file names need not be UTF-8


@dataclass(frozen=True)
class Score:
    """Means over masks at original resolution; `score["iou"]` is one of them.

    Attributes:
        metrics: mean and interval by name of the metric.
        masks: masks that have an IoU.
        undefined: masks that have none, since truth and prediction are both empty.
    """

    metrics: dict[str, Interval]
    masks: int
    undefined: int

    def __getitem__(self, metric: str) -> Interval:
        return self.metrics[metric]

    def to_json(self) -> dict[str, Any]:
        """`{"iou", ..., "masks", "undefined", "intervals"}`, null where undefined, intervals as [low, high]."""
        means = {name: _number(interval.mean) for name, interval in self.metrics.items()}
        edges = {
            name: [_number(interval.low), _number(interval.high)] for name, interval in self.metrics.items()
        }
        return {**means, "masks": self.masks, "undefined": self.undefined, "intervals": edges}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def score(outcomes: Outcomes) -> Score:
    """Summary of an outcome table; intervals resample groups."""
    intervals = outcomes.intervals()
    return Score(intervals, intervals["iou"].values, intervals["iou"].undefined)


def gain(fitted: Outcomes, frozen: Outcomes) -> dict[str, Interval]:
    """Paired difference fitted - frozen over the same masks, by metric.

    Raises:
        ValueError: the two tables are not of the same masks, or not of the same metrics.
    """
    for name in ("task", "item", "class_id", "instance"):
        if getattr(fitted, name) != getattr(frozen, name):
            raise ValueError("the two outcome tables are not of the same masks")
    if fitted.scores.keys() != frozen.scores.keys():
        raise ValueError("the two outcome tables are not of the same metrics")
    return {
        name: difference_interval(values, frozen.scores[name], fitted.group)
        for name, values in fitted.scores.items()
    }


def write_outcomes(folder: Path, outcomes: Outcomes) -> None:
    write_file(folder / FILE, outcomes.to_csv().encode("utf-8", _NAMES))


def read_outcomes(folder: Path) -> Outcomes:
    """The table that `write_outcomes` wrote.

    Raises:
        CasamError: missing or damaged.
    """
    try:
        return Outcomes.from_csv((folder / FILE).read_bytes().decode("utf-8", _NAMES))
    except (OSError, ValueError) as error:
        raise CasamError(
            f"the outcomes in {folder} cannot be read: {error}", f"remove {folder} and run the command again"
        ) from None
