"""A canvas that also keeps each object's visible mask, and paints rims."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from casam_cache.datasets.phantoms.canvas import Canvas, Kind, Shape
from casam_cache.datasets.phantoms.looks import Look


class SceneCanvas(Canvas):
    """A canvas with the visible mask, bool (H, W), of every object so far in `masks`."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, look: Look) -> None:
        super().__init__(rng, height, width, look)
        self.masks: list[np.ndarray] = []

    def rim(self, shape: Shape, kind: Kind, width: float) -> None:
        """Paint a line of `width` pixels along the shape's boundary."""
        ring = (
            np.clip(1 - np.abs(shape.cover - 0.5) * 2, 0, 1)
            if self.soft >= width
            else _edge(shape.inside, width)
        )
        self.paint(Shape(shape.rows, shape.columns, ring.astype(np.float32)), kind)

    def add(self, shape: Shape, kind: Kind, hides: bool = True) -> np.ndarray:
        """Paint an object, keep its mask, and take its pixels from the objects it `hides`; returns the mask."""
        rng = self.rng
        self.paint(shape, kind)
        if rng.random() < 0.15:
            self.rim(shape, self.kind(kind, 1.2), float(rng.uniform(1, 3)))
        if hides:
            seen = ~shape.inside
            for other in self.masks:
                other[shape.rows, shape.columns] &= seen
        mask = self.full(shape)
        self.masks.append(mask)
        return mask


def _edge(inside: np.ndarray, width: float) -> np.ndarray:
    picture = Image.fromarray(inside.astype(np.uint8) * 255)
    size = 2 * max(1, round(width / 2)) + 1
    grown = np.asarray(picture.filter(ImageFilter.MaxFilter(size)))
    return (grown > 0) & ~(np.asarray(picture.filter(ImageFilter.MinFilter(size))) > 0)
