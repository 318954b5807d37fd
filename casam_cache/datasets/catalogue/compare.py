"""What is said of a dataset that is one of the catalogue: which, and how its counts differ from the paper's."""

from __future__ import annotations

import os

from casam_cache.datasets.catalogue import find_entry
from casam_cache.datasets.catalogue.entry import Entry
from casam_cache.datasets.sample import Dataset

_ANYBODYS = {"folder", "folder-an-image"}
"""Readers of layouts that are no set's own."""


def notes_of(
    dataset: Dataset, reader: str, named: Entry | None, entries: tuple[Entry, ...]
) -> tuple[str, ...]:
    """Lines for people.

    Args:
        dataset: as it was read.
        reader: by the reader of this name.
        named: what the user said that it is; None where nothing was said.
        entries: all of the catalogue.
    """
    if named is not None:
        return (*_layout(named, reader), *_counts(dataset, named))
    entry = _by_layout(dataset, reader, entries)
    if entry is None:
        return ()
    if find_entry(dataset.task) is entry:
        return (f"laid out as {entry.name} is distributed", *_counts(dataset, entry))
    return (
        f"laid out as {entry.name} is distributed; --dataset {entry.name} names it so"
        + ("" if entry.train is None else " and compares its counts with the paper's"),
    )


def _layout(entry: Entry, reader: str) -> tuple[str, ...]:
    if reader == entry.reader and reader in _ANYBODYS:  # what was converted to it is read just as well
        return (f"{entry.name}, read by '{reader}'",)
    if reader == entry.reader:
        return (f"{entry.name}, in the layout in which it is distributed",)
    if reader == "imis":
        return (f"{entry.name}, as IMIS-Bench exports it",)
    return (f"{entry.name}, not in the layout in which it is distributed: read by '{reader}'",)


def _by_layout(dataset: Dataset, reader: str, entries: tuple[Entry, ...]) -> Entry | None:
    """The set whose layout a reader of its own recognised; by the folder's name where it reads several."""
    if reader in _ANYBODYS:
        return None
    found = [entry for entry in entries if entry.reader == reader]
    folder = os.path.basename(os.path.abspath(dataset.root)).casefold()
    by_name = [entry for entry in found if folder in entry.folders or find_entry(dataset.task) is entry]
    if by_name:
        return by_name[0]
    return found[0] if len(found) == 1 else None


def _counts(dataset: Dataset, entry: Entry) -> tuple[str, ...]:
    """How many images there are, beside the paper's."""
    if entry.train is None or entry.test is None:
        return ()
    labelled = [sample for sample in dataset.samples if sample.labelled]
    test = sum(sample.split == "test" for sample in labelled)
    train = len(labelled) - test
    here, paper = f"{train:,} / {test:,}", f"{entry.train:,} / {entry.test:,}"
    if (train, test) == (entry.train, entry.test):
        return (f"train / test images are the paper's: {paper}",)
    if train + test == entry.train + entry.test:
        return (
            f"as many images as in the paper, in another split: train / test {here}, the paper's {paper}",
        )
    return (f"train / test images: {here}; the paper has {paper}",)
