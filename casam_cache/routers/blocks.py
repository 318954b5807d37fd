"""Sums that give an image the same bits whatever images are scored beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ROWS = 16


def by_blocks(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """`function` over rows (M, D) in blocks of exactly 16, the last filled with zeros.

    A matrix product may sum in another order for another number of rows. Here it always has 16.

    Args:
        function: float64 (16, D) -> float64 (16,), each result from its own row alone.
        rows: (M, D), any float dtype.

    Returns:
        float64 (M,).
    """
    padded = np.zeros((-(-len(rows) // ROWS) * ROWS, rows.shape[1]), dtype=np.float64)
    padded[: len(rows)] = rows
    results = [function(padded[start : start + ROWS]) for start in range(0, len(padded), ROWS)]
    return np.concatenate(results)[: len(rows)] if results else np.zeros(0)
