"""Predicted and true masks of slices, kept as they are scored, and put together to volumes: one row a volume and class.

A class's objects in a slice are one mask here. Slices without the class are not prompted: both masks are empty there,
as in slices that were not encoded. A class that a volume does not have has no row.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casam_cache.errors import CasamError
from casam_cache.metrics.volumes import VOLUME_METRICS, score_volume
from casam_cache.store.files import write_file
from casam_cache.store.runs import decode_runs, encode_runs
from casam_cache.training import mask_tables
from casam_cache.training.items import Item, ItemMask
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.slices import Slice

FILE = "volumes.csv"
MASKS, RUNS = "volume_masks.json", "volume_masks.npy"


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

    def outcomes(self, progress: Callable[[int, int], None] | None = None) -> Outcomes:
        """A row a volume and class, sorted: `item` is the volume, `area` its true voxels, `instance` 0.

        `scores` are those of `VOLUME_METRICS`; `predicted_iou` is NaN.

        Args:
            progress: called with (volumes and classes done, all of them).

        Raises:
            ValueError: slices of one volume differ in size.
            CasamError: surfaces are to be measured and surface-distance is not installed.
        """
        found = Outcomes(scores={metric.name: [] for metric in VOLUME_METRICS})
        for done, ((task, volume, class_id), one) in enumerate(self._sorted(), start=1):
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
            if progress is not None:
                progress(done, len(self._classes))
        return found

    def write(self, folder: Path) -> None:
        """All masks as runs, so that volumes can be scored without predicting again."""
        entries, runs = [], [np.zeros(0, np.uint32)]
        for (task, volume, class_id), one in self._sorted():
            slices = []
            for index, pair in sorted(one.slices.items()):
                slices.append([index, *pair.size, len(pair.predicted), len(pair.truth)])
                runs += [pair.predicted, pair.truth]
            entries.append([task, volume, class_id, one.group, one.place.spacing, one.place.step, slices])
        data = io.BytesIO()
        np.save(data, np.concatenate(runs), allow_pickle=False)
        write_file(folder / RUNS, data.getvalue())
        write_file(folder / MASKS, json.dumps(entries).encode())

    @classmethod
    def read(cls, folder: Path) -> VolumeMasks:
        """What `write` wrote.

        Raises:
            CasamError: missing or damaged.
        """
        made = cls()
        try:
            runs = np.load(folder / RUNS, allow_pickle=False)
            at = 0
            for task, volume, class_id, group, spacing, step, slices in json.loads(
                (folder / MASKS).read_bytes()
            ):
                place = Slice(volume, slices[0][0], None if spacing is None else tuple(spacing), step)
                one = made._classes[task, volume, class_id] = _Class(task, group, place)
                for index, height, width, predicted, truth in slices:
                    ends = (at, at + predicted, at + predicted + truth)
                    one.slices[index] = _Pair(
                        runs[ends[0] : ends[1]], runs[ends[1] : ends[2]], (height, width)
                    )
                    at = ends[2]
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise CasamError(
                f"{folder / MASKS} cannot be read: {error}", f"remove {folder} and run the command again"
            ) from None
        return made

    def _sorted(self) -> list[tuple[tuple[str, str, int], _Class]]:
        return sorted(self._classes.items(), key=lambda entry: entry[0])


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


def volumes_of(items: Iterable[Item]) -> VolumeMasks | None:
    """Where the masks of items go that are slices of volumes; None where none is."""
    return VolumeMasks() if any(item.place is not None for item in items) else None


def write_volumes(folder: Path, outcomes: Outcomes) -> None:
    mask_tables.write(folder / FILE, outcomes.to_csv())


def read_volumes(folder: Path) -> Outcomes:
    """The table that `write_volumes` wrote.

    Raises:
        CasamError: missing or damaged.
    """
    return mask_tables.read(folder / FILE, Outcomes.from_csv)
