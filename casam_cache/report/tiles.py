"""Squares of images around a mask, for pictures that show many masks side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image

from casam_cache.cutout import Cutout

NO_IMAGE = 72  # grey, where an image is gone
Square = tuple[float, float, float]
"""Left, top, side in pixels of the image; what reaches beyond the image is black."""


def square_around(truth: Cutout) -> Square:
    """The square that the true mask fills about half of, at least a quarter of the image's longer side."""
    height, width = truth.size
    x0, y0, x1, y1 = (float(value) for value in truth.tight().box) if truth.area else (0, 0, width, height)
    side = min(max(1.7 * max(x1 - x0 + 1, y1 - y0 + 1), max(height, width) / 4), max(height, width))
    left, top = (
        _inside((low + high + 1 - side) / 2, whole, side)
        for low, high, whole in ((x0, x1, width), (y0, y1, height))
    )
    return left, top, side


def image_tile(image: np.ndarray | None, square: Square, side: int, size: tuple[int, int]) -> np.ndarray:
    """The square of an image as uint8 (side, side, 3).

    Args:
        image: uint8 (H, W, 3), or None: grey.
        square: of it.
        side: pixels of the tile.
        size: H and W, where there is no image.
    """
    if image is None:
        image = np.full((*size, 3), NO_IMAGE, np.uint8)
    cut = Image.fromarray(image).crop(_corners(square))
    return np.array(cut.resize((side, side), Image.Resampling.LANCZOS))


def mask_tile(mask: Cutout, square: Square, side: int) -> np.ndarray:
    """The square of a mask as bool (side, side)."""
    cut = Image.fromarray(mask.bitmap.astype(np.uint8) * 255).crop(_corners(square))
    inside: np.ndarray = np.asarray(cut.resize((side, side), Image.Resampling.BILINEAR)) > 127
    return inside


def _corners(square: Square) -> tuple[int, int, int, int]:
    left, top, side = (round(value) for value in square)
    return left, top, left + side, top + side


def _inside(start: float, whole: int, side: float) -> float:
    return (whole - side) / 2 if side >= whole else min(max(start, 0), whole - side)
