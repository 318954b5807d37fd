"""How each mask was scored: a table of one row a mask, in memory and on disk, and the means people quote of it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from casam_cache.errors import CasamError
from casam_cache.metrics.intervals import Interval, difference_interval, mean_interval
from casam_cache.store.files import write_file

FILE = "outcomes.csv"
_NAMES = "surrogatepass"  # file names need not be UTF-8


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
        """One header, one line a mask, a column a metric behind those that describe it.

        Numbers come back to the bit; what is undefined is empty. Lines end as RFC 4180 has them, so that names with
        line breaks are quoted: write it without translating them.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow([*DESCRIBING, *self.scores])
        columns: list[Sequence[Any]] = [getattr(self, name) for name in (*_STRINGS, *_INTEGERS)]
        columns += [
            [_written(value) for value in column] for column in (self.predicted_iou, *self.scores.values())
        ]
        writer.writerows(zip(*columns, strict=True))
        return out.getvalue()

    @classmethod
    def from_csv(cls, text: str) -> Outcomes:
        """The table that `to_csv` wrote.

        Raises:
            ValueError: it is not one, or was cut off inside a line.
        """
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header, *lines = rows
        except csv.Error as error:
            raise ValueError(str(error)) from None
        if tuple(header[: len(DESCRIBING)]) != DESCRIBING or not text.endswith("\r\n"):
            raise ValueError("no table of outcomes, or one that was cut off")
        read = cls(scores={name: [] for name in header[len(DESCRIBING) :]})
        convert = [str] * len(_STRINGS) + [int] * len(_INTEGERS)
        columns: list[list[Any]] = [getattr(read, name) for name in (*_STRINGS, *_INTEGERS)]
        numbers = [read.predicted_iou, *read.scores.values()]
        for line in lines:
            if len(line) != len(header):
                raise ValueError(f"a line of {len(line)} columns below a header of {len(header)}")
            for column, kind, value in zip(columns, convert, line, strict=False):
                column.append(kind(value))
            for column, value in zip(numbers, line[len(columns) :], strict=True):
                column.append(float(value) if value else math.nan)
        return read


DESCRIBING = tuple(entry.name for entry in fields(Outcomes) if entry.name != "scores")
_STRINGS, _INTEGERS = DESCRIBING[:3], DESCRIBING[3:6]


def _written(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


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
    """Each metric's mean over the masks, with its interval from resampling groups."""
    groups = [f"{task}\0{group}" for task, group in zip(outcomes.task, outcomes.group, strict=True)]
    intervals = {name: mean_interval(values, groups) for name, values in outcomes.scores.items()}
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
