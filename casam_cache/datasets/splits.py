"""Which samples train and which test: from `split.csv`, or seeded by group, never parting a group."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from casam_cache.datasets.sample import SPLITS, DatasetOptions, SplitName
from casam_cache.errors import DatasetError
from casam_cache.fingerprint import digest

SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class SplitRow:
    """One row of `split.csv`.

    Attributes:
        id: as written, with / for separators; may carry the suffix of the image.
        split: `train`, `val` or `test`.
        group: as written; empty when it is not given.
        line: number of the row's line, from 1.
    """

    id: str
    split: SplitName
    group: str
    line: int


def table_text(path: Path) -> str:
    """The text of a table of the user's, without a byte order mark.

    Raises:
        DatasetError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: cannot be read: {error}", "save it as UTF-8 text, comma separated"
        ) from None


def read_split_csv(path: Path) -> tuple[SplitRow, ...]:
    """The rows of a `split.csv` with the columns id, split and optionally group (comma, semicolon or tab).

    Raises:
        DatasetError: it cannot be read, a column is missing, a split has another name, or an id comes twice.
    """
    text = table_text(path)
    lines = text.splitlines()
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        names = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    except csv.Error as error:
        raise _unreadable(path, 1, error) from None
    missing = [name for name in ("id", "split") if name not in names]
    if missing:
        raise DatasetError(
            f"{path}: no column '{missing[0]}' (the first line is {header[:80]!r})",
            "the first line must be: id,split,group (group may be left out)",
        )
    rows: list[SplitRow] = []
    seen: dict[str, int] = {}
    for row in _rows(reader, path):
        name = (row[names["id"]] or "").strip().replace("\\", "/")
        if not name:
            continue
        split = SPLIT_FOLDERS.get((row[names["split"]] or "").strip().lower())
        if split is None:
            raise DatasetError(
                f"{path}, line {reader.line_num}: '{row[names['split']]}' is not a split (id '{name}')",
                f"use one of {', '.join(SPLITS)}",
            )
        if name in seen:
            raise DatasetError(
                f"{path}: the id '{name}' is in lines {seen[name]} and {reader.line_num}",
                "keep one of the two lines",
            )
        seen[name] = reader.line_num
        group = (row[names["group"]] or "").strip() if "group" in names else ""
        rows.append(SplitRow(name, split, group, reader.line_num))
    return tuple(rows)


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from reader
    except csv.Error as error:
        line = reader.line_num + 1  # the one that could not be finished
        raise _unreadable(path, line, error) from None


def _unreadable(path: Path, line: int, error: csv.Error) -> DatasetError:
    if "field limit" in str(error):
        return DatasetError(
            f"{path}, line {line}: a field of more than {csv.field_size_limit():,} characters",
            "look for a quotation mark that nothing closes; an id is the path of an image",
        )
    return DatasetError(f"{path}, line {line}: {error}", "save it as UTF-8 text, comma separated")


def group_of(name: str, pattern: str | None) -> str:
    """The group of an id: what `pattern` finds in it (its first capture group, if any), or the id itself.

    Raises:
        DatasetError: the pattern does not match, so the sample's group is unknown.
    """
    if pattern is None:
        return name
    match = re.search(pattern, name)
    group = match and (match.group(1) if match.re.groups else match.group(0))
    if not group:
        raise DatasetError(
            f"the group pattern '{pattern}' finds no group in the id '{name}'",
            "give a --group-regex that matches every id, for example '^([^_]+)'",
        )
    return group


def _draw(groups: Sequence[str], fraction: float, seed: int, purpose: str) -> set[str]:
    """The groups that hold about `fraction` of the images, in an order given by (seed, purpose, group name).

    A group's place in the order depends on its own name only, so that new images and groups hardly move
    others. A group is taken when that brings the number of images closer to the fraction. At least one group
    is taken and at least one left; of a single group none is taken.

    Args:
        groups: the group of each image.
        fraction: above 0.
        seed: another seed, another order.
        purpose: what the draw is for, so that two draws with one seed are independent.
    """
    sizes = Counter(groups)
    ranked = sorted(sizes, key=lambda group: (digest([seed, purpose, group]), group))
    wanted, taken, chosen = fraction * len(groups), 0, set[str]()
    for group in ranked:
        if taken + sizes[group] / 2 <= wanted and len(chosen) < len(ranked) - 1:
            chosen.add(group)
            taken += sizes[group]
    if not chosen and len(ranked) > 1:
        chosen.add(min(ranked, key=lambda group: sizes[group]))
    return chosen


def seeded_split(groups: Sequence[str], fraction: float, seed: int) -> list[SplitName]:
    """Train or test for each image, given its group; the same group always goes to the same side.

    Args:
        groups: the group of each image.
        fraction: share of the images that becomes test, as near as whole groups allow; 0 makes all train and
            1 all test. In between both sides get at least one group, train first.
        seed: another seed, another draw.
    """
    if fraction >= 1:
        return ["test"] * len(groups)
    test = _draw(groups, fraction, seed, "test") if fraction > 0 else set()
    return ["test" if group in test else "train" for group in groups]


def carve_validation(
    groups: Sequence[str], splits: Sequence[SplitName], fraction: float, seed: int
) -> list[SplitName]:
    """Turn about `fraction` of the train images into validation, by group; one group stays in train."""
    if fraction <= 0:
        return list(splits)
    train = [group for group, split in zip(groups, splits, strict=True) if split == "train"]
    chosen = _draw(train, fraction, seed, "val")
    return [
        "val" if split == "train" and group in chosen else split
        for group, split in zip(groups, splits, strict=True)
    ]


def draw_splits(groups: Sequence[str], options: DatasetOptions) -> tuple[list[SplitName], str]:
    """A split for each image, given its group, as the options ask for it; and how it was made, for people."""
    splits = carve_validation(
        groups, seeded_split(groups, options.test_fraction, options.seed), options.val_fraction, options.seed
    )
    source = f"seeded, {options.test_fraction:g} of the images for test by group, seed {options.seed}"
    if "val" in splits:
        source += f"; {options.val_fraction:g} of train for validation by group, seed {options.seed}"
    return splits, source


def refuse_parted_groups(members: Iterable[tuple[str, str, SplitName]], where: Path) -> None:
    """Check that every group lies in one split.

    Args:
        members: (id, group, split) of each sample.
        where: what the split came from, for the message.

    Raises:
        DatasetError: names a parted group and one member on each side.
    """
    found: dict[str, dict[SplitName, str]] = {}
    for name, group, split in members:
        found.setdefault(group, {}).setdefault(split, name)
    parted: Mapping[str, dict[SplitName, str]] = {
        group: sides for group, sides in found.items() if len(sides) > 1
    }
    if parted:
        group, sides = next(iter(parted.items()))
        shown = " and ".join(f"{split} ('{name}')" for split, name in sorted(sides.items()))
        more = f" (and {len(parted) - 1} more groups)" if len(parted) > 1 else ""
        raise DatasetError(
            f"{where}: the group '{group}' is parted over {shown}{more}",
            "a group (patient, slide) must lie in one split, or the test would be seen in training",
        )
