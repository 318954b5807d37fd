"""Poolings of an embedding to one vector, over the cells of the grid that hold image."""

from __future__ import annotations

import numpy as np


def _cells(embedding: np.ndarray, valid: tuple[int, int] | None) -> np.ndarray:
    rows, columns = valid if valid is not None else embedding.shape[1:]
    cells = embedding[:, :rows, :columns]
    return cells.reshape(len(cells), -1).astype(np.float64)


def attention_pool(
    embedding: np.ndarray, valid: tuple[int, int] | None = None, temperature: float = 1.0
) -> np.ndarray:
    """Equation 5 of the paper: f = sum over cells of alpha Z, alpha = softmax(||Z[:, h, w]||_2 / (C T)).

    Args:
        embedding: (C, h, w), any float dtype.
        valid: rows and columns of the grid that hold image (`Geometry.valid_grid`); None: all.
        temperature: T, a factor on the C channels.

    Returns:
        float32 (C,), accumulated in float64 without BLAS, so that the bits do not depend on threads.
    """
    cells = _cells(embedding, valid)
    norms = np.sqrt(np.einsum("cn,cn->n", cells, cells, optimize=False))
    scores = norms / (len(cells) * temperature)
    weights = np.exp(scores - scores.max())
    pooled = np.einsum("cn,n->c", cells, weights / weights.sum(), optimize=False)
    return pooled.astype(np.float32)


def mean_pool(embedding: np.ndarray, valid: tuple[int, int] | None = None) -> np.ndarray:
    """The mean over valid cells, (C, h, w) -> float32 (C,), accumulated in float64."""
    return _cells(embedding, valid).mean(axis=1).astype(np.float32)
