"""Outlines of masks as SVG paths: sharp at any size, and a few hundred bytes each."""

from __future__ import annotations

import math

import numpy as np

from casam_cache.cutout import Cutout

FINEST = 800  # pixels: longer sides are averaged before they are traced
TOLERANCE = 0.35  # of a displayed pixel


def outline(mask: np.ndarray | Cutout, scale: float) -> str:
    """The edges of a mask's pixels, as the `d` of an SVG path with even-odd filling; empty for an empty mask.

    Args:
        mask: bool (H, W), or the part of it that holds it.
        scale: displayed pixels a pixel of the mask.
    """
    from contourpy import contour_generator

    cutout = mask if isinstance(mask, Cutout) else Cutout.of(mask)
    if not cutout.pixels.any():
        return ""
    cutout = cutout.tight()
    inside = cutout.pixels
    step = math.ceil(max(inside.shape) / FINEST)
    grid = _averaged(inside, step)
    padded = np.pad(grid, 1)
    parts = []
    extent = max(inside.shape) * scale
    digits = 1 if extent < 150 else 0
    tolerance = min(TOLERANCE, extent / 200)
    for line in contour_generator(z=padded, name="serial").lines(0.5):
        # Index i of the padded grid is the middle of the pixels from (i - 1) * step on.
        points = ((np.asarray(line) - 0.5) * step + (cutout.left, cutout.top)) * scale
        points = np.round(_simplified(points, tolerance), digits)
        if part := _path(points, digits):
            parts.append(part)
    return "".join(parts)


def _averaged(inside: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return inside.astype(np.float32)
    height, width = (-(-side // step) * step for side in inside.shape)
    whole = np.zeros((height, width), np.float32)
    whole[: inside.shape[0], : inside.shape[1]] = inside
    averaged: np.ndarray = whole.reshape(height // step, step, width // step, step).mean(axis=(1, 3))
    return averaged


def _simplified(points: np.ndarray, tolerance: float) -> np.ndarray:
    from matplotlib.path import Path

    path = Path(points)
    path.should_simplify = True
    path.simplify_threshold = tolerance
    cleaned = path.cleaned(simplify=True)
    vertices: np.ndarray = np.asarray(cleaned.vertices)
    if cleaned.codes is None:
        return vertices
    kept: np.ndarray = vertices[np.isin(cleaned.codes, (Path.MOVETO, Path.LINETO))]
    return kept


def _path(points: np.ndarray, digits: int) -> str:
    """Relative steps, without such as go nowhere."""
    steps = np.diff(points, axis=0)
    steps = np.round(steps[np.abs(steps).sum(axis=1) > 0], digits)
    if len(steps) < 2:
        return ""
    start = f"M{_number(points[0, 0])} {_number(points[0, 1])}"
    return start + "".join(f"l{_number(x)} {_number(y)}" for x, y in steps) + "z"


def _number(value: float) -> str:
    return f"{value:g}" if value else "0"
