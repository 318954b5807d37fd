"""Figure 6: average IoU and BIoU by the number of blocks and of epochs, or of steps where a recipe counts those."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from casam_cache.metrics.compare import Estimate
from casam_cache.report.configurations import Row, at, gather, percent_cell, present
from casam_cache.report.layout import Cell, Column, Line, Section, ranked
from casam_cache.report.paper import REPORTED

Grid = Mapping[tuple[int, int], Estimate]  # (blocks, epochs) -> average over the tasks, [0, 1]


def grid(rows: Sequence[Row], metric: str) -> Grid:
    """The average of each number of blocks and epochs that was run, `metric` being `iou` or `biou`."""
    found = {}
    for each in gather(rows):
        blocks, epochs = each.options.get("blocks"), each.options.get("epochs")
        estimate = each.estimate(at(f"last_{metric}"))
        if blocks is not None and epochs is not None and not math.isnan(estimate.mean):
            found[int(blocks), int(epochs)] = estimate
    return found


def figure_6(rows: Sequence[Row]) -> list[Section]:
    """A row a number of blocks, a column a number of epochs, IoU above BIoU."""
    sections = []
    for metric, label in REPORTED.items():
        values = grid(rows, metric)
        epochs = sorted({epoch for _, epoch in values})
        columns = tuple(Column(str(epoch), _length(rows, epoch), better="high") for epoch in epochs)
        lines = tuple(
            Line(f"{blocks} block" + ("s" if blocks > 1 else ""), _cells(values, blocks, epochs), "ours")
            for blocks in sorted({blocks for blocks, _ in values})
        )
        sections.append(ranked(Section(f"Average {label}", columns, lines)))
    return sections


def _length(rows: Sequence[Row], epochs: int) -> str:
    """How long the layers of a column were trained: one epoch with an exact number of steps is that many steps."""
    options = [each.options for each in gather(rows) if each.options.get("epochs") == epochs]
    exact = {each.get("min_steps") for each in options if each.get("min_steps") == each.get("max_steps")}
    if epochs == 1 and len(exact) == 1 and (steps := exact.pop()) is not None:
        return f"{steps} steps"
    return f"{epochs} epoch{'s' * (epochs > 1)}"


def _cells(values: Grid, blocks: int, epochs: Sequence[int]) -> dict[str, Cell]:
    return present(
        {str(e): percent_cell(values[blocks, e]) if (blocks, e) in values else None for e in epochs}
    )
