"""Objects that are drawn as outlines or runs, in the tiles of a large image: each tile draws what it meets.

Where every object of an image lies is found once, by drawing it; what is kept are boxes, whatever the objects' size.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.tiles import Box

Draw = Callable[[tuple[int, int]], Cutout | None]
"""The pixels of an object in an image of (height, width); None where it has none there."""

_KEPT = 2  # images whose objects are remembered


@dataclass(frozen=True)
class Shape:
    """One object.

    Attributes:
        class_id: its class, from 1.
        draw: gives its pixels.
        crowd: many objects under one outline, which count in `binary` and `classes` only.
    """

    class_id: int
    draw: Draw
    crowd: bool = False


@dataclass(frozen=True)
class PlacedShapes:
    """The objects of one image, and where each lies.

    Attributes:
        shapes: of the image.
        numbers: of each, its number among those of its class that are no crowds, from 1; 0 for a crowd.
        boxes: int64 (N, 4), first column and row, and those beyond the last; zeros where an object has no pixel.
        size: height and width of the image.
    """

    shapes: tuple[Shape, ...]
    numbers: tuple[int, ...]
    boxes: np.ndarray
    size: tuple[int, int]

    @classmethod
    def of(cls, shapes: Iterable[Shape], size: tuple[int, int]) -> PlacedShapes:
        """Draws each object once."""
        held = tuple(shapes)
        boxes = np.zeros((len(held), 4), np.int64)
        for place, shape in enumerate(held):
            if (cutout := shape.draw(size)) is not None:
                boxes[place] = _ends(cutout)
        return cls(held, number_in_class(held), boxes, size)

    def inside(self, box: Box, *, crowds: bool) -> Iterator[tuple[Shape, int, Cutout]]:
        """What a tile has of each object that it meets: the shape, its number, and its pixels in the tile.

        Args:
            box: of the tile.
            crowds: those too.
        """
        x, y, width, height = box
        left, top, right, bottom = self.boxes.T
        met = (left < x + width) & (right > x) & (top < y + height) & (bottom > y)
        for place in np.flatnonzero(met):
            shape = self.shapes[place]
            if shape.crowd and not crowds:
                continue
            drawn = shape.draw(self.size)
            piece = None if drawn is None else cut(drawn, box)
            if piece is not None:
                yield shape, self.numbers[place], piece


def number_in_class(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """The number of each object among those of its class, from 1; 0 for a crowd."""
    counted: Counter[int] = Counter()
    numbers = []
    for shape in shapes:
        counted[shape.class_id] += not shape.crowd
        numbers.append(0 if shape.crowd else counted[shape.class_id])
    return tuple(numbers)


def cut(cutout: Cutout, box: Box) -> Cutout | None:
    """The part of an object in a tile, in the tile's own pixels; None where it has none there."""
    x, y, width, height = box
    left, top, right, bottom = _ends(cutout)
    first, last = max(left, x), min(right, x + width)
    upper, lower = max(top, y), min(bottom, y + height)
    if first >= last or upper >= lower:
        return None
    part = cutout.pixels[upper - top : lower - top, first - left : last - left]
    return Cutout(part, upper - y, first - x, (height, width)).tight() if part.any() else None


def union(cutouts: Sequence[Cutout]) -> Cutout:
    """All pixels of some parts of an image, in the rectangle that holds them."""
    ends = np.array([_ends(cutout) for cutout in cutouts])
    (left, top), (right, bottom) = ends[:, :2].min(axis=0), ends[:, 2:].max(axis=0)
    whole = np.zeros((bottom - top, right - left), bool)
    for cutout, (x0, y0, x1, y1) in zip(cutouts, ends, strict=True):
        whole[y0 - top : y1 - top, x0 - left : x1 - left] |= cutout.pixels
    return Cutout(whole, int(top), int(left), cutouts[0].size)


def _ends(cutout: Cutout) -> tuple[int, int, int, int]:
    rows, columns = cutout.pixels.shape
    return cutout.left, cutout.top, cutout.left + columns, cutout.top + rows


class Remembered:
    """The placed objects of the last few images, for threads that ask for tile after tile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Hashable, PlacedShapes] = {}

    def get(self, key: Hashable, place: Callable[[], PlacedShapes]) -> PlacedShapes:
        """Those of a key, found by `place` where they are not remembered."""
        with self._lock:
            if key not in self._kept:
                found = place()
                while len(self._kept) >= _KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = found
            return self._kept[key]
