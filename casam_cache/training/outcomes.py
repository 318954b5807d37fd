"""How each mask was scored: a table of one row a mask, in memory and on disk, and the means people quote of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from casam_cache.metrics.intervals import Interval, difference_interval, mean_interval
from casam_cache.metrics.registry import STANDARD
from casam_cache.training import mask_tables

FILE = "outcomes.csv"


@dataclass(frozen=True)
class Outcomes:
    """One row a true mask, as columns of equal length, in the order of the view.

    Attributes:
        task, item, group: where the mask is from.
        class_id, instance: which mask of the image.
        area: true foreground pixels.
        predicted_iou: the decoder's own estimate, not clipped.
        scores: by name of the metric; NaN where it is undefined.
    """

    task: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    class_id: list[int] = field(default_factory=list)
    instance: list[int] = field(default_factory=list)
    area: list[int] = field(default_factory=list)
    predicted_iou: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item)

    @property
    def task_groups(self) -> list[str]:
        """The group of each mask, named with its task: groups of different tasks are different ones."""
        return [f"{task}\0{group}" for task, group in zip(self.task, self.group, strict=True)]

    @classmethod
    def joined(cls, parts: Iterable[Outcomes]) -> Outcomes:
        """The rows of all parts, one part after the other; all must have the same metrics."""
        whole = cls()
        for part in parts:
            if len(whole) and list(part.scores) != list(whole.scores):
                raise ValueError(f"scores {list(part.scores)} after {list(whole.scores)}")
            for name in DESCRIBING:
                getattr(whole, name).extend(getattr(part, name))
            for name, values in part.scores.items():
                whole.scores.setdefault(name, []).extend(values)
        return whole

    def to_csv(self) -> str:
        """One header, one line a mask, a column a metric behind those that describe it; undefined scores are empty."""
        describing = [getattr(self, name) for name in DESCRIBING]
        return mask_tables.to_csv([*DESCRIBING, *self.scores], [*describing, *self.scores.values()])

    @classmethod
    def from_csv(cls, text: str) -> Outcomes:
        """The table that `to_csv` wrote.

        Raises:
            ValueError: it is not one, or was cut off inside a line.
        """
        header, lines = mask_tables.from_csv(text)
        if tuple(header[: len(DESCRIBING)]) != DESCRIBING:
            raise ValueError("no table of outcomes")
        read = cls(scores={name: [] for name in header[len(DESCRIBING) :]})
        columns: list[list[Any]] = [getattr(read, name) for name in DESCRIBING]
        columns += read.scores.values()
        kinds = [str] * 3 + [int] * 3 + [mask_tables.number] * (1 + len(read.scores))
        for line in lines:
            for column, kind, value in zip(columns, kinds, line, strict=True):
                column.append(kind(value))
        return read


DESCRIBING = tuple(entry.name for entry in fields(Outcomes) if entry.name != "scores")


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
    """Each metric's mean over the masks, with its interval by groups."""
    groups = outcomes.task_groups
    intervals = {name: mean_interval(values, groups) for name, values in outcomes.scores.items()}
    intervals |= {name: intervals[name].within(0, 1) for name in STANDARD if name in intervals}
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
    groups = fitted.task_groups
    return {
        name: difference_interval(values, frozen.scores[name], groups)
        for name, values in fitted.scores.items()
    }


def write_outcomes(folder: Path, outcomes: Outcomes) -> None:
    mask_tables.write(folder / FILE, outcomes.to_csv())


def read_outcomes(folder: Path) -> Outcomes:
    """The table that `write_outcomes` wrote.

    Raises:
        CasamError: missing or damaged.
    """
    return mask_tables.read(folder / FILE, Outcomes.from_csv)
