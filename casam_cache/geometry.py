"""How one image was put into the encoder's square input, and the exact way back (plain numbers, no arrays kept)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESIZE_MODES = ("longest", "stretch")


@dataclass(frozen=True)
class Geometry:
    """The place of an image inside the S x S input of the encoder.

    `longest` is SAM's own preprocessing: the long side becomes S, the short side keeps the aspect ratio, and the rest
    of the square below or to the right is zero padding. `stretch` resizes both sides to S.

    Attributes:
        height, width: original size, pixels, after EXIF rotation.
        input_height, input_width: size after resizing, the valid top-left part of the input, pixels.
        image_size: S, pixels.
        patch_size: side of one cell of the embedding grid, input pixels.
    """

    height: int
    width: int
    input_height: int
    input_width: int
    image_size: int
    patch_size: int

    @classmethod
    def fit(
        cls, height: int, width: int, image_size: int, patch_size: int, mode: str = "longest"
    ) -> Geometry:
        """The geometry of a `height` x `width` image under one of `RESIZE_MODES`.

        Raises:
            ValueError: for an unknown mode or an empty image.
        """
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height} x {width} pixels has no content")
        if mode == "stretch":
            return cls(height, width, image_size, image_size, image_size, patch_size)
        if mode != "longest":
            raise ValueError(f"unknown resize mode '{mode}', one of {', '.join(RESIZE_MODES)}")
        scale = image_size * 1.0 / max(height, width)  # the rounding of segment_anything's ResizeLongestSide
        rows, columns = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return cls(height, width, rows, columns, image_size, patch_size)

    @property
    def valid_grid(self) -> tuple[int, int]:
        """Rows and columns of the embedding grid that hold image, not only padding."""
        return -(-self.input_height // self.patch_size), -(-self.input_width // self.patch_size)

    def valid_cells(self) -> np.ndarray:
        """The same as bool (g, g): which cells of the embedding grid hold image."""
        grid = self.image_size // self.patch_size
        rows, columns = self.valid_grid
        cells = np.zeros((grid, grid), dtype=bool)
        cells[:rows, :columns] = True
        return cells

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) as x, y in original pixels -> float32 (..., 2) in input pixels."""
        scale = np.array([self.input_width / self.width, self.input_height / self.height])
        return (np.asarray(points, dtype=np.float64) * scale).astype(np.float32)

    def boxes_to_input(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) as x0, y0, x1, y1 in original pixels -> float32 (..., 4) in input pixels."""
        boxes = np.asarray(boxes)
        return self.to_input(boxes.reshape(*boxes.shape[:-1], 2, 2)).reshape(boxes.shape)
