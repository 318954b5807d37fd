"""Which way the axes of a grid run through the patient."""

from __future__ import annotations

from itertools import permutations

import numpy as np

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's and ITK's axes -> NIfTI's; its own inverse
_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


def world_axes(affine: np.ndarray) -> tuple[int, int, int]:
    """For i, j and k the nearest of the patient's axes: 0 left-right, 1 front-back, 2 foot-head; each comes once."""
    directions = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    best = max(permutations(range(3)), key=lambda order: sum(abs(directions[order[n], n]) for n in range(3)))
    return (best[0], best[1], best[2])


def axis_codes(affine: np.ndarray) -> str:
    """Where i, j and k lead to, e.g. `RAS` for the identity."""
    return "".join(
        _CODES[world][int(affine[world, axis] > 0)] for axis, world in enumerate(world_axes(affine))
    )


def is_sound(affine: np.ndarray) -> bool:
    """Whether an affine maps a grid to a grid: finite, and no axis collapsed."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return bool((lengths > 0).all()) and abs(float(np.linalg.det(affine[:3, :3] / lengths))) > 1e-3
