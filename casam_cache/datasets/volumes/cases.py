"""From cases to a dataset: every slice a sample, a patient's slices in one split, one reading of all labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from casam_cache.datasets.base import FilesDone
from casam_cache.datasets.listing import SPLIT_CSV
from casam_cache.datasets.mask_values import decide_mode
from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem, Sample, SplitName
from casam_cache.datasets.splits import carve_validation, draw_splits, group_of, read_split_csv
from casam_cache.datasets.volumes.case import Case, Looked
from casam_cache.datasets.volumes.described import described, worrying
from casam_cache.datasets.volumes.ground import absent, asked_values
from casam_cache.datasets.volumes.groups import doubtful_groups
from casam_cache.datasets.volumes.look import look_at
from casam_cache.datasets.volumes.read import volume_stem
from casam_cache.datasets.volumes.slices import SliceName
from casam_cache.errors import CasamError, DatasetError, OptionError

NO_LABELS, ORPHAN = "no labels", "labels without an image"


@dataclass(frozen=True)
class Found:
    """What a reader finds in a folder before any volume is opened.

    Attributes:
        cases: every volume that can be used by its name.
        problems: those that cannot.
        notes: what was recognised, for people.
        folder_splits: how the folder says which cases are for what; empty where it does not.
        unlabelled: there can be no labels, so cases without are kept unasked.
        labels_wanted: what to do where a case has no labels, for people.
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    folder_splits: str = ""
    unlabelled: bool = False
    labels_wanted: str = "add label volumes of their names in labels/"


def dataset_of(
    root: Path, task: str, found: Found, options: DatasetOptions, progress: FilesDone | None = None
) -> Dataset:
    """A dataset of the slices of volumes.

    The header of every image and all labels are read; one that cannot be becomes a problem.

    Args:
        root: the dataset folder.
        task: its name.
        found: its cases, of unique names.
        options: `axis`, `slices`, `masks`, `unlabelled`, and those of splits count.
        progress: called with (cases done, cases in all).

    Raises:
        DatasetError: nothing can be used.
        OptionError: an axis that no volume has.
    """
    problems = list(found.problems)
    looked: list[tuple[Case, Looked]] = []
    keeps = options.unlabelled or found.unlabelled
    labelled = [case for case in found.cases if case.labels is not None or keeps]
    problems += [
        _no_labels(case, found.labels_wanted) for case in found.cases if case.labels is None and not keeps
    ]
    for done, case in enumerate(sorted(labelled, key=lambda case: case.name), 1):
        try:
            one = look_at(root, case, options)
        except OptionError:
            raise
        except CasamError as error:
            problems.append(_problem(error, case, root))
        except Exception as error:  # a library met a damaged file in a way of its own
            reason = (str(error) or type(error).__name__).splitlines()[0]
            problems.append(
                Problem(case.image, f"cannot be read: {reason}", "export it again", sample=case.name)
            )
        else:
            looked.append((case, one))
        if progress:
            progress(done, len(labelled))
    problems += worrying(looked)
    looked, empty = (
        [pair for pair in looked if pair[1].indexes],
        [pair for pair in looked if not pair[1].indexes],
    )
    problems += [
        Problem(case.image, "no label in any slice, so none is taken", "--slices all takes them", "warning")
        for case, _ in empty
    ]
    looked, splits, source = _split(root, looked, found.folder_splits, options, problems)
    _refuse_empty(root, looked, found, problems)
    problems += doubtful_groups([case for case, _ in looked], options)
    asked = asked_values(options)
    there = {value for _, one in looked for value in one.values}
    problems += absent(asked, there)
    values = replace(asked, values=tuple(sorted(there - {asked.ignore})))
    mode, reason = decide_mode(options.masks, values, False)
    samples = [
        sample
        for (case, one), split in zip(looked, splits, strict=True)
        for sample in _samples(case, one, split)
    ]
    return Dataset(
        task, root, tuple(sorted(samples, key=lambda sample: sample.id)), mode, reason, values,
        tuple(problems), source, options,
        notes=(*found.notes, *described(looked, options)),
        volumes=tuple(one.record for _, one in looked),
    )  # fmt: skip


def _samples(case: Case, one: Looked, split: SplitName) -> list[Sample]:
    digits = max(4, len(str(one.count - 1)))
    found = []
    for index in one.indexes:
        number = f"{one.mark}{index:0{digits}d}" if one.count > 1 else one.mark.rstrip("-")
        name = SliceName(case.image, index, one.axis, case.channel, case.series)
        found.append(
            Sample(
                f"{case.name}/{number}".rstrip("/"), str(name), split, case.group, case.masks,
                case.labels is not None,
            )
        )  # fmt: skip
    return found


def _no_labels(case: Case, wanted: str) -> Problem:
    return Problem(case.image, NO_LABELS, f"{wanted}, or use --unlabelled", sample=case.name)


def _problem(error: CasamError, case: Case, root: Path) -> Problem:
    place = f"{root}/"
    name = next(
        (
            part
            for part in (*dict(case.label_files), case.image)
            if error.message.startswith(f"{root / part}:")
        ),
        case.image,
    )
    message = error.message.removeprefix(f"{root / name}: ").replace(place, "")
    return Problem(name, message, error.hint.replace(place, ""), sample=case.name)


def _split(
    root: Path,
    looked: list[tuple[Case, Looked]],
    folders: str,
    options: DatasetOptions,
    problems: list[Problem],
) -> tuple[list[tuple[Case, Looked]], list[SplitName], str]:
    """The split of each case, by the folders, a table, or drawn by patient."""
    if options.group_regex is not None:
        looked = [(_regrouped(case, group_of(case.name, options.group_regex)), one) for case, one in looked]
    table = root / SPLIT_CSV
    chosen = options.split_by or ("folders" if folders else "table" if table.is_file() else "drawn")
    if (chosen == "folders" and not folders) or (chosen == "table" and not table.is_file()):
        raise DatasetError(
            f"{root}: --split-by {chosen}, but there is no such split here", "leave --split-by out"
        )
    if chosen == "table":
        looked, splits, source = _from_table(table, looked, problems)
    elif chosen == "folders":
        splits, source = [case.split or "train" for case, _ in looked], folders
    else:
        slices = [case.group for case, one in looked for _ in one.indexes]
        drawn, source = draw_splits(slices, options) if slices else ([], "")
        of_group = dict(zip(slices, drawn, strict=True))
        return looked, [of_group[case.group] for case, _ in looked], source
    if options.val_fraction > 0 and "val" not in splits:
        splits = carve_validation(
            [case.group for case, _ in looked], splits, options.val_fraction, options.seed
        )
        source += f"; {options.val_fraction:g} of train for validation by group, seed {options.seed}"
    elif options.val_fraction > 0:
        problems.append(
            Problem(".", "has a validation split of its own: --val-fraction is not used", "", "warning")
        )
    return looked, splits, source


def _regrouped(case: Case, group: str) -> Case:
    return replace(case, group=group)


def _from_table(
    table: Path, looked: list[tuple[Case, Looked]], problems: list[Problem]
) -> tuple[list[tuple[Case, Looked]], list[SplitName], str]:
    rows = {volume_stem(row.id): row for row in read_split_csv(table)}
    kept, splits = [], []
    for case, one in looked:
        row = rows.get(case.name)
        if row is None:
            problems.append(
                Problem(
                    case.image,
                    f"no row for '{case.name}' in {SPLIT_CSV}, left out",
                    "add one",
                    sample=case.name,
                )
            )
            continue
        kept.append((_regrouped(case, row.group or case.group), one))
        splits.append(row.split)
    names = {case.name for case, _ in looked}
    problems += [
        Problem(SPLIT_CSV, f"line {row.line}: no volume is called '{row.id}'", "remove the row", "warning")
        for name, row in rows.items()
        if name not in names
    ]
    return kept, splits, SPLIT_CSV


def _refuse_empty(
    root: Path, looked: Sequence[tuple[Case, Looked]], found: Found, problems: Sequence[Problem]
) -> None:
    if looked:
        return
    if not problems:
        raise DatasetError(f"{root}: no volume here", "put volumes there, or give another folder")
    unlabelled = [problem for problem in problems if problem.message == NO_LABELS]
    if found.cases and len(unlabelled) == len(found.cases):
        orphan = next((problem for problem in problems if problem.message == ORPHAN), None)
        beside = f", while {orphan.path} fits no image by its name" if orphan else ""
        raise DatasetError(
            f"{root}: no volume has labels, for example {unlabelled[0].path}{beside}",
            f"{found.labels_wanted}, or use --unlabelled to encode all slices without",
        )
    first = next((problem for problem in problems if problem.severity == "error"), problems[0])
    raise DatasetError(f"{root}: no volume can be used: {first.path}: {first.message}", first.hint)
