"""The images that a store was encoded from, for whoever draws on them: a store itself holds no pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from casam_cache.datasets import find_reader, read_array, read_window
from casam_cache.datasets.images import to_rgb
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS
from casam_cache.encode.annotate import recorded_reader
from casam_cache.encode.decode import source_sha256
from casam_cache.encode.finished import remembered_folder
from casam_cache.errors import DatasetError, ImageError
from casam_cache.store import EmbeddingStore


class SourceImages:
    """Reads the images of a store's items from their dataset.

    Args:
        store: whose items.
        data: the dataset folder, or the folder that it lies in under the task's name; None: where it was when it was
            encoded.

    Raises:
        DatasetError: the folder is not known, gone, or not read by the reader of the store.
    """

    def __init__(self, store: EmbeddingStore, data: Path | None = None) -> None:
        self._store, task = store, store.path.parent.name
        self.root = _dataset_folder(store, data, task)
        recorded = recorded_reader(store).get("name")
        reader = find_reader(self.root, None if recorded is None else str(recorded))
        if reader is None:
            raise DatasetError(
                f"{self.root} is no dataset as {task} was read from",
                "--data DIR names the folder of the dataset",
            )
        self._reader = reader
        self._intensity = str(store.identity["preprocessing"]["intensity"])
        options = store.annotations.attributes.get("options") or {}
        self._max_pixels = int(options.get("max_pixels") or DEFAULT_MAX_PIXELS)

    def read(self, index: int) -> np.ndarray:
        """The image of one item as uint8 (H, W, 3).

        Raises:
            ImageError: it cannot be read, or is not the image that was encoded.
        """
        store, source = self._store, self._store.paths[index]
        found = source_sha256(self._reader, self.root, source, self._max_pixels)
        if found != store.source_sha256[index].tobytes():
            raise ImageError(f"{self.root / source} is missing or not the image that was encoded")
        window = read_window(self._reader, self.root, source, self._intensity)
        array = read_array(self._reader, self.root, source, self._max_pixels)
        image = to_rgb(array, self.root / source, window)
        geometry = store.geometry(index)
        if image.shape[:2] != (geometry.height, geometry.width):
            raise ImageError(f"{self.root / source} has another size than the image that was encoded")
        return image


def _dataset_folder(store: EmbeddingStore, data: Path | None, task: str) -> Path:
    if data is not None:
        inside = data / task
        if inside.exists() or data.resolve().name == task:
            return inside if inside.exists() else data
        raise DatasetError(
            f"{data} holds no dataset named {task}",
            "--data DIR names the dataset's folder, or the one it lies in",
        )
    found = remembered_folder(store.path)
    if found is None:
        raise DatasetError(
            f"where the images of {task} are is not recorded", "--data DIR names the folder of the dataset"
        )
    if not found.exists():
        raise DatasetError(
            f"the images of {task} are no longer in {found}",
            "--data DIR names the folder that they are in now",
        )
    return found
