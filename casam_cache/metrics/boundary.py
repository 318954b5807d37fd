"""Boundary IoU with a cap on its distance, for masks that are tiny against their image.

The distance is 2 % of the image's diagonal: 29 pixels in a tile of 1024, 566 in a slide of 20,000. A mask that is
nowhere wider than twice that is all boundary, and its Boundary IoU is its IoU. A cap of a few pixels makes it say
something.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from casam_cache.metrics.overlap import BoundaryIoU, boundary_iou, boundary_thickness

CAPPED = re.compile(r"biou_([1-9]\d{0,5})px")  # the name of a metric: `biou_5px`


@lru_cache
def capped_boundary(pixels: int) -> type[BoundaryIoU]:
    """Boundary IoU whose distance is min(pixels, `boundary_thickness` of the image); its name is `biou_{pixels}px`."""

    class CappedBoundaryIoU(BoundaryIoU):
        """Boundary IoU of a boundary that is never thicker than a given number of pixels."""

        name, label = f"biou_{pixels}px", f"BIoU {pixels} px"

        def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
            return boundary_iou(predicted, truth, min(pixels, boundary_thickness(*truth.shape)))

    return CappedBoundaryIoU


def boundary_note(iou: Sequence[float], boundary: Sequence[float]) -> str:
    """A line where Boundary IoU says no more than IoU of most masks; empty where it does.

    Args:
        iou: of each mask. Those of 0 or 1, or undefined, do not count: there both are the same of any mask.
        boundary: Boundary IoU of the same masks.
    """
    pairs = [(a, b) for a, b in zip(iou, boundary, strict=True) if not math.isnan(a) and 0 < a < 1]
    alike = sum(a == b for a, b in pairs)
    if not alike or 2 * alike < len(pairs):
        return ""
    return (
        f"Boundary IoU equals IoU for {alike} of {len(pairs)} masks: they are nowhere wider than twice its distance, "
        "2 % of the image's diagonal; --metric biou_3px scores it with a distance of at most 3 pixels too"
    )
