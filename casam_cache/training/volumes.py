"""Predicted and true masks of slices, put together to volumes and scored there: one row a volume and class.

A class's objects in a slice are one mask here. Slices without the class are not prompted: both masks are empty there,
as in slices that were not encoded. A class that a volume does not have has no row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casam_cache.metrics.volumes import VOLUME_METRICS, require_surface_distance, score_volume
from casam_cache.store.runs import decode_runs, encode_runs
from casam_cache.training import mask_tables
from casam_cache.training.items import Item, ItemMask
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.slices import Slice

FILE = "volumes.csv"


@dataclass
class _Pair:
    """A class in one slice, as runs."""

    predicted: np.ndarray
    truth: np.ndarray
    size: tuple[int, int]


@dataclass
class _Class:
    """A class in one volume, slice by slice."""

    task: str
    group: str
    place: Slice
    slices: dict[int, _Pair] = field(default_factory=dict)


class VolumeMasks:
    """Takes masks slice by slice, in any order; holds them as runs, and one volume's arrays at a time."""

    def __init__(self) -> None:
        self._classes: dict[tuple[str, str, int], _Class] = {}

    def add(self, item: Item, mask: ItemMask, bitmap: np.ndarray) -> None:
        """One true mask of a slice and what was predicted for it, bool (H, W); other images have no part in it."""
        if item.place is None:
            return
        key = (item.task, item.place.volume, int(mask.class_id))
        known = self._classes.setdefault(key, _Class(item.task, item.group, item.place))
        before = known.slices.get(item.place.index)
        height, width = bitmap.shape
        pairs = [bitmap, mask.bitmap]
        if before is not None:
            pairs = [
                new | decode_runs(old, before.size)
                for new, old in zip(pairs, (before.predicted, before.truth), strict=True)
            ]
        known.slices[item.place.index] = _Pair(encode_runs(pairs[0]), encode_runs(pairs[1]), (height, width))

    def outcomes(self) -> Outcomes:
        """A row a volume and class, sorted: `item` is the volume, `area` its true voxels, `instance` 0.

        `scores` are those of `VOLUME_METRICS`; `predicted_iou` is NaN.

        Raises:
            ValueError: slices of one volume differ in size.
        """
        found = Outcomes(scores={metric.name: [] for metric in VOLUME_METRICS})
        for (task, volume, class_id), one in sorted(self._classes.items(), key=lambda entry: entry[0]):
            predicted, truth = _stacked(volume, one)
            scored = score_volume(predicted, truth, one.place.spacing)
            found.task.append(task)
            found.item.append(volume)
            found.group.append(one.group)
            found.class_id.append(class_id)
            found.instance.append(0)
            found.area.append(int(np.count_nonzero(truth)))
            found.predicted_iou.append(math.nan)
            for name, values in found.scores.items():
                values.append(getattr(scored, name))
        return found


def _stacked(volume: str, one: _Class) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true mask, bool (D, H, W), from the first slice that has the class to the last."""
    first = min(one.slices)
    depth = (max(one.slices) - first) // one.place.step + 1
    sizes = {pair.size for pair in one.slices.values()}
    if len(sizes) != 1:
        raise ValueError(f"slices of {volume} have several sizes: {sorted(sizes)}")
    shape = (depth, *sizes.pop())
    predicted, truth = np.zeros(shape, bool), np.zeros(shape, bool)
    for index, pair in one.slices.items():
        where = (index - first) // one.place.step
        predicted[where], truth[where] = (
            decode_runs(runs, pair.size) for runs in (pair.predicted, pair.truth)
        )
    return predicted, truth


def volumes_to_score(items: Iterable[Item]) -> VolumeMasks | None:
    """Where the masks of items go that are slices of volumes; None where none is.

    Raises:
        CasamError: surfaces are to be measured and surface-distance is not installed.
    """
    places = [item.place for item in items if item.place is not None]
    if any(place.spacing is not None for place in places):
        require_surface_distance()
    return VolumeMasks() if places else None


def write_volumes(folder: Path, outcomes: Outcomes) -> None:
    mask_tables.write(folder / FILE, outcomes.to_csv())


def read_volumes(folder: Path) -> Outcomes | None:
    """The table that `write_volumes` wrote; None where the images were no slices of volumes.

    Raises:
        CasamError: damaged.
    """
    return mask_tables.read(folder / FILE, Outcomes.from_csv) if (folder / FILE).is_file() else None
