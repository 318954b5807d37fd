"""Masks as run lengths: row-major, runs of zeros and ones in turn, the zeros (perhaps none) first."""

from __future__ import annotations

import numpy as np

RUN = np.dtype(np.uint32)


def encode(bitmap: np.ndarray) -> np.ndarray:
    """A mask, bool (H, W) -> its run lengths, uint32 (runs,); they add up to H * W."""
    flat = np.ascontiguousarray(bitmap, dtype=bool).reshape(-1)
    if not flat.size:
        return np.zeros(0, dtype=RUN)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], [0] if flat[0] else [], changes, [flat.size]])
    return np.diff(bounds).astype(RUN)


def decode(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of `encode`: run lengths -> bool (H, W).

    Raises:
        ValueError: where the runs do not fill H * W pixels.
    """
    bits = np.zeros(len(runs), dtype=bool)
    bits[1::2] = True
    flat = np.repeat(bits, runs)
    if flat.size != size[0] * size[1]:
        raise ValueError(f"runs of {flat.size} pixels do not make a mask of {size[0]} x {size[1]}")
    return flat.reshape(size)
