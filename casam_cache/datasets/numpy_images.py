"""NumPy arrays as images and masks: `.npy`, and `.npz` of one array; never anything that is unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import UnidentifiedImageError

from casam_cache.datasets.pixels import (
    Header,
    Pixels,
    check_channels,
    check_pixels,
    page_index,
    take_channels,
)
from casam_cache.datasets.portion import Portion
from casam_cache.errors import ImageError

SUFFIXES = frozenset((".npy", ".npz"))
MAGIC = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
_COLOURS = 4  # a last axis that is not longer holds channels
_VALUES_A_PIXEL = 4  # of the pixel limit: that many values of a compressed array may be decoded at once


@dataclass(frozen=True)
class _Array:
    """What the header of an array says, and how to get it; `pages` first, `channels` last, where there are several."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    paged: bool
    coloured: bool
    load: Callable[[], np.ndarray]
    packed: bool

    @property
    def header(self) -> Header:
        pages = self.shape[0] if self.paged else 1
        height, width = self.shape[self.paged : self.paged + 2]
        channels = self.shape[-1] if self.coloured else 1
        return Header((height, width), pages, channels, channels in (1, 3), 1, f"an array of {self.dtype}")


def numpy_header(path: Path, max_pixels: int) -> Header:
    """Pages, size and channels of the array; errors of damaged files are for the caller to explain.

    Raises:
        ImageError: it is no array of numbers of two to four axes, or has more than `max_pixels`.
    """
    with _opened(path, max_pixels) as array:
        return array.header


def read_numpy(path: Path, portion: Portion, max_pixels: int) -> Pixels:
    """One page of the array, by value; errors of damaged files are for the caller to explain.

    Raises:
        ImageError: as `numpy_header`, or the portion cannot be taken.
    """
    with _opened(path, max_pixels) as array:
        header = array.header
        index = page_index(path, header, portion)
        check_channels(path, header, portion)
        if array.packed and math.prod(array.shape) > _VALUES_A_PIXEL * max_pixels:
            raise ImageError(
                f"{path}: {' x '.join(map(str, array.shape))} values to decode at once are more than the pixel limit "
                f"of {max_pixels:,} allows",
                "raise the limit with --max-pixels, or save it as .npy",
            )
        whole = array.load()
        page = whole[index] if array.paged else whole
    if array.coloured and page.shape[2] == 1:
        page = page[..., 0]
    page = take_channels(np.array(page, page.dtype.newbyteorder("="), order="C"), portion)
    if page.dtype == np.bool_:
        return Pixels(page.astype(np.uint8), "1", "NUMPY")
    return Pixels(page, "", "NUMPY")


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[_Array]:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            file.seek(0)
            shape, dtype, order = _read_header(path, file)
            offset = file.tell()

            def mapped() -> np.ndarray:
                return np.memmap(path, dtype, "r", offset, shape, order)

            yield _described(path, shape, dtype, mapped, False, max_pixels)
            return
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            if not names:
                raise UnidentifiedImageError(path)
            if len(names) > 1:
                shown = ", ".join(name.removesuffix(".npy") for name in names[:8])
                raise ImageError(
                    f"{path}: holds {len(names)} arrays: {shown}", "save each array as a file of its own"
                )
            with archive.open(names[0]) as member:
                shape, dtype, _ = _read_header(path, member)

            def unpacked() -> np.ndarray:
                with archive.open(names[0]) as again:
                    array: np.ndarray = np.lib.format.read_array(again, allow_pickle=False)
                    return array

            yield _described(path, shape, dtype, unpacked, True, max_pixels)


def _read_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], Any]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ImageError(
            f"{path}: an array of Python objects, which is not read, since that could run any code",
            "save it as numbers: np.save(FILE, array.astype(np.float32), allow_pickle=False)",
        )
    return tuple(shape), dtype, "F" if fortran else "C"


def _described(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    load: Callable[[], np.ndarray],
    packed: bool,
    max_pixels: int,
) -> _Array:
    coloured = len(shape) in (3, 4) and 1 <= shape[-1] <= _COLOURS
    paged = len(shape) - coloured == 3
    if dtype.kind not in "buif" or dtype.itemsize > 8 or len(shape) - coloured - paged != 2:
        raise ImageError(
            f"{path}: an array of {dtype} of shape {shape}",
            "an image is an array of numbers of the axes (row, column), (row, column, channel), (page, row, column) or "
            "(page, row, column, channel)",
        )
    array = _Array(shape, dtype, paged, coloured, load, packed)
    check_pixels(path, *array.header.size, max_pixels)
    if 0 in shape:
        raise ImageError(f"{path}: an empty array of shape {shape}", "remove it from the dataset")
    return array
