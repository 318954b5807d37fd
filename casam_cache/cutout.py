"""Part of a mask: the pixels of one rectangle of an image, so that an object costs its box and not the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cutout:
    """A bool image of which only one rectangle is held; all beyond it is False.

    Attributes:
        pixels: bool (h, w), the rectangle.
        top, left: its first row and column in the image.
        size: height and width of the image.

    Raises:
        ValueError: the rectangle reaches beyond the image.
    """

    pixels: np.ndarray
    top: int
    left: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        bottom, right = self.top + self.pixels.shape[0], self.left + self.pixels.shape[1]
        if self.top < 0 or self.left < 0 or bottom > self.size[0] or right > self.size[1]:
            raise ValueError(
                f"rows {self.top} to {bottom} and columns {self.left} to {right} are not inside an image of "
                f"{self.size[0]} x {self.size[1]}"
            )

    @classmethod
    def of(cls, bitmap: np.ndarray) -> Cutout:
        """A whole bitmap, bool (H, W), not copied; `tight` makes it small."""
        height, width = bitmap.shape
        return cls(bitmap, 0, 0, (height, width))

    @property
    def area(self) -> int:
        """Number of True pixels."""
        return int(np.count_nonzero(self.pixels))

    @property
    def bitmap(self) -> np.ndarray:
        """The whole image, bool (H, W): the pixels themselves where they are all of it, else made now."""
        height, width = self.pixels.shape
        if (height, width) == self.size:
            return self.pixels
        whole = np.zeros(self.size, dtype=bool)
        whole[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return whole

    def tight(self) -> Cutout:
        """The same with the smallest rectangle that holds every True pixel; its pixels share no memory with these.

        Raises:
            ValueError: no pixel is True.
        """
        rows = np.flatnonzero(self.pixels.any(axis=1))
        if not len(rows):
            raise ValueError("an empty mask has no box")
        band = self.pixels[rows[0] : rows[-1] + 1]
        columns = np.flatnonzero(band.any(axis=0))
        first, last = int(columns[0]), int(columns[-1]) + 1
        return Cutout(band[:, first:last].copy(), self.top + int(rows[0]), self.left + first, self.size)

    @property
    def box(self) -> np.ndarray:
        """The rectangle, of a tight cutout its box: float32 x0, y0, x1, y1, inclusive pixel indexes."""
        height, width = self.pixels.shape
        corners = (self.left, self.top, self.left + width - 1, self.top + height - 1)
        return np.array(corners, np.float32)
