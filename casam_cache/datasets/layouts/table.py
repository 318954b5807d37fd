"""A table that lists images and their masks, for whatever lies as no other reader knows: `dataset.csv`."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from casam_cache.datasets.assign import FOLDERS
from casam_cache.datasets.folder import FilesReader
from casam_cache.datasets.listing import facts
from casam_cache.datasets.parts import Found
from casam_cache.datasets.sample import SPLITS, DatasetOptions, Problem, Sample, SplitName
from casam_cache.datasets.splits import SPLIT_FOLDERS, table_text
from casam_cache.errors import DatasetError

NAME = "dataset.csv"
TABLE = "table:"
"""In front of the file of a table, where the name of a reader is asked for."""
COLUMNS = ("image", "mask", "split", "group")
HEADER = "its first line is: image,mask,split,group (split and group may be left out)"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        line: its number, from 1.
        image: a path relative to the dataset folder.
        masks: likewise.
        split: empty where it is not given.
        group: likewise.
    """

    line: int
    image: str
    masks: tuple[str, ...]
    split: SplitName | None
    group: str


class Table(FilesReader):
    """Reads the images and masks that a table lists.

    Args:
        file: the table; None reads `dataset.csv` in the dataset folder. What it lists is relative to that folder.
    """

    name = "table"

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        if file is not None:
            self.name = f"{TABLE}{file}"  # type: ignore[misc]  # so that a store goes on with the same table

    def recognises(self, path: Path) -> bool:
        try:
            return self.file is not None or {"image", "mask"} <= set(_header(path / NAME))
        except (OSError, ValueError):
            return False

    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        file = self.file or path / NAME
        problems: list[Problem] = []
        rows = list(read_table(file, path))
        found = _assemble(path, file, rows, options, problems)
        if not found:
            example = f", for example {problems[0]}" if problems else ""
            raise DatasetError(f"{file}: lists no usable image{example}", HEADER)
        shown = next((one for one in found if one.masks), found[0])
        names = " + ".join((shown.image, *shown.masks[:2])) + (", ..." if len(shown.masks) > 2 else "")
        return found, problems, f"the table {os.path.relpath(file, path)}: {len(found)} images: {names}"

    def assign(
        self, path: Path, found: list[Found], options: DatasetOptions, problems: list[Problem]
    ) -> tuple[list[Sample], str]:
        samples, source = super().assign(path, found, options, problems)
        return samples, source.replace(FOLDERS, "the table")

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        """The table, and the files that it lists."""
        file = self.file or path / NAME
        listed = {name for row in read_table(file, path) for name in (row.image, *row.masks)}
        listed_facts = [facts(name, path / name) for name in listed]
        return sorted([*listed_facts, facts(os.path.relpath(file, path), file)])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file,)


def read_table(file: Path, root: Path) -> Iterator[Row]:
    """The rows of a table (comma, semicolon or tab); several masks of a row are parted by `;`, or by `|`.

    Raises:
        DatasetError: it cannot be read, a column is missing, a split has another name, or a path leads elsewhere.
    """
    text = table_text(file)
    delimiter = _delimiter(text.partition("\n")[0])
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    try:
        names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        missing = [name for name in ("image", "mask") if name not in names]
        if missing:
            raise DatasetError(f"{file}: no column '{missing[0]}'", HEADER)
        for cells in reader:
            values = {name: (cells[names[name]] or "").strip() for name in COLUMNS if name in names}
            if values["image"]:
                yield _row(file, root, reader.line_num, values, "|" if delimiter == ";" else ";|")
    except csv.Error as error:
        raise DatasetError(
            f"{file}, line {reader.line_num + 1}: {error}", "look for a quotation mark that nothing closes"
        ) from None


def _row(file: Path, root: Path, line: int, values: dict[str, str], between: str) -> Row:
    told = values.get("split", "")
    split = SPLIT_FOLDERS.get(told.lower())
    if told and split is None:
        raise DatasetError(f"{file}, line {line}: '{told}' is not a split", f"use one of {', '.join(SPLITS)}")
    masks = values["mask"]
    if not (root / masks).is_file():  # else a name that itself holds such a sign
        for sign in between:
            masks = masks.replace(sign, "\n")
    listed = [_inside(file, root, line, mask.strip()) for mask in masks.split("\n") if mask.strip()]
    return Row(
        line, _inside(file, root, line, values["image"]), tuple(listed), split, values.get("group", "")
    )


def _inside(file: Path, root: Path, line: int, name: str) -> str:
    """A path as the store keeps it: relative to the dataset folder, with slashes.

    Raises:
        DatasetError: it leads elsewhere.
    """
    name = name.replace("\\", "/") if not (root / name).exists() else name
    if os.path.isabs(name):
        name = os.path.relpath(name, os.path.abspath(root))
    pure = PurePosixPath(os.path.normpath(name))
    if ".." in pure.parts:
        raise DatasetError(
            f"{file}, line {line}: '{name}' lies outside {root}",
            "paths are relative to the dataset folder; give the folder that holds all of them",
        )
    return pure.as_posix()


def _assemble(
    root: Path, file: Path, rows: Iterable[Row], options: DatasetOptions, problems: list[Problem]
) -> list[Found]:
    """One image for all rows that name it; what cannot be used becomes problems."""
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    stems = Counter(_id(image) for image in by_image)
    parted = any(row.split for own in by_image.values() for row in own)
    found = []
    for image, own in by_image.items():
        id = _id(image) if stems[_id(image)] == 1 else unicodedata.normalize("NFC", image)
        first = own[0]
        other = next((row for row in own if (row.split, row.group) != (first.split, first.group)), None)
        if other is not None:
            raise DatasetError(
                f"{file}: lines {first.line} and {other.line} give '{image}' two splits or groups", "keep one"
            )
        masks = tuple(dict.fromkeys(mask for row in own for mask in row.masks))
        gone = next((name for name in (image, *masks) if not os.path.lexists(root / name)), None)
        where = f"{file.name}, line {first.line}"
        if gone is not None:
            problems.append(Problem(where, f"there is no file {gone}", "correct its path", sample=id))
        elif parted and first.split is None:
            problems.append(Problem(where, f"{image} has no split, left out", "name one", sample=id))
        elif not masks and not options.unlabelled:
            problems.append(
                Problem(where, f"{image} has no mask", "name one, or use --unlabelled", sample=id)
            )
        else:
            found.append(Found(id, id, image, first.split, masks, bool(masks), len(masks) > 1, first.group))
    return found


def what_is_wrong(root: Path) -> DatasetError | None:
    """Why the `dataset.csv` of a folder is not read as a table; None where there is none, or nothing is wrong."""
    file = root / NAME
    if not file.is_file():
        return None
    try:
        header = _header(file)
    except (OSError, UnicodeDecodeError) as error:
        return DatasetError(f"{file}: cannot be read: {error}", "save it as UTF-8 text, comma separated")
    missing = [name for name in COLUMNS[:2] if name not in header]
    if not missing:
        return None
    return DatasetError(
        f"{file}: no column '{missing[0]}' (the first line is {','.join(header)[:80]!r})", HEADER
    )


def _id(image: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(image).with_suffix("").as_posix())


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _header(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(file)
    with file.open(encoding="utf-8-sig") as opened:
        line = opened.readline(10_000)
    return [name.strip().strip('"').lower() for name in line.split(_delimiter(line))]
