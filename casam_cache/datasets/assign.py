"""Which image of a plain folder trains and which tests: by the names of folders, by `split.csv`, or drawn."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import SPLIT_CSV
from casam_cache.datasets.sample import DatasetOptions, Problem, Sample, SplitName
from casam_cache.datasets.splits import (
    SPLIT_FOLDERS,
    SplitRow,
    carve_validation,
    group_of,
    read_split_csv,
    refuse_parted_groups,
    seeded_split,
)
from casam_cache.errors import DatasetError

FOLDERS = "folders train/ and test/"


class Listed(Protocol):
    """An image before it has a split; `name` is its id without the split folder above `images/`.

    `folder_split` is what a folder or the layout says, and `group` what it says, else empty.
    """

    id: str
    name: str
    image: str
    folder_split: SplitName | None
    masks: tuple[str, ...]
    labelled: bool
    one_object_a_file: bool
    group: str


@dataclass(frozen=True)
class _Reading:
    """One way to read the splits: for each image of `found`, in order, group and split."""

    found: Sequence[Listed]
    groups: list[str]
    splits: list[SplitName]
    source: str
    problems: tuple[Problem, ...] = ()


def assign_splits(
    root: Path, found: Sequence[Listed], options: DatasetOptions, problems: list[Problem]
) -> tuple[list[Sample], str]:
    """Give each image its split and group; what is left out becomes problems.

    Args:
        root: the dataset folder.
        found: its images, sorted by id; at least one.
        options: what is asked.
        problems: what is found wrong is added to them.

    Returns:
        The samples, and where their split comes from, for people.

    Raises:
        DatasetError: a group is parted, a table has no image, or folders and table can be read in two ways.
    """
    reading = _choose(root, found, options, {problem.sample for problem in problems if problem.sample})
    problems += reading.problems
    groups, splits, source = reading.groups, reading.splits, reading.source
    if options.val_fraction > 0:
        if "val" in splits:
            problems.append(
                Problem(".", "has a validation split of its own: --val-fraction is not used", "", "warning")
            )
        else:
            splits = carve_validation(groups, splits, options.val_fraction, options.seed)
            if "val" in splits:
                source += f"; {options.val_fraction:g} of train for validation by group, seed {options.seed}"
            elif "train" in splits:
                problems.append(
                    Problem(".", "one train group only: no validation split", "check the groups", "warning")
                )
    samples = [
        Sample(one.id, one.image, split, group, one.masks, one.labelled, one.one_object_a_file)
        for one, split, group in zip(reading.found, splits, groups, strict=True)
    ]
    return samples, source


def splits_of_name(name: str) -> tuple[set[SplitName], str]:
    """What the folders in an id say of its split, and the id without them: test/p1_a is of p1, as train/p1_b."""
    *folders, last = PurePosixPath(name).parts
    told = {SPLIT_FOLDERS[folder.lower()] for folder in folders if folder.lower() in SPLIT_FOLDERS}
    kept = [folder for folder in folders if folder.lower() not in SPLIT_FOLDERS]
    return told, "/".join([*kept, last])


def _choose(root: Path, found: Sequence[Listed], options: DatasetOptions, reported: set[str]) -> _Reading:
    by = options.split_by
    if by == "drawn":
        return _drawn_in_place_of_table(root, found, options)
    table = (root / SPLIT_CSV).is_file()
    if by == "table" or (table and not _in_folders(found)):
        return _from_table(root, found, options, reported)
    if not _in_folders(found):
        if by == "folders":
            raise DatasetError(
                f"{root}: no image lies in a folder of a split",
                "for example train/images/ and test/images/, or images/train/ and images/test/",
            )
        return _drawn(found, options)
    folders, outside = _from_folders(root, found, options)
    if by == "folders":
        return folders
    if outside and not table:
        inside = folders.found[0].image
        raise DatasetError(
            f"{root}: two readings: {inside} is in a folder named for a split, {outside[0]} is in none "
            f"({len(folders.found)} and {len(outside)} images); either the folders are the split and the others "
            "have none, or their names mean nothing",
            "--split-by folders leaves the others out, --split-by drawn draws a split over all; or move them",
        )
    if table:
        try:
            said = _from_table(root, found, options, reported)
        except DatasetError as error:
            raise DatasetError(
                f"{root}: two readings: {folders.found[0].image} is in {folders.splits[0]} by its folder, and there is "
                f"{SPLIT_CSV}, which cannot be used: {error.message}",
                f"--split-by folders takes the folders; or mend or remove {SPLIT_CSV}",
            ) from None
        return _agreed(root, folders, outside, said)
    return folders


def _agreed(root: Path, folders: _Reading, outside: Sequence[str], table: _Reading) -> _Reading:
    """The table where both say the same of every image: it may know groups, too."""
    if outside:
        raise DatasetError(
            f"{root}: two readings: {folders.found[0].image} is in a folder named for a split, {outside[0]} is in "
            f"none, and there is {SPLIT_CSV}",
            "--split-by table takes the table; --split-by folders takes the folders and leaves the others out",
        )
    told = {one.id: split for one, split in zip(table.found, table.splits, strict=True)}
    for one, split in zip(folders.found, folders.splits, strict=True):
        if told.get(one.id) != split:
            row = told.get(one.id)
            says = f"{SPLIT_CSV} has it in {row}" if row else f"{SPLIT_CSV} has no row for it"
            raise DatasetError(
                f"{root}: two readings: {one.image} is in {split} by its folder, and {says}",
                f"--split-by folders or --split-by table chooses; or remove {SPLIT_CSV}",
            )
    return _Reading(
        table.found, table.groups, table.splits, f"{folders.source}, as in {SPLIT_CSV}", table.problems
    )


def _in_folders(found: Sequence[Listed]) -> bool:
    return any(one.folder_split or splits_of_name(one.name)[0] for one in found)


def _group(one: Listed, options: DatasetOptions) -> str:
    if options.group_regex is None:
        return one.group or one.id
    return group_of(splits_of_name(one.name)[1], options.group_regex)


def _from_folders(root: Path, found: Sequence[Listed], options: DatasetOptions) -> tuple[_Reading, list[str]]:
    """What the folders say, and the images that lie in none of them."""
    kept: list[Listed] = []
    splits: list[SplitName] = []
    sources: set[str] = set()
    outside = []
    for one in found:
        told = splits_of_name(one.name)[0] | ({one.folder_split} if one.folder_split else set())
        if len(told) > 1:
            raise DatasetError(
                f"{root}: two readings: {one.image} lies in folders of two splits, {' and '.join(sorted(told))}",
                "rename the folder that is no split, or let one be drawn: --split-by drawn",
            )
        if not told:
            outside.append(one.image)
            continue
        kept.append(one)
        splits += told
        folders = PurePosixPath(one.image).parts
        named = (depth for depth, folder in enumerate(folders) if folder.lower() in SPLIT_FOLDERS)
        sources.add("/".join(folders[: next(named, 0) + 1]))  # else one such as train_images
    groups = [_group(one, options) for one in kept]
    refuse_parted_groups(zip([one.id for one in kept], groups, splits, strict=True), root)
    problems = [
        Problem(image, "in no folder of a split, left out", "move it into one of them") for image in outside
    ]
    source = FOLDERS if found[0].folder_split else f"folders {', '.join(sorted(sources)[:6])}"
    drawn = "--split-by drawn draws a split over all"
    if found[0].folder_split and set(splits) == {"train"}:
        message = "all images that can be used are for training, none for validation or test"
        problems.append(Problem(".", message, drawn, "warning"))
    elif not found[0].folder_split and "test" not in splits:
        message = f"no folder of test images beside {min(sources)}/"
        hint = f"casam fit --evaluate val scores validation; {drawn}"
        problems.append(Problem(".", message, hint, "warning"))
    return _Reading(kept, groups, splits, source, tuple(problems)), outside


def _drawn_in_place_of_table(root: Path, found: Sequence[Listed], options: DatasetOptions) -> _Reading:
    """A draw where there may be a `split.csv`: its groups stay whole, unless --group-regex names others."""
    if options.group_regex is not None or not (root / SPLIT_CSV).is_file():
        return _drawn(found, options)
    known = {one.id for one in found}
    try:
        told = {_id_in_table(row, known): row.group for row in read_split_csv(root / SPLIT_CSV) if row.group}
    except DatasetError as error:
        message = f"{error.message}: the split is drawn without the groups that it may have"
        reading = _drawn(found, options)
        unread = Problem(SPLIT_CSV, message, "mend or remove it", "warning")
        return replace(reading, problems=(*reading.problems, unread))
    return _drawn(found, options, told)


def _drawn(found: Sequence[Listed], options: DatasetOptions, told: Mapping[str, str] = {}) -> _Reading:
    """A draw by group; `told` are groups by id that are known from elsewhere."""
    groups = [told.get(one.id) or _group(one, options) for one in found]
    splits = seeded_split(groups, options.test_fraction, options.seed)
    problems: tuple[Problem, ...] = ()
    if len(set(groups)) < 2 and 0 < options.test_fraction < 1:
        problems = (Problem(".", "one group only: no test split", "check --group-regex", "warning"),)
    named = any(one.id in told for one in found)
    if options.group_regex is None and not named:
        problems += _parted_folders(found, splits)
    source = f"seeded, {options.test_fraction:g} of the images for test by group, seed {options.seed}"
    return _Reading(found, groups, splits, source + f", groups from {SPLIT_CSV}" * named, problems)


def _parted_folders(found: Sequence[Listed], splits: Sequence[SplitName]) -> tuple[Problem, ...]:
    """A warning where a drawn split parts the folders that images lie in, which may be patients."""
    sides: dict[str, dict[SplitName, str]] = {}
    for one, split in zip(found, splits, strict=True):
        folder = PurePosixPath(splits_of_name(one.name)[1]).parent.as_posix()
        if folder != "." and not one.group:
            sides.setdefault(folder, {}).setdefault(split, one.id)
    parted = {folder: ids for folder, ids in sides.items() if len(ids) > 1}
    if len(sides) < 2 or not parted:
        return ()
    folder, ids = next(iter(parted.items()))
    shown = ", ".join(f"'{id}' is in {split}" for split, id in sorted(ids.items()))
    message = (
        f"the images lie in {len(sides)} folders, of which the drawn split parts {len(parted)}, "
        f"such as {folder}/: {shown}"
    )
    hint = (
        "where a folder is a patient or a slide, --group-regex '^(.+/|.+)' keeps it together; "
        "--group-regex '.+' says that each image stands alone"
    )
    return (Problem(".", message, hint, "warning"),)


def _id_in_table(row: SplitRow, known: Collection[str]) -> str:
    """The id that a row means: it may carry the suffix of the image."""
    name = unicodedata.normalize("NFC", row.id)
    pure = PurePosixPath(name)
    if name not in known and pure.suffix.lower() in image_suffixes():
        return pure.with_suffix("").as_posix()
    return name


def _from_table(root: Path, found: Sequence[Listed], options: DatasetOptions, reported: set[str]) -> _Reading:
    path = root / SPLIT_CSV
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file", "its first line is: id,split,group")
    known = {one.id for one in found}
    chosen: dict[str, SplitRow] = {}
    problems = []
    for row in read_split_csv(path):
        name = _id_in_table(row, known)
        if name in known:
            if name in chosen:
                raise DatasetError(
                    f"{path}, line {row.line}: a second row for the id '{name}'", "keep one of the two"
                )
            chosen[name] = row
        elif name not in reported:
            problems.append(
                Problem(
                    SPLIT_CSV, f"line {row.line}: no image has the id '{row.id}'", "remove the row", "warning"
                )
            )
    problems += [
        Problem(one.image, f"no row for the id '{one.id}' in {SPLIT_CSV}, left out", "add one", sample=one.id)
        for one in found
        if one.id not in chosen
    ]
    kept = [one for one in found if one.id in chosen]
    if not kept:
        raise DatasetError(
            f"{path}: no row has the id of an image, for example '{found[0].id}'",
            "an id is the path of the image inside images/, with or without suffix",
        )
    groups = [chosen[one.id].group or _group(one, options) for one in kept]
    splits = [chosen[one.id].split for one in kept]
    refuse_parted_groups(
        ((one.id, group, split) for one, group, split in zip(kept, groups, splits, strict=True)), path
    )
    return _Reading(kept, groups, splits, SPLIT_CSV, tuple(problems))
