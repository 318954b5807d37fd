"""Masks at original resolution -> targets on the low-res grid, by two fixed area-averaging matrices.

The loss is computed on the low-res logits (4g x 4g): the backward of a bilinear upsampling has no
deterministic kernel on CUDA, and 4g is the resolution at which SAM itself was trained. A low-res cell covers
patch / 4 input pixels a side; its target is the share of the mask in the part of the original image it
covers, at least half counting as foreground. A mask too thin to fill half of any cell would vanish, so its
fullest cells stay.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from casam_cache.geometry import Geometry


def low_res_target(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A bool mask (H, W) at original resolution -> bool (4g, 4g); what lies in the padding is False.

    Raises:
        ValueError: if the mask is not of the geometry's original size.
    """
    if mask.shape != (geometry.height, geometry.width):
        raise ValueError(
            f"a mask of {mask.shape} for an image of {geometry.height} x {geometry.width} pixels"
        )
    rows, columns = _side(geometry, 0), _side(geometry, 1)
    used_rows = np.flatnonzero(mask.any(axis=1))
    target = np.zeros((len(rows), len(columns)), dtype=bool)
    if not len(used_rows):
        return target
    used_columns = np.flatnonzero(mask.any(axis=0))
    across = slice(used_columns[0], used_columns[-1] + 1)
    down = slice(used_rows[0], used_rows[-1] + 1)
    share = rows[:, down] @ mask[down, across].astype(np.float64) @ columns[:, across].T
    np.greater_equal(share, 0.5, out=target)
    if not target.any():
        np.equal(share, share.max(), out=target)
    return target


def low_res_cover(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """How much of each low-res row (4g,) and column (4g,) holds image, not padding: float32 in [0, 1].

    The weight of a low-res cell in the loss is the product of the two.
    """
    size = 4 * (geometry.image_size // geometry.patch_size)
    cell = geometry.image_size / size
    edges = np.arange(size) * cell
    rows, columns = (
        np.clip((valid - edges) / cell, 0, 1).astype(np.float32)
        for valid in (geometry.input_height, geometry.input_width)
    )
    return rows, columns


def _side(geometry: Geometry, axis: int) -> np.ndarray:
    original, valid = (
        (geometry.height, geometry.input_height) if axis == 0 else (geometry.width, geometry.input_width)
    )
    size = 4 * (geometry.image_size // geometry.patch_size)
    return area_matrix(original, valid, size, geometry.image_size)


@lru_cache(maxsize=64)
def area_matrix(original: int, valid: int, size: int, image_size: int) -> np.ndarray:
    """Float64 (size, original): each row averages the original pixels that one low-res cell covers.

    Args:
        original: original pixels along this axis.
        valid: input pixels they were resized to.
        size: low-res cells along the axis, 4g.
        image_size: S, input pixels along the axis, padding included.

    Returns:
        Rows that sum to 1, or to 0 where the cell holds padding only.
    """
    cell = image_size / size
    edges = np.minimum(np.arange(size + 1) * cell, valid) * (original / valid)
    pixels = np.arange(original)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.clip(overlap, 0, None)
    total = overlap.sum(axis=1, keepdims=True)
    matrix = np.divide(overlap, total, out=np.zeros_like(overlap), where=total > 0)
    matrix.flags.writeable = False
    return matrix
