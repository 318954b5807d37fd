"""Tables as data: sections of lines under columns, ours and the paper's apart, best and second best among ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Source = Literal["ours", "paper", ""]
Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: of its cells.
        label: its header.
        group: a header that spans it and its neighbours of the same group, or empty.
        better: whether `high` or `low` values are better; empty: neither.
        left: whether its cells are words, which stand at its left edge in a terminal.
    """

    key: str
    label: str
    group: str = ""
    better: str = ""
    left: bool = False

    @property
    def arrow(self) -> str:
        return {"high": " ↑", "low": " ↓"}.get(self.better, "")


@dataclass(frozen=True)
class Cell:
    """One value.

    Attributes:
        text: as shown, without a mark.
        number: the value in the unit shown; None for text.
        half: half width of its interval, where there is one.
        mark: among ours.
    """

    text: str
    number: float | None = None
    half: float | None = None
    mark: Mark = ""


@dataclass(frozen=True)
class Line:
    """One row; a column without a cell is blank.

    Attributes:
        label: what it is the result of.
        cells: by column key.
        source: whose figures, in a table that has some of the paper's.
        ranked: whether it takes part in best and second best.
    """

    label: str
    cells: Mapping[str, Cell]
    source: Source = ""
    ranked: bool = True


@dataclass(frozen=True)
class Section:
    """Lines under one header.

    Attributes:
        title: over it, or empty.
        columns: from left to right.
        lines: from top to bottom.
    """

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """What any command prints as a table.

    Attributes:
        name: of the table: `table1`, ...
        title: over it, or empty.
        heading: of the column of labels; there are no headers at all where this and every column's is empty.
        sections: one under the other.
        notes: under it: what the numbers are, and where they differ from the paper's.
    """

    name: str
    title: str
    heading: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def sourced(self) -> bool:
        return any(line.source for section in self.sections for line in section.lines)


def ranked(section: Section) -> Section:
    """The section with best and second best marked in each column, among the ranked lines of ours only.

    Values that print alike share a mark, and a column in which all do has none.
    """
    lines = list(section.lines)
    for column in section.columns:
        if not column.better:
            continue
        shown = {
            place: _printed(line.cells[column.key])
            for place, line in enumerate(lines)
            if line.source != "paper" and line.ranked and column.key in line.cells
        }
        known = {place: value for place, value in shown.items() if value is not None}
        best = sorted(set(known.values()), reverse=column.better == "high")[:2]
        if len(best) < 2:
            continue
        for place, value in known.items():
            if value in best:
                mark: Mark = "best" if value == best[0] else "second"
                line = lines[place]
                cells = {**line.cells, column.key: replace(line.cells[column.key], mark=mark)}
                lines[place] = replace(line, cells=cells)
    return replace(section, lines=tuple(lines))


def _printed(cell: Cell) -> float | None:
    return None if cell.number is None else round(cell.number, 2)


def flat_labels(columns: Sequence[Column]) -> list[str]:
    """Headers for formats without spanning ones: with the group where labels repeat."""
    labels = [column.label for column in columns]
    return [
        f"{column.group} {column.label}".strip() if labels.count(column.label) > 1 else column.label
        for column in columns
    ]


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    lines = tuple(Line(name, {"value": Cell(value)}) for name, value in facts)
    return Table("facts", "", "", (Section("", (Column("value", "", left=True),), lines),))
