"""How well a predicted object covers the true one in a volume: Dice and IoU of voxels, distances of surfaces in mm.

Where both are empty everything is undefined and NaN. Where one of the two is empty Dice and IoU are 0, and distances
are undefined and NaN: there is no surface to measure to. What is NaN is left out of means and counted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from casam_cache.errors import CasamError
from casam_cache.metrics.base import MetricFacts

VOLUME_METRICS = (
    MetricFacts("dice", "3D Dice"),
    MetricFacts("iou", "3D IoU"),
    MetricFacts("assd", "ASSD, mm", "low", percent=False),
    MetricFacts("hd95", "HD95, mm", "low", percent=False),
)
PERCENTILE = 95


@dataclass(frozen=True)
class VolumeScore:
    """One object of one volume.

    Attributes:
        dice, iou: of voxels, in [0, 1].
        assd: average symmetric surface distance, mm: the mean distance of both surfaces' elements to the other surface,
            each element weighing what its area is.
        hd95: the larger of the two 95th percentiles of those distances, by area, mm.
    """

    dice: float
    iou: float
    assd: float
    hd95: float


def score_volume(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> VolumeScore:
    """Scores one object.

    Args:
        predicted: bool (D, H, W).
        truth: bool (D, H, W).
        spacing: mm from voxel to voxel along each axis; None where it is unknown: then there are no distances.

    Raises:
        ValueError: masks of different shapes, or a spacing that is not three positive numbers.
        CasamError: surface-distance is not installed and there is a spacing.
    """
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise ValueError(
            f"volumes of shapes {predicted.shape} and {truth.shape}: two equal (D, H, W) are needed"
        )
    predicted, truth = predicted.astype(bool, copy=False), truth.astype(bool, copy=False)
    both, either = int(np.count_nonzero(predicted & truth)), int(np.count_nonzero(predicted | truth))
    assd, hd95 = (math.nan, math.nan) if spacing is None else surface_distances(predicted, truth, spacing)
    if not either:
        return VolumeScore(math.nan, math.nan, assd, hd95)
    return VolumeScore(2 * both / (both + either), both / either, assd, hd95)


def surface_distances(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[float, float]:
    """Average symmetric surface distance and HD95, mm; NaN where a mask is empty. Arguments as of `score_volume`.

    What lies outside the volume counts as background: a mask that is cut off at its edge has a surface there.

    Raises:
        ValueError: a spacing that is not three positive numbers.
        CasamError: surface-distance is not installed.
    """
    steps = [float(step) for step in spacing]
    if len(steps) != 3 or not all(math.isfinite(step) and step > 0 for step in steps):
        raise ValueError(f"a spacing of {steps}: three positive numbers of mm are needed")
    if not predicted.any() or not truth.any():
        return math.nan, math.nan
    library = require_surface_distance()
    with warnings.catch_warnings():
        # The library names scipy's functions by namespaces that scipy has moved.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = library.compute_surface_distances(truth, predicted, steps)
    there, back = found["distances_gt_to_pred"], found["distances_pred_to_gt"]
    areas, others = found["surfel_areas_gt"], found["surfel_areas_pred"]
    total = float(np.sum(there * areas) + np.sum(back * others))
    assd = total / float(np.sum(areas) + np.sum(others))
    return assd, float(library.compute_robust_hausdorff(found, PERCENTILE))


def require_surface_distance() -> ModuleType:
    """The library that measures surfaces.

    Raises:
        CasamError: it is not installed.
    """
    try:
        import surface_distance
    except ImportError as error:
        raise CasamError(
            f"distances of surfaces in volumes need the package surface-distance: {error}",
            "pip install 'casam-cache[medical]'",
        ) from None
    module: ModuleType = surface_distance
    return module
