"""Run lengths as COCO has them: pixels column by column, runs of background and object in turn, background first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from casam_cache.cutout import Cutout


def decode_counts(text: bytes) -> np.ndarray:
    """The lengths of all runs in COCO's compressed form, int64.

    Each character holds five bits and whether more follow, the lowest first; from the fourth on a length is stored as
    its difference from the one two before it.

    Raises:
        ValueError: it ends within a number, or a length is negative.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift or min(lengths, default=0) < 0:
        raise ValueError("its run lengths are damaged")
    return np.array(lengths, np.int64)


def cutout_of_runs(lengths: Sequence[int] | np.ndarray, size: tuple[int, int]) -> Cutout | None:
    """The pixels of an object in an image of (height, width), without the memory of the image; None for none.

    Runs may end early: the rest is background.

    Raises:
        ValueError: the runs reach beyond the image.
    """
    height, width = size
    ends = np.cumsum(np.asarray(lengths, np.int64))
    if len(ends) and int(ends[-1]) > height * width:
        raise ValueError("its runs reach beyond the image")
    beyond = ends[1::2]
    first = ends[::2][: len(beyond)]
    held = beyond > first
    first, beyond = first[held], beyond[held]
    if not len(first):
        return None
    left, right = int(first[0] // height), int((beyond[-1] - 1) // height) + 1
    rows = first % height
    last = (beyond - 1) % height
    within = bool((first // height == (beyond - 1) // height).all())
    top, bottom = (int(rows.min()), int(last.max()) + 1) if within else (0, height)
    tall = bottom - top
    place = (first // height - left) * tall + rows - top
    steps = np.zeros((right - left) * tall + 1, np.int8)
    np.add.at(steps, place, 1)
    np.add.at(steps, place + (beyond - first), -1)
    pixels = np.cumsum(steps[:-1], dtype=np.int8).reshape(right - left, tall).T != 0
    return Cutout(pixels, top, left, size).tight()
