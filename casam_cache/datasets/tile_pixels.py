"""The pixels of one tile of an image file: read by region where the file allows it, else cut out of the whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.pixels import Pixels, check_pixels
from casam_cache.datasets.portion import Portion
from casam_cache.errors import ImageError

ReadWhole = Callable[[Path, Portion], Pixels]


class _LastImage:
    """The last image that had to be read whole: its tiles are asked for one after the other."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._pixels: Pixels | None = None
        self._lock = threading.Lock()

    def read(self, file: Path, portion: Portion, palette: bool, read: ReadWhole) -> Pixels:
        status = os.stat(file)
        key = (file, portion, palette, status.st_size, status.st_mtime_ns, status.st_ino)
        with self._lock:  # threads that want other tiles of it wait, and do not read it again
            if self._pixels is None or self._key != key:
                self._key, self._pixels = (), None  # two large images at once may be too many
                self._pixels = read(file, portion)
                self._key = key
            return self._pixels


_LAST = _LastImage()


def cut_tile(file: Path, portion: Portion, palette: bool, max_pixels: int, read: ReadWhole) -> Pixels:
    """One tile of a file that cannot be read by region; the whole is kept until another file is asked for.

    Args:
        file: the file.
        portion: with a tile.
        palette: as of `read_pixels`.
        max_pixels: of the whole.
        read: reads the whole portion.

    Raises:
        ImageError: the tile lies outside the image, or that is too large.
    """
    assert portion.tile is not None
    whole = _LAST.read(file, replace(portion, tile=None), palette, read)
    x, y, width, height = portion.tile
    size = (whole.array.shape[0], whole.array.shape[1])
    check_pixels(file, *size, max_pixels)
    check_tile(file, portion.tile, size)
    return Pixels(np.ascontiguousarray(whole.array[y : y + height, x : x + width]), whole.mode, whole.format)


def check_tile(file: Path, tile: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    """Whether a tile lies in an image of that height and width.

    Raises:
        ImageError: it does not.
    """
    x, y, width, height = tile
    if x + width > size[1] or y + height > size[0] or width < 1 or height < 1:
        raise ImageError(
            f"{file}: there is no tile of {width} x {height} pixels at {x}, {y} in an image of {size[1]} x {size[0]}",
            "the file has changed: read the dataset again",
        )
