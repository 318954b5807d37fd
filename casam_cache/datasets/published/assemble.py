"""From what a reader of a published dataset found to a `Dataset`: ids sorted, splits official or drawn by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casam_cache.datasets.sample import Dataset, DatasetOptions, MaskValues, Problem, Sample, SplitName
from casam_cache.datasets.splits import carve_validation, draw_splits, group_of
from casam_cache.errors import DatasetError


@dataclass(frozen=True)
class Item:
    """One image of a published dataset.

    Attributes:
        id, source, masks, labelled: as in `Sample`.
        group: what must not be parted, unless the options find it in the id.
        split: the official one, if there is one.
    """

    id: str
    source: str
    group: str
    masks: tuple[str, ...] = ()
    labelled: bool = True
    split: SplitName | None = None


def assemble(
    path: Path,
    task: str,
    options: DatasetOptions,
    items: Sequence[Item],
    problems: Sequence[Problem],
    *,
    mode: tuple[str, str],
    values: MaskValues,
    notes: Sequence[str] = (),
) -> Dataset:
    """The dataset of `items`; those without a mask become problems unless the options keep them.

    Where there is a test split among them, the official split counts, else one is drawn.

    Args:
        path: the dataset folder.
        task: its name.
        options: what to make of it.
        items: what was found, in any order.
        problems: found so far.
        mode: mask mode and its reason.
        values: of the masks.
        notes: for people.

    Raises:
        DatasetError: nothing can be used.
    """
    problems, kept = list(problems), []
    for item in sorted(items, key=lambda item: item.id):
        if item.labelled or options.unlabelled:
            kept.append(item)
        else:
            problems.append(Problem(item.source, "no mask", "use --unlabelled to keep it", sample=item.id))
    if not kept:
        first = f", for example {problems[0]}" if problems else ""
        raise DatasetError(f"{path}: no image can be used{first}", "casam data check lists every problem")
    groups = [
        item.group if options.group_regex is None else group_of(item.id, options.group_regex) for item in kept
    ]
    splits, source = official_or_drawn([item.split for item in kept], groups, options)
    samples = tuple(
        Sample(item.id, item.source, split, group, item.masks, item.labelled)
        for item, group, split in zip(kept, groups, splits, strict=True)
    )
    return Dataset(task, path, samples, *mode, values, tuple(problems), source, options, tuple(notes))


def official_or_drawn(
    told: Sequence[SplitName | None], groups: Sequence[str], options: DatasetOptions
) -> tuple[list[SplitName], str]:
    """A split for each image and where it comes from: the official one if it has test images, else a drawn one.

    `--split-by drawn` and `--test-fraction 1` ask for another.
    """
    if "test" not in told or options.split_by == "drawn" or options.test_fraction >= 1:
        return draw_splits(groups, options)
    official = [split or "train" for split in told]
    source = "official"
    if options.val_fraction > 0 and "val" not in official:
        official = carve_validation(groups, official, options.val_fraction, options.seed)
        source += f"; {options.val_fraction:g} of train for validation by group, seed {options.seed}"
    return official, source
