"""A volume with its labels on the way to becoming samples: what readers of different layouts find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from casam_cache.datasets.sample import SplitName


@dataclass(frozen=True)
class Case:
    """One volume of a dataset, by names relative to the dataset folder.

    Attributes:
        name: in front of the slice number in the ids, e.g. `patient001_frame01`.
        image: a file, or the folder of a DICOM series.
        labels: a label volume or a DICOM-SEG; None where there is none.
        group: what must not be parted over splits: the patient.
        split: where the layout has one.
        channel: which of several volumes in the file, from 0.
        series: instance UID, where a folder holds several.
        classes: number that each value of the labels gets; empty keeps them.
        further: other files of labels of the same image, with their classes; no class is in two of them.
    """

    name: str
    image: str
    labels: str | None
    group: str
    split: SplitName | None = None
    channel: int | None = None
    series: str | None = None
    classes: tuple[tuple[int, int], ...] = ()
    further: tuple[tuple[str, tuple[tuple[int, int], ...]], ...] = ()

    @property
    def label_files(self) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
        """Every file of labels with its classes."""
        return () if self.labels is None else ((self.labels, self.classes), *self.further)

    @property
    def masks(self) -> tuple[str, ...]:
        """As `Sample.masks`: the files, and the classes where they are numbered anew, `seg.dcm#1=2;2=1`."""
        found = []
        for file, classes in self.label_files:
            numbers = ";".join(f"{old}={new}" for old, new in classes)
            found.append(f"{file}#{numbers}" if numbers else file)
        return tuple(found)


def labels_and_classes(mask: str) -> tuple[str, dict[int, int]]:
    """The inverse of `Case.masks`: the file, and how its values are numbered anew."""
    path, mark, rest = mask.rpartition("#")
    pairs = [part.partition("=") for part in rest.split(";")]
    if not mark or not all(old.isdigit() and new.isdigit() for old, _, new in pairs):
        return mask, {}
    return path, {int(old): int(new) for old, _, new in pairs}


def numbered_anew(labels: np.ndarray, classes: dict[int, int]) -> np.ndarray:
    """Labels with each value replaced by its class."""
    if not classes:
        return labels
    top = max(int(labels.max(initial=0)), *classes)
    table = np.arange(top + 1, dtype=np.int32)
    for old, new in classes.items():
        table[old] = new
    found: np.ndarray = table[labels]
    return found


@dataclass
class Looked:
    """What reading the header of a case's image and all of its labels showed.

    Attributes:
        indexes: of the slices taken.
        count: of all slices.
        axis: along which they are numbered.
        mark: in the ids in front of the number, where not the usual slices of the file are taken.
        values: of the labels, sorted.
        record: where the slices lie, as JSON, for the store.
        notes: lines for people.
    """

    indexes: list[int]
    count: int
    axis: int
    mark: str
    values: tuple[int, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
