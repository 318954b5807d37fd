"""The paper's figures as columns and lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from casam_cache.report.configurations import Configuration, at, percent_cell, present
from casam_cache.report.layout import Cell, Column, Line
from casam_cache.report.paper import PaperColumn, PaperRow, printed_number

OursCells = Callable[[Configuration], dict[str, Cell]]


def columns_of(columns: Iterable[PaperColumn]) -> tuple[Column, ...]:
    return tuple(Column(column.key, column.label, column.group, column.better) for column in columns)


def paper_line(row: PaperRow) -> Line:
    return Line(name_of(row), {key: printed(text) for key, text in row.values.items()}, "paper", ranked=False)


def name_of(row: PaperRow) -> str:
    """The row's label without reference numbers and "(Ours)", which mean something in the paper only."""
    return re.sub(r" ?(\[\d+\]|\(Ours\))", "", row.label)


def printed(text: str) -> Cell:
    """A value as printed; the percent sign goes, since every column is in percent."""
    return Cell(text.removesuffix("%"), printed_number(text))


def side_by_side(
    rows: Sequence[PaperRow],
    runs: Sequence[Configuration],
    matches: Callable[[Configuration, PaperRow], bool],
    cells: OursCells,
) -> tuple[Line, ...]:
    """For each row of the paper, ours above it; then what the paper does not have.

    Args:
        rows: of the paper.
        runs: ours.
        matches: whether a configuration of ours is what a row of the paper is the result of.
        cells: of a configuration.
    """
    lines: list[Line] = []
    used: set[int] = set()
    for row in rows:
        ours = [i for i, each in enumerate(runs) if i not in used and matches(each, row)]
        used.update(ours)
        for i in ours:
            label = name_of(row) if len(ours) == 1 else runs[i].label
            lines.append(ours_line(runs[i], cells, label))
        lines.append(paper_line(row))
    rest = [each for i, each in enumerate(runs) if i not in used]
    return (*lines, *(ours_line(each, cells) for each in rest))


def ours_line(each: Configuration, cells: OursCells, label: str | None = None) -> Line:
    told = " (task told)" if each.oracle else ""
    return Line((label or each.label) + told, cells(each), "ours", each.ranked)


def figure_cells(columns: Iterable[PaperColumn]) -> OursCells:
    """What fills the paper's columns that hold figures of our results by their own key, all in percent."""
    keys = [column.key for column in columns if column.unit == "percent"]
    return lambda each: present({key: percent_cell(each.estimate(at(key))) for key in keys})
