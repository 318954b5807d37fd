"""Tables of numbers about masks as files: CSV that comes back to the bit, or is refused as damaged."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from casam_cache.errors import CasamError
from casam_cache.store.files import write_file

_NAMES = "surrogatepass"  # file names need not be UTF-8

Table = TypeVar("Table")


def to_csv(header: Sequence[str], columns: Sequence[Sequence[Any]]) -> str:
    """One header, one line a row; numbers come back to the bit, NaN is empty.

    Lines end as RFC 4180 has them, so that names with line breaks are quoted: write it without translating them.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(zip(*([_written(value) for value in column] for column in columns), strict=True))
    return out.getvalue()


def _written(value: str | int | float) -> str:
    if isinstance(value, (str, int)):
        return str(value)
    return "" if math.isnan(value) else repr(float(value))


def from_csv(text: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of what `to_csv` wrote, as strings.

    Raises:
        ValueError: it is not such a table, or was cut off.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if not rows or not text.endswith("\r\n"):
        raise ValueError("no table, or one that was cut off")
    header, *lines = rows
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a line of {len(line)} columns below a header of {len(header)}")
    return header, lines


def number(text: str) -> float:
    """The number that `to_csv` wrote: NaN where the field is empty."""
    return float(text) if text else math.nan


def write(path: Path, text: str) -> None:
    write_file(path, text.encode("utf-8", _NAMES))


def read(path: Path, parse: Callable[[str], Table]) -> Table:
    """What `parse` makes of the file's text.

    Raises:
        CasamError: missing, or `parse` raises ValueError.
    """
    try:
        return parse(path.read_bytes().decode("utf-8", _NAMES))
    except (OSError, ValueError) as error:
        raise CasamError(
            f"{path} cannot be read: {error}", f"remove {path.parent} and run the command again"
        ) from None
