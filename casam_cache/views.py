"""Other views of an image that can be encoded and cached beside it: flips, right-angle rotations, scales.

Each is a function of the original pixels, and the same function takes masks, boxes and points along:

- `flip_h`, `flip_v`: mirrored left-right, top-bottom.
- `rot90`, `rot180`, `rot270`: turned counter-clockwise by so many degrees; 90 and 270 exchange the sides.
- `scaleNN`: at NN percent of the size that it otherwise has in the encoder's input, in its top left corner; the rest of
  the input is padding. Pixels of the original stay where they are, only the geometry differs.

In a store the view NAME is the array `view_NAME`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry

PREFIX = "view_"
NONE = "none"
_TURNS = {"rot90": 1, "rot180": 2, "rot270": 3}
_FLIPS = {"flip_h": 1, "flip_v": 0}  # the axis of an image (H, W, ...)
_SCALE = re.compile(r"scale([1-9][0-9])")


@dataclass(frozen=True)
class View:
    """One of the views above.

    Attributes:
        name: as in the list above.

    Raises:
        OptionError: for an unknown name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in {*_TURNS, *_FLIPS} and not _SCALE.fullmatch(self.name):
            raise OptionError(
                f"unknown view '{self.name}'",
                f"available: {', '.join([*_FLIPS, *_TURNS])}, and scale10 to scale99 (percent)",
            )

    @property
    def array(self) -> str:
        return PREFIX + self.name

    @property
    def swaps(self) -> bool:
        return self.name in ("rot90", "rot270")

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """An image (H, W, ...) or a mask (H, W) as this view shows it, contiguous."""
        if self.name in _FLIPS:
            pixels = np.flip(pixels, _FLIPS[self.name])
        elif self.name in _TURNS:
            pixels = np.rot90(pixels, _TURNS[self.name])
        return np.ascontiguousarray(pixels)

    def geometry(self, original: Geometry) -> Geometry:
        """How the view lies in the encoder's input, by how the original does."""
        scale = _SCALE.fullmatch(self.name)
        if scale:
            share = int(scale[1]) / 100
            rows, columns = (
                max(1, int(side * share + 0.5)) for side in (original.input_height, original.input_width)
            )
            return replace(original, input_height=rows, input_width=columns)
        if self.swaps:
            return replace(
                original,
                height=original.width,
                width=original.height,
                input_height=original.input_width,
                input_width=original.input_height,
            )
        return original

    def points(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """Points (..., 2) as x, y in pixels of the original -> the same in pixels of the view.

        Args:
            points: x, y, where whole numbers are the centres of pixels.
            height: of the original, pixels.
            width: of the original, pixels.
        """
        x, y = points[..., 0], points[..., 1]
        right, bottom = width - 1 - x, height - 1 - y
        moved = {
            "flip_h": (right, y),
            "flip_v": (x, bottom),
            "rot90": (y, right),
            "rot180": (right, bottom),
            "rot270": (bottom, x),
        }.get(self.name, (x, y))
        return np.stack(moved, axis=-1)

    def boxes(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """Boxes (..., 4) as x0, y0, x1, y1, inclusive, in pixels of the original -> in pixels of the view."""
        corners = self.points(boxes.reshape(*boxes.shape[:-1], 2, 2), height, width)
        return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


def parse_views(text: str, separator: str = ",") -> tuple[View, ...]:
    """Views by name, sorted, each once; none for an empty text or `none`.

    Raises:
        OptionError: for an unknown name.
    """
    names = {name.strip() for name in text.split(separator)} - {"", NONE}
    return tuple(View(name) for name in sorted(names))


def view_of(array: str) -> View | None:
    return View(array.removeprefix(PREFIX)) if array.startswith(PREFIX) else None
