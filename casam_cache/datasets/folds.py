"""K folds by group: which images each holds, and a dataset whose test or validation split is one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem, SplitName
from casam_cache.datasets.splits import carve_validation
from casam_cache.errors import DatasetError, OptionError
from casam_cache.fingerprint import digest

_DRAWN = ("seeded, ", "fold ")


def draw_folds(groups: Sequence[str], folds: int, seed: int) -> list[int]:
    """The fold, from 1, of each image: whole groups, as equal in images as taking the largest first makes them.

    Args:
        groups: the group of each image.
        folds: how many, at least 2.
        seed: another seed, another draw among groups of equal size.

    Raises:
        DatasetError: there are fewer groups than folds.
    """
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise DatasetError(
            f"{len(sizes)} groups (patients, slides) cannot be divided into {folds} folds",
            f"--folds {len(sizes)} at most" if len(sizes) > 1 else "check --group-regex",
        )
    held = [0] * folds
    of: dict[str, int] = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], digest([seed, "folds", group]), group)):
        fold = min(range(folds), key=lambda fold: (held[fold], fold))
        held[fold] += sizes[group]
        of[group] = fold + 1
    return [of[group] for group in groups]


def is_drawn(split_source: str) -> bool:
    """Whether a split was drawn here, so that its test images are none that the dataset itself sets apart."""
    return split_source.startswith(_DRAWN)


def pooled(splits: Sequence[str], split_source: str) -> tuple[list[int], bool]:
    """Which images are divided into folds, by their places, and whether a fold is for test, not for validation.

    A test split of the dataset's own stays as it is, and folds divide the rest. Without one, folds divide everything.
    """
    own_test = "test" in splits and not is_drawn(split_source)
    return [place for place, split in enumerate(splits) if split != "test" or not own_test], not own_test


def with_fold(dataset: Dataset) -> Dataset:
    """The dataset with the fold that its options ask for as test or validation split; as it is where they ask for none.

    Raises:
        OptionError: `--fold` without `--folds` or the reverse, or a number that there is not.
        DatasetError: there are fewer groups than folds.
    """
    options = dataset.options
    if not options.folds and not options.fold:
        return dataset
    _check(options)
    splits = [sample.split for sample in dataset.samples]
    places, for_test = pooled(splits, dataset.split_source)
    groups = [dataset.samples[place].group for place in places]
    try:
        folds = draw_folds(groups, options.folds, options.seed)
    except DatasetError as error:
        raise DatasetError(f"{dataset.root}: {error.message}", error.hint) from None
    role: SplitName = "test" if for_test else "val"
    for place, fold in zip(places, folds, strict=True):
        splits[place] = role if fold == options.fold else "train"
    what, problems = f"fold {options.fold} of {options.folds} by group, seed {options.seed}", dataset.problems
    if for_test:
        splits = carve_validation(
            [sample.group for sample in dataset.samples], splits, options.val_fraction, options.seed
        )
        drawn = is_drawn(dataset.split_source)
        source = f"{what}, for test" + ("" if drawn else f"; {dataset.split_source} had no test")
        if "val" in splits:
            source += f"; {options.val_fraction:g} of train for validation by group, seed {options.seed}"
    else:
        source = f"{dataset.split_source}; {what} of the rest, for validation"
        if options.val_fraction > 0:
            line = "the fold is the validation split: --val-fraction is not used"
            problems = (*problems, Problem(".", line, "", "warning"))
    sizes = Counter(folds)
    note = (
        f"{what}, is the {'test' if for_test else 'validation'} split: {sizes[options.fold]} of {len(folds)} images; "
        + ("the set has no test split of its own" if for_test else "the test split of the set's own stays")
    )
    samples = tuple(
        replace(sample, split=split) for sample, split in zip(dataset.samples, splits, strict=True)
    )
    return replace(
        dataset, samples=samples, split_source=source, problems=problems, notes=(*dataset.notes, note)
    )


def _check(options: DatasetOptions) -> None:
    if not options.folds:
        raise OptionError(f"fold {options.fold} of how many?", f"--folds 5 --fold {options.fold}")
    if not 1 <= options.fold <= options.folds:
        given = (
            f"fold {options.fold} of {options.folds}"
            if options.fold
            else f"which of the {options.folds} folds?"
        )
        raise OptionError(
            f"{given}" if not options.fold else f"there is no {given}",
            f"--fold 1 to --fold {options.folds}; casam fit --folds {options.folds} goes over all of them",
        )
