"""How a slice lies on the screen, and back: which axes become rows and columns, and which are turned round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from casam_cache.datasets.sample import AXES
from casam_cache.datasets.volumes.orientation import world_axes
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import OptionError

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Layout:
    """Slices across one voxel axis as pictures of rows and columns.

    Attributes:
        axis: the voxel axis that slices are numbered along.
        rows, columns: the voxel axes that run down and to the right.
        flip_rows, flip_columns: these run against the file.
        plane: `axial`, `coronal`, `sagittal`, or empty where the file does not say how it lies.
    """

    axis: int
    rows: int
    columns: int
    flip_rows: bool = False
    flip_columns: bool = False
    plane: str = ""

    def picture(self, plane: np.ndarray) -> np.ndarray:
        """(first, second, ...) of the two axes left over in their order -> (rows, columns, ...)."""
        if self.rows > self.columns:
            plane = np.swapaxes(plane, 0, 1)
        if self.flip_rows:
            plane = plane[::-1]
        return plane[:, ::-1] if self.flip_columns else plane

    def plane_of(self, picture: np.ndarray) -> np.ndarray:
        """The inverse of `picture`."""
        if self.flip_columns:
            picture = picture[:, ::-1]
        if self.flip_rows:
            picture = picture[::-1]
        return np.swapaxes(picture, 0, 1) if self.rows > self.columns else picture

    def place(self, voxels: np.ndarray, index: int, picture: np.ndarray) -> None:
        """Writes a picture, e.g. a predicted mask, into slice `index` of an array (I, J, K) of the volume's shape."""
        where: list[slice | int] = [slice(None)] * 3
        where[self.axis] = index
        voxels[tuple(where)] = self.plane_of(picture)


def layout_of(volume: Volume, axis: str | None = None) -> Layout:
    """The layout of a volume's slices.

    Pictures lie as radiologists look at them: rows run to the back (axial) or the feet, columns to the patient's left
    (axial, coronal) or back (sagittal). Where the file does not say how it lies they are as stored. Nothing is
    resampled: an oblique volume is cut along its own nearest axis, and pixels need not be square.

    Args:
        volume: whose.
        axis: one of `AXES`; None is `axial`, or the slices as stored where orientation is unknown.

    Raises:
        OptionError: an unknown axis, or a plane by name where the file does not say how it lies.
    """
    if axis is not None and axis not in AXES:
        raise OptionError(f"unknown axis '{axis}'", f"available: {', '.join(AXES)}")
    if not volume.oriented:
        if axis in PLANES:
            raise OptionError(
                f"{volume.path}: the file does not say how it lies in the patient, so '{axis}' is unknown",
                f"give the number of an axis, --axis {0 if volume.rows_first else 2}",
            )
        number = int(axis) if axis is not None else (0 if volume.rows_first else 2)
        first, second = (other for other in range(3) if other != number)
        return Layout(number, first, second) if volume.rows_first else Layout(number, second, first)
    world = world_axes(volume.affine)
    number = world.index(PLANES[axis or "axial"]) if axis is None or axis in PLANES else int(axis)
    first, second = (other for other in range(3) if other != number)
    rows, columns = (first, second) if world[first] > world[second] else (second, first)
    up = [volume.affine[world[axis], axis] > 0 for axis in range(3)]  # towards R, A or S
    plane = next(name for name, through in PLANES.items() if through == world[number])
    return Layout(number, rows, columns, bool(up[rows]), bool(up[columns]), plane)


def picture(volume: Volume, layout: Layout, index: int) -> np.ndarray:
    """The values of one slice as they lie on the screen, (H, W) or (H, W, 3); low is dark.

    MONOCHROME1 is turned over: values become negative (8-bit ones 255 - value).

    Raises:
        ImageError: they cannot be read.
    """
    found = layout.picture(volume.values(layout.axis, index))
    if volume.inverted:
        found = 255 - found if found.dtype == np.uint8 else -found.astype(np.float64)
    return np.ascontiguousarray(found.astype(found.dtype.newbyteorder("="), copy=False))
