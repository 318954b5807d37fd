"""Legends: which colour or value of masks is which class, from a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from casam_cache.datasets.named_values import parse_value
from casam_cache.errors import OptionError

Legend = tuple[tuple[str, str], ...]
"""Names with `#rrggbb` or a number, in the order of the file."""

_LAYOUT = "a line a class: name,#rrggbb or name,r,g,b or r g b name or name,value; or JSON: {name: '#rrggbb'}"
_CVAT = re.compile(r"^([^:]+):(\d{1,3},\d{1,3},\d{1,3}):[^:]*:[^:]*$")
"""A line of labelmap.txt, as CVAT and Datumaro write it beside masks: `name:r,g,b:parts:actions`."""
_COLOUR_KEYS = ("color", "colour", "rgb", "hex", "value", "id")


def read_legend(path: Path) -> Legend:
    """The classes that a file lists.

    Raises:
        OptionError: it cannot be read, or a line says no class; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise OptionError(f"--legend {path}: cannot be read: {reason}", _LAYOUT) from None
    rows = _from_json(path, text) if text.lstrip()[:1] in ("{", "[") else _from_lines(path, text)
    return check_legend(rows, str(path))


def lists_colours(legend: Legend) -> bool:
    return bool(legend) and parse_value(legend[0][1], "--legend")[1]


def check_legend(rows: list[tuple[str, str]], where: str) -> Legend:
    """The legend, where each name and colour comes once.

    Raises:
        OptionError: it is empty, mixes colours and values, or has one twice.
    """
    if not rows:
        raise OptionError(f"--legend {where}: it lists no class", _LAYOUT)
    for place, (name, value) in enumerate(rows):
        parse_value(value, f"--legend {where}:")
        for other, known in rows[:place]:
            if other == name or known == value:
                raise OptionError(
                    f"--legend {where}: '{name}' and '{other}' ({value})", "list each class once"
                )
    if len({parse_value(value, "--legend")[1] for _, value in rows}) > 1:
        raise OptionError(f"--legend {where}: colours and values are mixed", "list one of the two")
    return tuple(rows)


def _from_lines(path: Path, text: str) -> list[tuple[str, str]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or re.match(r"\s*(//|#(?![0-9a-fA-F]{6}\b))", line):
            continue
        found = _row(line)
        if found is not None:
            rows.append(found)
        elif rows or re.search(r"\d", line):  # a first line without numbers is a header
            raise OptionError(f"--legend {path}, line {number}: '{line.strip()[:60]}' says no class", _LAYOUT)
    return rows


def _row(line: str) -> tuple[str, str] | None:
    line = _CVAT.sub(r"\1,\2", line.strip())
    split = next((mark for mark in ",;\t" if mark in line), None)
    fields = [field.strip().strip("\"'") for field in (line.split(split) if split else line.split())]
    fields = [field for field in fields if field]
    join = " " if split is None else ", "
    for place, field in enumerate(fields):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", field):
            return _named(fields[:place] + fields[place + 1 :], field.lower(), join)
    for colour, rest in ((fields[:3], fields[3:]), (fields[-3:], fields[:-3])):
        if (
            rest
            and len(colour) == 3
            and all(re.fullmatch(r"\d{1,3}", one) and int(one) < 256 for one in colour)
        ):
            return _named(rest, "#" + "".join(f"{int(one):02x}" for one in colour), join)
    for value, rest in ((fields[-1:], fields[:-1]), (fields[:1], fields[1:])):
        if rest and value and re.fullmatch(r"\d{1,9}", value[0]):
            return _named(rest, str(int(value[0])), join)
    return None


def _named(words: list[str], value: str, join: str) -> tuple[str, str] | None:
    name = join.join(words).strip()
    return (name, value) if name else None


def _from_json(path: Path, text: str) -> list[tuple[str, str]]:
    try:
        held = json.loads(text)
    except ValueError as error:
        raise OptionError(f"--legend {path}: no JSON: {error}", _LAYOUT) from None
    pairs: list[tuple[Any, Any]] = list(held.items()) if isinstance(held, dict) else []
    for entry in held if isinstance(held, list) else ():
        if isinstance(entry, dict):
            key = next((key for key in _COLOUR_KEYS if key in entry), None)
            pairs.append((entry.get("name", entry.get("label")), entry.get(key) if key else None))
        else:
            pairs.append(
                (entry[0], entry[1]) if isinstance(entry, list) and len(entry) == 2 else (None, entry)
            )
    rows = []
    for name, value in pairs:
        if (
            isinstance(value, list)
            and len(value) == 3
            and all(isinstance(one, int) and 0 <= one < 256 for one in value)
        ):
            value = "#" + "".join(f"{one:02x}" for one in value)
        if not isinstance(name, str) or not isinstance(value, (str, int)) or isinstance(value, bool):
            raise OptionError(f"--legend {path}: {name!r}: {value!r} says no class", _LAYOUT)
        rows.append((name, str(value).lower()))
    return rows
