"""Exports of IMIS-Bench: images, a sparse mask a class in `label/`, and a `dataset.json` that lists both."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from casam_cache.datasets.base import FilesDone, Reader, check_inside
from casam_cache.datasets.images import load_array
from casam_cache.datasets.listing import facts_below
from casam_cache.datasets.masks import regions
from casam_cache.datasets.published.assemble import Item, assemble
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, MaskValues, Problem, Sample, SplitName
from casam_cache.errors import DatasetError, ImageError

TABLE = "dataset.json"
_PARTS: dict[str, SplitName] = {"training": "train", "validation": "val", "test": "test"}
_SHAPE = re.compile(r"\.(\([\d, ]+\))\.npz$")
_SLICE = re.compile(r"[_-]+[xyz]?_?\d+$")


class Imis(Reader):
    """Reads `dataset.json`, `image/NAME.png` and `label/x___NAME.(C, H, W, 1).npz`; `imask/` is not read."""

    name = "imis"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        try:
            with (path / TABLE).open("rb") as file:
                return (
                    re.search(rb'"label"\s*:\s*"[^"]*\.\([\d, ]+\)\.npz"', file.read(1_000_000)) is not None
                )
        except OSError:
            return False

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """The dataset with its official split. Classes are numbered as in `dataset.json`.

        Raises:
            DatasetError: `dataset.json` is damaged, or nothing can be used.
        """
        table = _table(path)
        classes = {int(number): name for number, name in table["labels"].items() if int(number) > 0}
        items: list[Item] = []
        problems: list[Problem] = []
        stems = [PurePosixPath(row["image"]).stem for part in _PARTS for row in table.get(part, ())]
        splits = [split for part, split in _PARTS.items() for _ in table.get(part, ())]
        groups, note = _groups(stems, splits)
        rows = [row for part in _PARTS for row in table.get(part, ())]
        seen: set[str] = set()
        for row, split, group in zip(rows, splits, groups, strict=True):
            id = PurePosixPath(row["image"]).with_suffix("").as_posix().removeprefix("image/")
            wrong = _what_is_wrong(path, row, len(classes), id in seen)
            if wrong:
                problems.append(Problem(row["image"], wrong, "copy it again from its source", sample=id))
                continue
            seen.add(id)
            items.append(Item(id, row["image"], group, (row["label"],), split=split))
            if progress:
                progress(len(items), len(rows))
        one = len(classes) == 1
        mode = (options.masks or ("binary" if one else "classes"), "as asked" if options.masks else f"{TABLE} lists "
                + ("one class" if one else f"{len(classes)} classes"))  # fmt: skip
        named = ", ".join(f"{number} {name}" for number, name in sorted(classes.items())[:20])
        return assemble(
            path, task, options, items, problems, mode=mode, values=MaskValues((0, *sorted(classes))),
            notes=(f"IMIS-Bench's export '{table.get('name', '')}', classes {named}", note),
        )  # fmt: skip

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        return load_array(root / source, max_pixels)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        path = dataset.root / sample.masks[0]
        found = _channels(path, dataset.options.max_pixels)
        if dataset.mask_mode == "binary":
            if found:
                yield Mask(np.logical_or.reduce([bitmap for _, bitmap in found]), 1, 1)
            return
        for number, bitmap in found:
            if dataset.mask_mode == "instances":
                yield Mask(bitmap, 1, number)
            elif dataset.mask_mode == "classes":
                yield Mask(bitmap, number, 1)
            else:
                yield from (Mask(part, number, place) for place, part in enumerate(regions(bitmap), 1))

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        """All but `imask/`, which holds masks that a model proposed."""
        return [entry for entry in facts_below(path) if not entry[0].startswith("imask/")]

    def file_of(self, source: str) -> str:
        return source


def _table(path: Path) -> dict[str, Any]:
    """`dataset.json`, with the parts that are read looked at.

    Raises:
        DatasetError: it is damaged.
    """
    file = path / TABLE
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        labels, parts = table["labels"], [table.get(part, []) for part in _PARTS]
        for text in (*labels, *(row[key] for rows in parts for row in rows for key in ("image", "label"))):
            if not isinstance(text, str):
                raise TypeError(f"{text!r} is no text")
        for number in labels:
            int(number)
        for rows in parts:
            for row in rows:
                check_inside(row["image"])
                check_inside(row["label"])
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror or error}", "check that it can be read") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{file}: not as IMIS-Bench writes it: {type(error).__name__} {error}".rstrip(),
            "it needs labels, and rows of image and label under training and test",
        ) from None
    found: dict[str, Any] = table
    return found


def _groups(stems: Sequence[str], splits: Sequence[SplitName]) -> tuple[list[str], str]:
    """The patient of each image: its name without the number of the slice, unless that parts one over the split."""
    cut = [_SLICE.sub("", stem) or stem for stem in stems]
    sides: dict[str, set[str]] = {}
    for group, split in zip(cut, splits, strict=True):
        sides.setdefault(group, set()).add(split)
    if len(sides) > 1 and all(len(found) == 1 for found in sides.values()):
        return cut, f"patients by name: the images of '{cut[0]}' are kept together"
    return list(stems), "no patients can be seen in the names: give --group-regex if there are any"


def _what_is_wrong(root: Path, row: dict[str, str], classes: int, seen: bool) -> str:
    shape = shape_of(row["label"])
    if seen:
        return "a second row for this image"
    if not (root / row["image"]).is_file():
        return "the image is not there"
    if not (root / row["label"]).is_file():
        return f"its label {row['label']} is not there"
    if shape is None:
        return f"the name of its label {row['label']} has no shape (C, H, W, 1)"
    if shape[0] != classes:
        return f"its label has {shape[0]} classes, {TABLE} {classes}"
    return ""


def shape_of(name: str) -> tuple[int, int, int] | None:
    """(C, H, W) in the name of a label file, None where it has none."""
    match = _SHAPE.search(name)
    shape: tuple[int, ...] = ast.literal_eval(match[1]) if match else ()
    if len(shape) != 4 or shape[3] != 1 or min(shape) < 1:
        return None
    return shape[0], shape[1], shape[2]


def _channels(path: Path, max_pixels: int) -> list[tuple[int, np.ndarray]]:
    """The classes that have any pixel, with their bitmaps (H, W).

    Raises:
        ImageError: it cannot be read, or has more pixels than `max_pixels`.
    """
    from scipy import sparse

    shape = shape_of(path.name)
    if shape is None or shape[1] * shape[2] > max_pixels:
        raise ImageError(f"{path}: no shape in its name, or more than {max_pixels:,} pixels", "restore it")
    try:
        matrix = sparse.load_npz(path).tocsr()
    except Exception as error:  # zip, NumPy and SciPy each have their own
        raise ImageError(f"{path}: cannot be read: {error}".splitlines()[0], "copy it again") from error
    if matrix.shape != (shape[0], shape[1] * shape[2]):
        raise ImageError(f"{path}: holds {matrix.shape}, its name says {shape}", "copy it again")
    found = []
    for channel in range(shape[0]):
        row = matrix.getrow(channel)
        if row.nnz:
            bitmap = (row.toarray() != 0).reshape(shape[1:])
            if bitmap.any():
                found.append((channel + 1, bitmap))
    return found
