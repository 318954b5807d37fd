"""The paper's own figures, every value as printed; one YAML file a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

REPORTED = {"iou": "IoU", "biou": "BIoU"}  # the metrics the paper has, by our names
NUMBERS = tuple(str(number) for number in range(1, 12))


@dataclass(frozen=True)
class PaperColumn:
    """A column.

    Attributes:
        key: what it holds, in the words of our results: `last_iou`, `task:ACDC`, `iou:DDTI`, ...
        label: its header as printed.
        group: the header that spans it, or empty.
        unit: percent, millions, gflops, number or text.
        better: `high`, `low`, or empty.
    """

    key: str
    label: str
    group: str
    unit: str
    better: str


@dataclass(frozen=True)
class PaperRow:
    """A row.

    Attributes:
        label: as printed.
        section: the part of the table it is in, or empty.
        match: what it is the result of: method, option, task, order.
        values: as printed, by column key; without those that are blank.
    """

    label: str
    section: str
    match: Mapping[str, Any]
    values: Mapping[str, str]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        number: 1 to 11.
        caption: its first words.
        notes: what has to be known to read its values.
        columns: from left to right.
        rows: from top to bottom.
    """

    number: str
    caption: str
    notes: tuple[str, ...]
    columns: tuple[PaperColumn, ...]
    rows: tuple[PaperRow, ...]

    def rows_of(self, **match: Any) -> list[PaperRow]:
        return [row for row in self.rows if all(row.match.get(key) == value for key, value in match.items())]


@cache
def paper_figures(number: str) -> PaperTable:
    """Table 1 to 11; the paper prints no numbers for its figures.

    Raises:
        KeyError: for another number.
    """
    if number not in NUMBERS:
        raise KeyError(number)
    content = yaml.safe_load(files(__name__).joinpath(f"table{number}.yaml").read_text(encoding="utf-8"))
    columns = tuple(PaperColumn(**column) for column in content["columns"])
    rows = tuple(
        PaperRow(
            row["label"],
            row.get("section", ""),
            row["match"],
            {column.key: value for column, value in zip(columns, row["values"], strict=True) if value},
        )
        for row in content["rows"]
    )
    return PaperTable(content["table"], content["caption"], tuple(content["notes"]), columns, rows)


def printed_number(text: str) -> float | None:
    """The number at the start of a printed value (`65.79%`, `4.06M`, `29.66 (48.42)`); None where there is none."""
    found = re.match(r"-?\d+(\.\d+)?", text)
    return float(found.group()) if found else None
