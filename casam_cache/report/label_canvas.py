"""A label map as large as a slide, painted a part at a time on the disk and saved as a tiled TIFF."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from casam_cache.store.files import TEMPORARY, disk_errors

TILE = 512  # side of the tiles of the TIFF


class LabelCanvas:
    """Numbers of an image, 0 at first. Memory is what is painted at once, and a row of the TIFF's tiles when saved.

    Args:
        folder: where the file lies until it is saved; it has to have room for the map uncompressed.
        size: height and width.
        dtype: of the numbers.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, folder: Path, size: tuple[int, int], dtype: type[np.generic]) -> None:
        self.size, self.dtype = size, np.dtype(dtype)
        with disk_errors(folder):
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
            self._path = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.truncate(size[0] * size[1] * self.dtype.itemsize)  # holes, which take no room

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A rectangle, (height, width)."""
        with disk_errors(self._path, "cannot read"):
            found: np.ndarray = np.array(self._rows(y, height)[:, x : x + width])
        return found

    def write(self, x: int, y: int, labels: np.ndarray) -> None:
        """Puts numbers (h, w) in place of what was there.

        Raises:
            StoreError: the disk is full.
        """
        height, width = labels.shape
        with disk_errors(self._path):
            rows = self._rows(y, height)
            rows[:, x : x + width] = labels
            rows.flush()

    def save(self, path: Path, white: int | None = None) -> None:
        """Writes a TIFF of tiles, compressed, in one go: the file is there whole or not at all.

        Args:
            path: of the file.
            white: what every number but 0 becomes, in 8 bits.

        Raises:
            StoreError: it cannot be written.
        """
        import tifffile

        dtype = self.dtype if white is None else np.dtype(np.uint8)
        half = path.with_name(f"{TEMPORARY}{path.name}")
        with disk_errors(path):
            try:
                tifffile.imwrite(
                    half, self._tiles(dtype, white), shape=self.size, dtype=dtype, tile=(TILE, TILE),
                    compression="zlib", photometric="minisblack", metadata=None,
                )  # fmt: skip
                os.replace(half, path)
            finally:
                half.unlink(missing_ok=True)

    def _tiles(self, dtype: np.dtype, white: int | None) -> Iterator[np.ndarray]:
        height, width = self.size
        for y in range(0, height, TILE):
            rows = self.read(0, y, width, min(TILE, height - y))
            if white is not None:
                rows = np.where(rows > 0, dtype.type(white), dtype.type(0))
            for x in range(0, width, TILE):
                part = rows[:, x : x + TILE]
                tile = np.zeros((TILE, TILE), dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    def _rows(self, y: int, height: int) -> np.memmap:
        width = self.size[1]
        return np.memmap(
            self._path, self.dtype, "r+", y * width * self.dtype.itemsize, (height, width)
        )  # let go of at once, so that its pages count for nothing
