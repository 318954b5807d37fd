"""Per-mask outcomes on disk, and the means people quote with intervals from resampling groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.errors import CasamError
from casam_cache.metrics.intervals import Interval, difference_interval
from casam_cache.training.evaluate import METRICS, Outcomes

FILE = "outcomes.parquet"


@dataclass(frozen=True)
class Score:
    """Means over masks, in [0, 1], each with its interval.

    Attributes:
        iou, biou, dice: IoU, Boundary IoU and Dice at original resolution.
        masks: masks that entered.
        undefined: masks left out because truth and prediction are both empty.
    """

    iou: Interval
    biou: Interval
    dice: Interval
    masks: int
    undefined: int

    def to_json(self) -> dict[str, Any]:
        """`{"iou", "biou", "dice", "masks", ...}`, null where undefined, intervals as [low, high]."""
        means = {name: _number(getattr(self, name).mean) for name in METRICS}
        edges = {name: getattr(self, name) for name in METRICS}
        intervals = {name: [_number(edge.low), _number(edge.high)] for name, edge in edges.items()}
        return {**means, "masks": self.masks, "undefined": self.undefined, "intervals": intervals}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def score(outcomes: Outcomes) -> Score:
    """Summary of an outcome table; intervals resample groups."""
    intervals = outcomes.intervals()
    iou = intervals["iou"]
    return Score(iou, intervals["biou"], intervals["dice"], iou.values, iou.undefined)


def gain(fitted: Outcomes, frozen: Outcomes) -> dict[str, Interval]:
    """Paired difference fitted - frozen over the same masks, a metric.

    Raises:
        ValueError: the two tables are not of the same masks.
    """
    for name in ("task", "item", "class_id", "instance"):
        if getattr(fitted, name) != getattr(frozen, name):
            raise ValueError("the two outcome tables are not of the same masks")
    return {
        name: difference_interval(getattr(fitted, name), getattr(frozen, name), fitted.group)
        for name in METRICS
    }


def write_outcomes(folder: Path, outcomes: Outcomes) -> None:
    """Writes the table as outcomes.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(outcomes.columns()), folder / FILE)


def read_outcomes(folder: Path) -> Outcomes:
    """The table that `write_outcomes` wrote.

    Raises:
        CasamError: missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return Outcomes(**pq.read_table(folder / FILE).to_pydict())
    except (OSError, pa.ArrowInvalid, TypeError) as error:
        raise CasamError(
            f"the outcomes in {folder} cannot be read: {error}", f"remove {folder} and run the command again"
        ) from None
