"""Rows of results gathered by configuration: means and intervals over seeds and orders as cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casam_cache.fingerprint import canonical_json
from casam_cache.metrics.compare import Estimate, over_runs
from casam_cache.report.layout import Cell
from casam_cache.training.evaluation_prompts import ORACLE_BOX

Row = Mapping[str, Any]
UPPER_BOUNDS = ("joint",)  # sees the data of all tasks at once


@dataclass(frozen=True)
class Configuration:
    """The runs of one configuration: a method with its options, over seeds and orders.

    Attributes:
        label: in tables.
        method: its name.
        rows: of results, one a run.
    """

    label: str
    method: str
    rows: tuple[Row, ...]

    @property
    def options(self) -> Mapping[str, Any]:
        """The options all its runs share."""
        options: Mapping[str, Any] = self.rows[0].get("options") or {}
        return options

    @property
    def oracle(self) -> bool:
        """Whether the task of each test image is told."""
        return self.rows[0].get("router") == "oracle"

    @property
    def ranked(self) -> bool:
        """Whether it may be called best: neither an upper bound nor told the task at test time."""
        return self.method not in UPPER_BOUNDS and not self.oracle

    def estimate(self, read: Callable[[Row], Any]) -> Estimate:
        """Mean and interval over the runs of what `read` finds in a row; null and NaN are left out."""
        values = [read(row) for row in self.rows]
        seeds = [row.get("seed", 0) for row in self.rows]
        return over_runs(values, seeds, [tuple(row.get("order") or ()) for row in self.rows])


def gather(rows: Sequence[Row]) -> list[Configuration]:
    """Configurations in order of first appearance; runs that differ only in seed and order belong together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        same = [
            row.get(key) for key in ("label", "method", "router", "model", "options", "evaluate", "weight")
        ]
        same += [row.get("forgetting"), row.get("prompt") or ORACLE_BOX]
        groups.setdefault(canonical_json(same), []).append(row)
    models = {row.get("model") for row in rows}
    found = []
    for members in groups.values():
        first = members[0]
        label = str(first.get("label") or first["method"])
        label += f" [{first.get('model')}]" if len(models) > 1 else ""
        found.append(Configuration(label, str(first["method"]), tuple(members)))
    return found


def percent_cell(estimate: Estimate) -> Cell | None:
    """A metric in [0, 1] as the paper prints it, in percent with two decimals; None where undefined."""
    return number_cell(estimate, 2, 100)


def number_cell(estimate: Estimate, digits: int, factor: float = 1) -> Cell | None:
    """`76.12 ± 0.41`; None where undefined.

    Where the runs are too few for an interval, those of two to four are listed: `63.88 (55.51, 72.25)`.
    """
    if math.isnan(estimate.mean):
        return None
    mean = factor * estimate.mean
    shown = _rounded(mean, digits)
    if not math.isnan(estimate.half):
        half = factor * estimate.half
        return Cell(f"{shown} ± {half:.{digits}f}", mean, half)
    if not 1 < estimate.runs <= _LISTED:
        return Cell(shown, mean)
    values = [_rounded(factor * value, digits) for value in estimate.values]
    return Cell(f"{shown} ({', '.join(values)})" if len(set(values)) > 1 else shown, mean)


_LISTED = 4  # runs


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # never -0.00


def parameter_cell(row: Row) -> Cell | None:
    """Trained parameters in millions, as the paper prints them; more digits for very small models."""
    count = row.get("parameters")
    if count is None:
        return None
    millions = count / 1e6
    return Cell(f"{millions:.2f}M" if millions >= 0.01 else f"{millions:.3g}M" if count else "0 M", millions)


def gflops_cell(row: Row) -> Cell | None:
    """`1031.2 (515.6)`: a multiplication and an addition as two, and in brackets as one, which the paper counts."""
    gflops = row.get("gflops")
    return None if gflops is None else Cell(f"{gflops:.1f} ({gflops / 2:.1f})", float(gflops))


def present(cells: Mapping[str, Cell | None]) -> dict[str, Cell]:
    """Without what does not apply: a blank is never a zero."""
    return {key: cell for key, cell in cells.items() if cell is not None}


def at(*path: str) -> Callable[[Row], Any]:
    """Reads a value of a nested row; None where a part of the path is missing."""

    def read(row: Row) -> Any:
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return read
