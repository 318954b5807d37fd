"""The one type that every volume file is read into: a header at once, voxels when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casam_cache.datasets.volumes.held import HELD
from casam_cache.datasets.volumes.orientation import axis_codes


@dataclass(frozen=True)
class Plane:
    """One stored picture of a DICOM volume: where slice k lies.

    Attributes:
        uid: SOP instance UID, by which a DICOM-SEG refers to it.
        path: its file.
        frame: number of the frame in the file, from 0.
        position: of its first voxel's centre, mm, in DICOM's own axes (LPS); None where the file does not say.
    """

    uid: str
    path: Path
    frame: int
    position: tuple[float, float, float] | None


@dataclass(frozen=True, eq=False)
class Volume:
    """A grid of voxels and where it lies in the patient.

    Voxels are indexed [i, j, k] in the file's own order with i the fastest in the file: as nibabel does, and the
    reverse of SimpleITK's arrays; of DICOM i is the column, j the row and k the slice, sorted along the normal. NumPy
    files keep their own axes, which are taken as (slice, row, column).

    Attributes:
        path: the file, or the folder of a DICOM series.
        kind: `nifti`, `dicom`, `metaimage`, `nrrd` or `numpy`.
        shape: voxels along i, j and k.
        affine: float64 (4, 4), from voxel indexes (i, j, k, 1) to mm with axes to the patient's Right, Anterior and
            Superior (RAS+, as NIfTI and nibabel; DICOM and ITK are turned into it).
        key: names the stored voxels: equal keys, equal voxels.
        load: gives the stored voxels, (I, J, K) or (I, J, K, 3) for colour, before `slope` and `intercept`.
        oriented: whether the file says how it lies in the patient; else the affine tells spacing only.
        units: of the affine: `mm`, or `voxels` where the file knows none.
        slope, intercept: value = stored * slope + intercept.
        inverted: low values are bright (MONOCHROME1); `values` are as stored, `picture` turns them over.
        rows_first: the axes are (slice, row, column).
        channel: which of several channels or time points was read; None where there is one.
        planes: of DICOM, one a slice k.
        series: series instance UID of DICOM.
        patient: as the file names the patient; empty where it does not.
        padding: lowest and highest stored number that stands for no measurement, as DICOM says it.
        notes: what was decided in reading it, for people, one line each.
    """

    path: Path
    kind: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    key: Hashable
    load: Callable[[], np.ndarray] = field(repr=False)
    oriented: bool = True
    units: str = "mm"
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False
    rows_first: bool = False
    channel: int | None = None
    planes: tuple[Plane, ...] = field(default=(), repr=False)
    series: str = ""
    patient: str = ""
    padding: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along i, j and k, in `units`."""
        found = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return (float(found[0]), float(found[1]), float(found[2]))

    @property
    def codes(self) -> str:
        """Where i, j and k lead to, by the nearest direction, e.g. `LPS`; empty where the file does not say."""
        return axis_codes(self.affine) if self.oriented else ""

    @property
    def stored(self) -> np.ndarray:
        """The voxels as they are stored, (I, J, K) or (I, J, K, 3).

        Those of one or two volumes are kept in memory, so that slices asked for one after another decode it once;
        uncompressed NIfTI is mapped, not read.

        Raises:
            ImageError: they cannot be read.
        """
        return HELD.get(self.key, self.load)

    def values(self, axis: int, index: int) -> np.ndarray:
        """The values of one slice across a voxel axis, the two axes left over in their order: (I, J), (I, K) or (J, K).

        Of whole numbers with a whole slope int32 or int64, with a broken one float64; without a slope as stored.
        """
        # Not np.take, which first brings the whole volume into the order of C.
        where: list[slice | int] = [slice(None)] * 3
        where[axis] = index
        return self.scaled(self.stored[tuple(where)])

    def array(self) -> np.ndarray:
        """All values, (I, J, K); takes eight bytes a voxel where there is a slope."""
        return self.scaled(np.asarray(self.stored))

    def scaled(self, stored: np.ndarray) -> np.ndarray:
        """Stored numbers as values."""
        stored = np.asarray(stored)
        if (self.slope, self.intercept) == (1.0, 0.0):
            return stored
        if stored.dtype.kind in "iub" and self.slope.is_integer() and self.intercept.is_integer():
            small = stored.dtype.itemsize <= 2 and abs(self.slope) < 2**14 and abs(self.intercept) < 2**30
            return stored.astype(np.int32 if small else np.int64) * int(self.slope) + int(self.intercept)
        return stored.astype(np.float64) * self.slope + self.intercept
