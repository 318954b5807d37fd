"""Voxels of the last few volumes, so that slices asked for one after another decode a file once a process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

from casam_cache.errors import ImageError

LIMIT = 768 * 2**20  # bytes; an image of 512 x 512 x 600 at 16 bit and its labels are 472 MB


class Held:
    """Arrays by key, the oldest given up first; the last one is kept whatever its size.

    One array is made at a time, so that threads at the slices of one volume do not each decode it.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.RLock()
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._failed: dict[Hashable, ImageError] = {}

    def get(self, key: Hashable, load: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
            if key in self._failed:  # else each of its slices would decode it up to where it breaks off
                raise self._failed[key]
            try:
                array = load()
            except ImageError as error:
                self._failed[key] = error
                raise
            self._arrays[key] = array
            while len(self._arrays) > 1 and sum(map(_bytes, self._arrays.values())) > self._limit:
                self._arrays.popitem(last=False)
            return array

    def clear(self) -> None:
        with self._lock:
            self._arrays.clear()
            self._failed.clear()


def _bytes(array: np.ndarray) -> int:
    """Memory an array holds; one that is mapped from its file holds none."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return 0
        base = base.base
    return array.nbytes


HELD = Held()
