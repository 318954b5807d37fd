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
        if not sample.masks:
            return
        path, found = _labels(dataset, sample)
        if size is not None and found.shape != tuple(size):
            raise size_mismatch(path, found.shape, size)
        yield from split_labels(grounded(found, dataset.values), dataset.mask_mode, dataset.values)

    def ignored(self, dataset: Dataset, sample: Sample) -> np.ndarray | None:
        if dataset.values.ignore is None or not sample.masks:
            return None
        ignored: np.ndarray = _labels(dataset, sample)[1] == dataset.values.ignore
        return ignored if ignored.any() else None


def _labels(dataset: Dataset, sample: Sample) -> tuple[Path, np.ndarray]:
    """The file of a sample's labels, and those of its slice as they lie on the screen, whole numbers (H, W)."""
    name = SliceName.parse(sample.source)
    image, layout = name.open(dataset.root)
    file, classes = labels_and_classes(sample.masks[0])
    path = dataset.root / file
    labels = read_labels(path, image)
    found = whole_numbers(layout.picture(labels.values(layout.axis, name.index)), path)
    return path, numbered_anew(found, classes)
