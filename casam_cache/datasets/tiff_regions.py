"""A rectangle of a page of a TIFF: only the tiles or strips of the file that it meets are read and decoded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.errors import ImageError

_JPEG = {6, 7, 34892, 33007}  # whose segments share tables


def read_region(path: Path, page: Any, region: tuple[int, int, int, int], max_pixels: int) -> np.ndarray:
    """Pixels (h, w, C) of a `tifffile.TiffPage`.

    Args:
        path: for messages.
        page: of rows, columns and samples, one after the other or each in a plane.
        region: first column, first row, width, height; inside the page.
        max_pixels: of one tile or strip of the file, which are decoded whole.

    Raises:
        ImageError: a strip is larger than that, or lies beyond the end of the file.
        ValueError: a codec is missing.
    """
    x, y, width, height = region
    planes, _, _, _, samples = page.shaped
    if page.is_memmappable and page.is_contiguous:
        file = page.parent
        stored = np.memmap(
            path, page.dtype.newbyteorder(file.byteorder), "r", page.dataoffsets[0], page.shaped
        )
        found = np.array(stored[:, 0, y : y + height, x : x + width])
        return np.concatenate(list(found), axis=2) if planes > 1 else found[0]
    keyframe = page.keyframe
    tall, wide = (
        (keyframe.tilelength, keyframe.tilewidth)
        if keyframe.is_tiled
        else (keyframe.rowsperstrip, keyframe.imagewidth)
    )
    tall = min(tall, keyframe.imagelength)
    if tall * wide > max_pixels:
        raise ImageError(
            f"{path}: saved in parts of {wide} x {tall} pixels, more than the limit of {max_pixels:,}",
            "save it as a TIFF of smaller tiles, or raise the limit with --max-pixels",
        )
    down, across = math.ceil(keyframe.imagelength / tall), math.ceil(keyframe.imagewidth / wide)
    region_of = np.full((planes, height, width, samples), page.nodata or 0, page.dtype)
    for plane in range(planes):
        for row in range(y // tall, (y + height - 1) // tall + 1):
            for column in range(x // wide, (x + width - 1) // wide + 1):
                index = (plane * down + row) * across + column
                segment = _segment(path, page, index)
                if segment is not None:
                    _paste(region_of[plane], segment, (y - row * tall, x - column * wide))
    return np.concatenate(list(region_of), axis=2) if planes > 1 else region_of[0]


def _segment(path: Path, page: Any, index: int) -> np.ndarray | None:
    """One decoded tile or strip, (rows, columns, C), cut to the page; None for one that the file leaves out."""
    start, count = page.dataoffsets[index], page.databytecounts[index]
    if not start or not count:
        return None
    handle = page.parent.filehandle
    check_end(path, start + count, handle.size)
    tables: dict[str, Any] = {}
    if page.keyframe.compression in _JPEG:
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}
    decode = page.keyframe.decode  # which may read tags from elsewhere in the file, as the tables are
    handle.seek(start)
    decoded, _, shape = decode(handle.read(count), index, **tables)
    if decoded is None:
        return None
    segment: np.ndarray = decoded[0, : shape[1], : shape[2]]
    return segment


def _paste(target: np.ndarray, segment: np.ndarray, offset: tuple[int, int]) -> None:
    """Puts what both cover into `target` (h, w, C), which begins `offset` rows and columns into the segment."""
    slices = []
    for side, length, begins in zip(target.shape, segment.shape, offset, strict=False):
        first, last = max(0, begins), min(length, begins + side)
        if first >= last:
            return
        slices.append((slice(first - begins, last - begins), slice(first, last)))
    (rows, own_rows), (columns, own_columns) = slices
    target[rows, columns] = segment[own_rows, own_columns]


def check_end(path: Path, end: int, size: int) -> None:
    """Whether data lies inside its file.

    Raises:
        ImageError: it does not.
    """
    if end > size:
        raise ImageError(
            f"{path}: cannot be decoded, it is damaged or truncated: data at byte {end:,} of a file of {size:,}",
            "copy it again from its source, or remove it from the dataset",
        )
