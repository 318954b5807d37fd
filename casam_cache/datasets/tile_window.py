"""One window for all tiles of a deep image: that of the whole image, found a part at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from casam_cache.datasets.images import ANY_SIZE, PERCENTILES, by_region, image_size, load_array
from casam_cache.datasets.intensity import FULL
from casam_cache.datasets.portion import file_and_portion, split_portion
from casam_cache.datasets.tiles import Grid
from casam_cache.errors import ImageError

_AT_ONCE = Grid(2048, 0)
_LOCK = threading.Lock()


def window_of_tile(root: Path, source: str, asked: tuple[float, float] | None) -> tuple[float, float] | None:
    """The window of an image, where it is a tile that of the whole: what was asked, or what its values say.

    Args:
        root: the dataset folder.
        source: the image.
        asked: what the options say, as `parse_intensity` gives it.
    """
    if asked not in (None, FULL) or split_portion(source)[1].tile is None:
        return asked
    return tile_window(root / source, full=asked == FULL)


def tile_window(path: Path, *, full: bool = False) -> tuple[float, float] | None:
    """The 0.5 and 99.5 percentiles, or the extremes, of the image that a tile is of; None of 8 bits or fewer.

    As `window_of` gives them of the whole image, by a histogram.

    Args:
        path: of the tile, with its portion.
        full: the extremes.

    Raises:
        ImageError: it cannot be read, or holds values that are no whole numbers of 16 bits and of which percentiles are
            asked.
    """
    file, portion = file_and_portion(path)
    whole = file.with_name(file.name + str(replace(portion, tile=None)))
    status = file.stat()
    with _LOCK:  # threads that decode tiles of one image would all look through it
        return _window(file, whole, full, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _window(file: Path, whole: Path, full: bool, size: int, changed: int) -> tuple[float, float] | None:
    counts = np.zeros(1 << 17, np.int64)  # of values from -32768
    low, high = np.inf, -np.inf
    for array in _parts(file, whole):
        if array.dtype == np.uint8 or array.dtype == np.bool_:
            return None
        if not full and (array.dtype.kind not in "ui" or array.dtype.itemsize > 2):
            raise ImageError(
                f"{file}: tiles of an image of {array.dtype} values need a window that is the same for all of them",
                "name it: --intensity LOW,HIGH, or --intensity full",
            )
        low, high = min(low, float(array.min())), max(high, float(array.max()))
        if not full:
            counts += np.bincount(array.ravel().astype(np.int64) + (1 << 15), minlength=len(counts))
    if full:
        return low, high
    ends = (_percentile(counts, PERCENTILES[0]), _percentile(counts, PERCENTILES[1]))
    return ends if ends[0] < ends[1] else (low, high)


def _parts(file: Path, whole: Path) -> Iterator[np.ndarray]:
    _, portion = file_and_portion(whole)
    size = image_size(whole, ANY_SIZE) if by_region(file) else image_size(whole)
    for tile in _AT_ONCE.tiles(size):
        yield load_array(file.with_name(file.name + str(replace(portion, tile=tile.box))))


def _percentile(counts: np.ndarray, percent: float) -> float:
    """As `np.percentile` of the values that were counted, from -32768."""
    below = np.cumsum(counts)
    at = percent / 100 * (below[-1] - 1)
    first, second = (
        int(np.searchsorted(below, place, side="right")) - (1 << 15) for place in (int(at), int(np.ceil(at)))
    )
    return first + (second - first) * (at - int(at))
