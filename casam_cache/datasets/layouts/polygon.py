"""From the corners of a polygon to its pixels.

A pixel belongs to a polygon where its centre lies inside: pixel (column, row) covers column to column + 1 and row to
row + 1, so its centre is half a pixel farther. Inside is what the outline winds around, so that a stroke over itself
leaves no hole; a centre on the outline belongs to the side right of it or below it, so that neighbours share no pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from casam_cache.cutout import Cutout

_CORNERS_OF_CIRCLE = 128
_AT_ONCE = 1 << 22  # pixels whose turns are counted together

Points = Sequence[tuple[float, float]]
"""(x, y) of corners, in pixels from the upper left corner of the image."""


def fill(points: Points, size: tuple[int, int]) -> Cutout | None:
    """The pixels of a polygon, cut to an image of (height, width); None where none of it lies in the image.

    A polygon too thin to hold the centre of a pixel is the pixel in which its middle lies, so that no object is lost.

    Raises:
        ValueError: fewer than three corners, or one that is no number.
    """
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError(
            f"a polygon of {len(corners)} corners" if len(corners) < 3 else "a corner is no number"
        )
    height, width = size
    first, last = corners.min(axis=0), corners.max(axis=0)
    left, top = (int(np.floor(np.clip(low, 0, end))) for low, end in zip(first, (width, height), strict=True))
    right, bottom = (
        int(np.ceil(np.clip(high, 0, end))) for high, end in zip(last, (width, height), strict=True)
    )
    if right > left and bottom > top:
        pixels = np.empty((bottom - top, right - left), bool)
        tall = max(1, _AT_ONCE // (right - left + 1))
        for first_row in range(top, bottom, tall):
            last_row = min(bottom, first_row + tall)
            pixels[first_row - top : last_row - top] = _inside(corners, first_row, last_row, left, right)
        if pixels.any():
            return Cutout(pixels, top, left, (height, width)).tight()
    if (first < 0).any() or last[0] >= width or last[1] >= height:
        return None  # what it has of pixels lies outside
    x, y = np.floor((first + last) / 2).astype(int)
    return Cutout(np.ones((1, 1), bool), int(y), int(x), (height, width))


def circle(x: float, y: float, radius: float, other: float | None = None) -> Sequence[tuple[float, float]]:
    """A circle, or an ellipse with two radii, as a polygon."""
    angles = np.arange(_CORNERS_OF_CIRCLE) * 2 * np.pi / _CORNERS_OF_CIRCLE
    tall = radius if other is None else other
    return [(x + radius * math.cos(angle), y + tall * math.sin(angle)) for angle in angles]


def lies_outside(points: Points | np.ndarray, width: float, height: float) -> bool:
    """Whether no part of a polygon lies in an image of this width and height, in the unit of its corners."""
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    first, last = corners.min(axis=0), corners.max(axis=0)
    return bool((last <= 0).any() or first[0] >= width or first[1] >= height)


def _inside(corners: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Bool (bottom - top, right - left): the pixels of a rectangle whose centre the outline winds around."""
    turns = np.zeros((bottom - top, right - left + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        way = 1 if y1 > y0 else -1
        if way < 0:  # computed alike from both of its sides, so that neighbours meet in it
            x0, y0, x1, y1 = x1, y1, x0, y0
        start = int(np.ceil(np.clip(y0 - 0.5, top, bottom)))
        stop = int(np.ceil(np.clip(y1 - 0.5, top, bottom)))
        if stop <= start:
            continue
        rows = np.arange(start, stop)
        crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(crossed - 0.5), left, right).astype(int)
        turns[rows - top, columns - left] += way
    return np.cumsum(turns[:, :-1], axis=1) != 0
