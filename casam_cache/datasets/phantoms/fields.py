"""Smooth random fields: what label maps, warps, textures and shading are made of."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def resize(
    array: np.ndarray, height: int, width: int, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """A float32 array (h, w) resampled bicubically to (height, width), from `box` of it when given."""
    picture = Image.fromarray(np.ascontiguousarray(array, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))


def field(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """A smooth random field, float32 (height, width), mean about 0 and deviation about 1.

    Args:
        rng: where the numbers come from.
        height: rows, pixels.
        width: columns, pixels.
        cell: distance over which the field changes, pixels; at or below 1 it is white noise.
    """
    if cell <= 1.0:
        return rng.standard_normal((height, width), dtype=np.float32)
    rows, columns = height / cell, width / cell
    coarse = rng.standard_normal((math.ceil(rows) + 3, math.ceil(columns) + 3), dtype=np.float32)
    top, left = rng.uniform(1, 2, 2)
    smooth = resize(coarse, height, width, (left, top, left + columns, top + rows))
    return smooth * np.float32(1.25)  # interpolation between independent nodes loses a fifth of the deviation


def fractal(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 3) -> np.ndarray:
    """Octaves of `field`, each twice as fine and 0.6 as strong as the last; deviation about 1."""
    total = field(rng, height, width, cell)
    weight, power = 1.0, 1.0
    for octave in range(1, octaves):
        weight *= 0.6
        power += weight * weight
        total = total + np.float32(weight) * field(rng, height, width, cell / 2**octave)
    return total / np.float32(math.sqrt(power))


def texture(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """One random texture, float32 (height, width), deviation about 1: grain, clouds, dots, stripes or ridges.

    Args:
        rng: where the numbers come from.
        height: rows, pixels.
        width: columns, pixels.
        unit: typical size of a detail, pixels.
    """
    kind = rng.integers(6)
    if kind == 0:
        return field(rng, height, width, 1.0)
    if kind == 1:
        return fractal(rng, height, width, 4 * unit, 4)
    if kind == 2:  # nuclei-like dots
        dots = np.clip((field(rng, height, width, 1.5 * unit) - rng.uniform(0.6, 1.3)) * 3, 0, 1)
        return (dots - dots.mean()) * np.float32(2.8)
    if kind == 3:  # stripes along a warped direction
        angle = rng.uniform(0, math.pi)
        rows = np.arange(height, dtype=np.float32)[:, None] * np.float32(math.sin(angle))
        columns = np.arange(width, dtype=np.float32)[None, :] * np.float32(math.cos(angle))
        phase = (rows + columns) * np.float32(2.2 / unit) + field(rng, height, width, 12 * unit) * np.float32(
            2
        )
        return np.sin(phase) * np.float32(1.4)
    if kind == 4:  # ridges, fibres
        return (np.float32(0.8) - np.abs(fractal(rng, height, width, 3 * unit, 2))) * np.float32(1.6)
    return field(rng, height, width, unit)
