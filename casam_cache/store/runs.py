"""Masks as run lengths, from whole bitmaps or from the part that holds one."""

from __future__ import annotations

import numpy as np

from casam_cache.cutout import Cutout

RUN = np.dtype(np.uint32)


def encode_runs(bitmap: np.ndarray) -> np.ndarray:
    """A mask, bool (H, W) -> its run lengths, uint32 (runs,), which add up to H * W.

    Row-major, runs of zeros and ones in turn, the zeros (perhaps none) first.
    """
    return cutout_runs(Cutout.of(np.asarray(bitmap, dtype=bool)))


def cutout_runs(cutout: Cutout) -> np.ndarray:
    """`encode_runs` of the whole mask, from the part of it that is held."""
    (height, width), (rows, columns) = cutout.size, cutout.pixels.shape
    if not height * width:
        return np.zeros(0, dtype=RUN)
    framed = np.zeros((rows, columns + 1), dtype=bool)  # zeros end each row, so that every run lies in one
    framed[:, :-1] = cutout.pixels
    row, column = np.divmod(np.flatnonzero(np.diff(framed.reshape(-1), prepend=False)), columns + 1)
    changes = (row + cutout.top) * width + column + cutout.left
    if columns == width:  # a run up to the right edge may go on in the next row
        goes_on = np.flatnonzero(changes[1:] == changes[:-1])
        changes = np.delete(changes, np.concatenate([goes_on, goes_on + 1]))
    end = [] if len(changes) and changes[-1] == height * width else [height * width]
    return np.diff(np.concatenate([[0], changes, end])).astype(RUN)


def decode_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of `encode_runs`: run lengths -> bool (H, W).

    Raises:
        ValueError: where the runs do not fill H * W pixels.
    """
    bits = np.zeros(len(runs), dtype=bool)
    bits[1::2] = True
    flat = np.repeat(bits, runs)
    if flat.size != size[0] * size[1]:
        raise ValueError(f"runs of {flat.size} pixels do not make a mask of {size[0]} x {size[1]}")
    return flat.reshape(size)


def decode_cutout(runs: np.ndarray, size: tuple[int, int]) -> Cutout:
    """The inverse of `cutout_runs`: run lengths -> the tight cutout, of an empty mask one without pixels.

    Only the rows that hold the mask are made.

    Raises:
        ValueError: where the runs do not fill H * W pixels.
    """
    width = size[1]
    ends = np.cumsum(runs, dtype=np.int64)
    if (int(ends[-1]) if len(ends) else 0) != size[0] * width:
        return Cutout.of(decode_runs(runs, size))  # raises
    held = np.flatnonzero(runs[1::2]) * 2 + 1
    if not len(held):
        return Cutout(np.zeros((0, 0), dtype=bool), 0, 0, size)
    first, last = int(ends[held[0] - 1]), int(ends[held[-1]])
    top, bottom = first // width, -(-last // width)
    lengths = runs[held[0] - 1 : held[-1] + 2].astype(np.int64)
    lengths[0] = first - top * width
    if len(lengths) % 2:
        lengths[-1] = bottom * width - last
    else:
        lengths = np.append(lengths, bottom * width - last)
    bits = np.zeros(len(lengths), dtype=bool)
    bits[1::2] = True
    return Cutout(np.repeat(bits, lengths).reshape(bottom - top, width), top, 0, size).tight()
