"""Which masks a tile has: the pieces of objects that reach into its core; what only lies in its margin counts nowhere.

Cores cut overlaps in the middle, so an object in the margin of one tile lies in the core of its neighbour, and with a
piece cut off by a tile's border comes at least half an overlap of it: there are no slivers. Nothing is lost either, for
each pixel of an object lies in the core of one tile. The pixels of a margin's pieces are ignored in that tile, as they
are no background.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from casam_cache.datasets import Cutout, Mask, Sample


def own_masks(masks: Iterable[Mask], sample: Sample) -> tuple[list[Mask], list[Mask]]:
    """The masks of a sample, and apart from them those in the margin of a tile; of other images there are none."""
    if sample.tile is None:
        return list(masks), []
    rows, columns = sample.tile.core_inside
    own: list[Mask] = []
    margins: list[Mask] = []
    for mask in masks:
        (own if reaches(mask.cutout, rows, columns) else margins).append(mask)
    return own, margins


def reaches(cutout: Cutout, rows: slice, columns: slice) -> bool:
    """Whether a mask has a pixel in a rectangle of the image."""
    return bool(inside(cutout, rows, columns).any())


def inside(cutout: Cutout, rows: slice, columns: slice) -> np.ndarray:
    """The part of a cutout's pixels in a rectangle of the image; perhaps of no pixel."""
    top, left = cutout.top, cutout.left
    return cutout.pixels[
        max(0, rows.start - top) : max(0, rows.stop - top),
        max(0, columns.start - left) : max(0, columns.stop - left),
    ]


def united(ignored: np.ndarray | None, margins: Iterable[Mask], size: tuple[int, int]) -> np.ndarray | None:
    """Pixels (H, W) that count nowhere: those ignored anyway, and those of a margin's masks; None where all count."""
    found = ignored
    for mask in margins:
        if found is None:
            found = np.zeros(size, bool)
        elif found is ignored:
            found = found.copy()
        cutout = mask.cutout
        height, width = cutout.pixels.shape
        found[cutout.top : cutout.top + height, cutout.left : cutout.left + width] |= cutout.pixels
    return found
