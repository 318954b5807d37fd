"""Features as int8: affine per channel and image, so that every channel uses all 256 levels.

With q the stored integer, x the value the encoder gave and one scale s and offset o for each channel of each image,

    x ~ s q + o,    s = (max x - min x) / 255,    o = min x + 128 s,    q = round((x - min x) / s) - 128

The error of a value is at most s / 2. What a reader gets is s q + o in float32, rounded to float16.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from casam_cache.errors import StoreError

LEVELS = 255


def quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The integers, scales and offsets of one item.

    Args:
        values: (C, ...), any float dtype.

    Returns:
        int8 (C, ...), float32 (C,), float32 (C,). A channel that holds one value has scale 0 and that offset.

    Raises:
        StoreError: for values that are not finite in float16, which is what is read back.
    """
    cells = np.asarray(values, dtype=np.float32).reshape(len(values), -1)
    low, high = cells.min(axis=1), cells.max(axis=1)
    if not max(np.abs(low).max(), np.abs(high).max()) <= np.finfo(np.float16).max:
        raise StoreError(
            "a feature is not finite", "the precision may be too low for this backbone: try --precision fp32"
        )
    scale = ((high - low) / np.float32(LEVELS)).astype(np.float32)
    flat = scale < np.finfo(np.float32).tiny  # also where the range is too small to divide by
    scale[flat] = 0
    steps = cells - low[:, None]
    steps /= np.where(flat, np.float32(1), scale)[:, None]
    np.rint(steps, out=steps)
    steps -= np.float32(128)
    np.clip(steps, -128, 127, out=steps)
    steps[flat] = 0
    offset = np.where(flat, low, low + np.float32(128) * scale).astype(np.float32)
    return steps.astype(np.int8).reshape(values.shape), scale, offset


def dequantise(stored: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """float16 (C, ...) from what `quantise` gave."""
    return to_half(_expand(stored, scale, offset))


def _expand(stored: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    shape = (-1, *(1,) * (stored.ndim - 1))
    values: np.ndarray = np.multiply(stored, scale.reshape(shape), dtype=np.float32)
    values += offset.reshape(shape)
    return values


def to_half(values: np.ndarray) -> np.ndarray:
    """Rounded to float16; by torch where it is loaded: the same bits, an order of magnitude sooner than by numpy."""
    torch: Any = sys.modules.get("torch")
    if (
        torch is None
        or values.dtype != np.float32
        or not (values.flags.writeable and values.flags.c_contiguous)
    ):
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.float16, copy=False)
    half: np.ndarray = torch.from_numpy(values).half().numpy()
    return half


def stored_dtype(shape: Sequence[int], dtype: str) -> str:
    """Vectors are small and never quantised: a store of `int8` holds them as float16."""
    return "float16" if dtype == "int8" and len(shape) != 3 else dtype


def as_read(values: np.ndarray, dtype: str) -> np.ndarray:
    """A feature of one image as a store of `dtype` would give it back."""
    dtype = stored_dtype(values.shape, dtype)
    return dequantise(*quantise(values)) if dtype == "int8" else values.astype(dtype)


def quantisation_error(
    values: np.ndarray, stored: np.ndarray, scale: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """float32 (2,): the largest error over the largest value, and the RMS error over the RMS value.

    Args:
        values: what the encoder gave, (C, ...).
        stored: the integers that `quantise` made of it.
        scale: its scales, (C,).
        offset: its offsets, (C,).
    """
    wanted = np.asarray(values, dtype=np.float32)
    error = _expand(stored, scale, offset)
    error -= wanted
    largest = max(wanted.max(), -wanted.min())
    if not largest:
        return np.zeros(2, dtype=np.float32)
    rms = np.sqrt(_squares(error) / _squares(wanted))
    return np.array([max(error.max(), -error.min()) / largest, rms], dtype=np.float32)


def _squares(values: np.ndarray) -> float:
    """The sum of squares; sums of a channel in float32, of channels in float64."""
    return float(np.square(values).reshape(len(values), -1).sum(axis=1).sum(dtype=np.float64))
