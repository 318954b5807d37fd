"""Other views of an image that can be encoded and cached beside it: mirrored, turned, smaller, cropped, darker.

Each is a function of the original pixels, and the same function takes masks, boxes and points along:

- `flip_h`, `flip_v`: mirrored left-right, top-bottom.
- `rot90`, `rot180`, `rot270`: turned counter-clockwise by so many degrees; 90 and 270 exchange the sides.
- `ccwNN`, `cwNN`: turned by 1 to 45 degrees, counter-clockwise or clockwise, on a canvas that holds all of it; its
  corners are black, and count nowhere.
- `scaleNN`: at NN percent of the size that it otherwise has in the encoder's input, in its top left corner; the rest of
  the input is padding. Pixels of the original stay where they are, only the geometry differs.
- `cropNN`: the middle, NN percent of each side, which fills the input. Where it would cut a mask, it is not shown.
- `gammaNN`: intensities x of 0 to 255 as 255 (x / 255)^(NN / 100); masks stay.

In a store the view NAME is the array `view_NAME`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry

PREFIX = "view_"
NONE = "none"
_TURNS = {"rot90": 1, "rot180": 2, "rot270": 3}
_FLIPS = {"flip_h": 1, "flip_v": 0}  # the axis of an image (H, W, ...)
_SCALE = re.compile(r"scale([1-9][0-9])")
_CROP = re.compile(r"crop([5-9][0-9])")
_GAMMA = re.compile(r"gamma([1-9][0-9]{1,2})")
_TILT = re.compile(r"(c?cw)([1-9]|[1-3][0-9]|4[0-5])")


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
        numbered = (_SCALE, _CROP, _GAMMA, _TILT)
        known = self.name in {*_TURNS, *_FLIPS} or any(kind.fullmatch(self.name) for kind in numbered)
        if not known or self.name == "gamma100":
            raise OptionError(
                f"unknown view '{self.name}'",
                f"available: {', '.join([*_FLIPS, *_TURNS])}, scale10 to scale99 and crop50 to crop99 (percent), "
                "ccw1 to ccw45 and cw1 to cw45 (degrees), gamma10 to gamma999 (percent, not 100)",
            )

    @property
    def array(self) -> str:
        return PREFIX + self.name

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the view of an image of these."""
        if self.name in ("rot90", "rot270"):
            return width, height
        if self._share:
            return max(1, round(height * self._share)), max(1, round(width * self._share))
        cos, sin = self._turn
        # A hair less, so that 48 pixels times a cosine that is 1 but for rounding are 48.
        return (
            math.ceil(height * cos + width * abs(sin) - 1e-6),
            math.ceil(width * cos + height * abs(sin) - 1e-6),
        )

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """An image (H, W, ...) as this view shows it, contiguous; a small turn interpolates linearly."""
        if self.name in _FLIPS:
            pixels = np.flip(pixels, _FLIPS[self.name])
        elif self.name in _TURNS:
            pixels = np.rot90(pixels, _TURNS[self.name])
        elif gamma := _GAMMA.fullmatch(self.name):
            brightness = 255 * (np.arange(256) / 255) ** (int(gamma[1]) / 100)
            pixels = brightness.round().astype(np.uint8)[pixels]
        elif self._share:
            height, width = self.size(*pixels.shape[:2])
            left, top = self._corner(*pixels.shape[:2])
            pixels = pixels[top : top + height, left : left + width]
        elif _TILT.fullmatch(self.name):
            planes = pixels.reshape(*pixels.shape[:2], -1).astype(np.float32)
            shape = self.size(*pixels.shape[:2])
            turned = [self._tilted(plane, 1, pixels.shape[:2], shape) for plane in np.moveaxis(planes, 2, 0)]
            found = np.stack(turned, 2).reshape(*shape, *pixels.shape[2:])
            pixels = found.round().astype(pixels.dtype) if pixels.dtype.kind in "iu" else found
        return np.ascontiguousarray(pixels)

    def mask(self, mask: Cutout) -> Cutout:
        """Where a mask is in this view. A small turn takes the nearest pixel, and leaves one of a mask at least."""
        if _GAMMA.fullmatch(self.name) or _SCALE.fullmatch(self.name):
            return mask
        shape = self.size(*mask.size)
        last = np.array([shape[1] - 1, shape[0] - 1])
        corners = self.boxes(mask.box, *mask.size).reshape(2, 2)
        first, last = np.clip([np.floor(corners[0]), np.ceil(corners[1])], 0, last)
        left, top, right, bottom = (int(side) for side in (*first, *last))
        if self._share:
            x, y = self._corner(*mask.size)
            inside = mask.bitmap[y + top : y + bottom + 1, x + left : x + right + 1]
            return Cutout(np.ascontiguousarray(inside), top, left, shape)
        if not _TILT.fullmatch(self.name):
            return Cutout(self.image(mask.pixels), top, left, shape)
        wanted = (bottom - top + 1, right - left + 1)
        held = (mask.top, mask.left)
        found = self._tilted(mask.pixels.astype(np.float32), 0, mask.size, wanted, (top, left), held)
        if mask.area and not found.any():
            row, column = np.argwhere(mask.pixels)[0]
            point = np.array([column + mask.left, row + mask.top], dtype=np.float64)
            x, y = np.clip(self.points(point, *mask.size).round(), (left, top), (right, bottom)).astype(int)
            found[y - top, x - left] = 1
        return Cutout(found > 0, top, left, shape)

    def ignored(self, pixels: np.ndarray | None, height: int, width: int) -> np.ndarray | None:
        """Which pixels count nowhere, bool, as this view shows them; None where all count.

        Args:
            pixels: those of the original, bool (H, W), or None.
            height: of the original, pixels.
            width: of the original, pixels.
        """
        tilted = bool(_TILT.fullmatch(self.name))
        if pixels is None and not tilted:
            return None
        counted = ~pixels if pixels is not None else np.ones((height, width), dtype=bool)
        return ~self.mask(Cutout.of(counted)).bitmap

    def keeps(self, boxes: np.ndarray, height: int, width: int) -> bool:
        """Whether all of the boxes (..., 4) of an image lie in this view of it."""
        rows, columns = self.size(height, width)
        found = self.boxes(boxes, height, width)
        return not self._share or bool(
            np.all(found >= 0) and np.all(found[..., 2] < columns) and np.all(found[..., 3] < rows)
        )

    def geometry(self, original: Geometry) -> Geometry:
        """How the view lies in the encoder's input, by how the original does."""
        scale = _SCALE.fullmatch(self.name)
        if scale:
            share = int(scale[1]) / 100
            rows, columns = (
                max(1, int(side * share + 0.5)) for side in (original.input_height, original.input_width)
            )
            return replace(original, input_height=rows, input_width=columns)
        if self._share or _TILT.fullmatch(self.name):
            side = original.image_size
            stretched = original.input_height == original.input_width == side
            shape = self.size(original.height, original.width)
            # A square is the same either way.
            mode = "stretch" if stretched and original.height != original.width else "longest"
            return Geometry.fit(*shape, side, original.patch_size, mode)
        if self.name in ("rot90", "rot270"):
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
        if self._share:
            left, top = self._corner(height, width)
            return np.stack((x - left, y - top), axis=-1)
        if _TILT.fullmatch(self.name):
            (cos, sin), (rows, columns) = self._turn, self.size(height, width)
            across, down = x - (width - 1) / 2, y - (height - 1) / 2
            moved = (
                cos * across + sin * down + (columns - 1) / 2,
                cos * down - sin * across + (rows - 1) / 2,
            )
        else:
            moved = {
                "flip_h": (right, y),
                "flip_v": (x, bottom),
                "rot90": (y, right),
                "rot180": (right, bottom),
                "rot270": (bottom, x),
            }.get(self.name, (x, y))
        return np.stack(moved, axis=-1)

    def boxes(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """Boxes (..., 4) as x0, y0, x1, y1, inclusive, in pixels of the original -> in pixels of the view.

        After a small turn they are the boxes round the turned ones.
        """
        x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
        four = np.stack([np.stack(one, -1) for one in ((x0, y0), (x1, y0), (x0, y1), (x1, y1))], -2)
        corners = self.points(four, height, width)
        return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)

    @property
    def _share(self) -> float:
        """Of each side, for a crop; else 0."""
        crop = _CROP.fullmatch(self.name)
        return int(crop[1]) / 100 if crop else 0.0

    @property
    def _turn(self) -> tuple[float, float]:
        """Cosine and sine of the counter-clockwise angle of a small turn."""
        tilt = _TILT.fullmatch(self.name)
        degrees = int(tilt[2]) * (1 if tilt[1] == "ccw" else -1) if tilt else 0
        return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """x, y of the original pixel that is the first of a crop."""
        rows, columns = self.size(height, width)
        return (width - columns) // 2, (height - rows) // 2

    def _tilted(
        self,
        plane: np.ndarray,
        order: int,
        original: tuple[int, ...],
        shape: tuple[int, int],
        first: tuple[int, int] = (0, 0),
        held: tuple[int, int] = (0, 0),
    ) -> np.ndarray:
        """A rectangle of a small turn of an image, 0 beyond the image.

        Args:
            plane: float32 (h, w), a rectangle of the original.
            order: 0 is the nearest pixel, 1 linear.
            original: height and width of the original.
            shape: of what is wanted.
            first: row and column of the view that it begins with.
            held: row and column of the original that `plane` begins with.
        """
        from scipy import ndimage

        cos, sin = self._turn
        back = np.array([[cos, sin], [-sin, cos]])  # (row, column) of the view -> of the original
        whole = self.size(original[0], original[1])
        middle = np.array([(original[0] - 1) / 2, (original[1] - 1) / 2])
        shown = np.array([(whole[0] - 1) / 2, (whole[1] - 1) / 2])
        offset = middle - np.array(held) + back @ (np.array(first) - shown)
        # Not "constant", which leaves the outer half of the outermost pixels out.
        found: np.ndarray = ndimage.affine_transform(
            plane, back, offset, shape, order=order, mode="grid-constant"
        )
        return found


def parse_views(text: str, separator: str = ",") -> tuple[View, ...]:
    """Views by name, sorted, each once; none for an empty text or `none`.

    Raises:
        OptionError: for an unknown name.
    """
    names = {name.strip() for name in text.split(separator)} - {"", NONE}
    return tuple(View(name) for name in sorted(names))


def view_of(array: str) -> View | None:
    return View(array.removeprefix(PREFIX)) if array.startswith(PREFIX) else None
