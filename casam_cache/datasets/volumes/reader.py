"""What readers of volumes share: one says which cases a folder holds, the rest is the same."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from casam_cache.datasets.base import FilesDone, Reader
from casam_cache.datasets.masks import size_mismatch, split_labels
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, Sample
from casam_cache.datasets.volumes.case import labels_and_classes, numbered_anew
from casam_cache.datasets.volumes.cases import Found, dataset_of
from casam_cache.datasets.volumes.ground import grounded
from casam_cache.datasets.volumes.labels import read_labels, whole_numbers
from casam_cache.datasets.volumes.layout import picture
from casam_cache.datasets.volumes.slices import SliceName
from casam_cache.datasets.volumes.windows import volume_window
from casam_cache.errors import ImageError


class VolumeReader(Reader):
    """Reads a layout of volumes; define `recognises` and `find`."""

    @abstractmethod
    def find(self, path: Path, options: DatasetOptions) -> Found:
        """The cases of a dataset folder, by names alone; opens no volume.

        Raises:
            DatasetError: the layout cannot be read.
        """

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """A sample a slice.

        Raises:
            DatasetError: nothing can be used.
            OptionError: an axis that no volume has.
        """
        return dataset_of(path, task, self.find(path, options), options, progress)

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        name = SliceName.parse(source)
        volume, layout = name.open(root)
        size = (volume.shape[layout.rows], volume.shape[layout.columns])
        if size[0] * size[1] > max_pixels:  # before anything is decoded; the caller says it
            return np.broadcast_to(np.uint8(0), size)
        return picture(volume, layout, name.index)

    def window(self, root: Path, source: str, intensity: str) -> tuple[float, float] | None:
        volume, _ = SliceName.parse(source).open(root)
        return volume_window(volume, intensity)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        maps = []
        for path, found in _labels(dataset, sample):
            if size is not None and found.shape != tuple(size):
                raise size_mismatch(path, found.shape, size)
            maps.append((path, grounded(found, dataset.values)))
        if len(maps) == 1:
            yield from split_labels(maps[0][1], dataset.mask_mode, dataset.values)
        elif dataset.mask_mode == "classes":  # of several files, in which objects may overlap
            masks = [mask for _, found in maps for mask in split_labels(found, "classes", dataset.values)]
            yield from sorted(masks, key=lambda mask: (mask.class_id, mask.instance))
        elif maps:
            yield from split_labels(_together(maps, dataset.mask_mode), dataset.mask_mode, dataset.values)

    def ignored(self, dataset: Dataset, sample: Sample) -> np.ndarray | None:
        if dataset.values.ignore is None:
            return None
        ignored = [found == dataset.values.ignore for _, found in _labels(dataset, sample)]
        return np.any(ignored, axis=0) if np.any(ignored) else None


def _together(maps: list[tuple[Path, np.ndarray]], mode: str) -> np.ndarray:
    """Label maps as one, where what overlaps is one object, or none does.

    Raises:
        ImageError: objects of two files overlap, and each is to be one of its own.
    """
    whole = maps[0][1].astype(np.int64)
    for path, found in maps[1:]:
        if mode != "binary" and ((whole != 0) & (found != 0)).any():
            raise ImageError(
                f"{path}: it overlaps {maps[0][0].name} or another file of labels",
                "--masks classes reads both",
            )
        whole = np.where(whole == 0, found, whole)
    return whole


def _labels(dataset: Dataset, sample: Sample) -> list[tuple[Path, np.ndarray]]:
    """The files of a sample's labels, and those of its slice as they lie on the screen, whole numbers (H, W)."""
    if not sample.masks:
        return []
    name = SliceName.parse(sample.source)
    image, layout = name.open(dataset.root)
    maps = []
    for mask in sample.masks:
        file, classes = labels_and_classes(mask)
        path = dataset.root / file
        labels = read_labels(path, image)
        found = whole_numbers(layout.picture(labels.values(layout.axis, name.index)), path)
        maps.append((path, numbered_anew(found, classes)))
    return maps
