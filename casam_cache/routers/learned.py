"""Attention pooling with a trained query (Table 5, "with params"). The paper does not say what trains it.

f = sum over cells of softmax(w . Z[:, h, w] / (sqrt(C) T)) Z[:, h, w], with one w in R^C a task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LearnedPooling:
    """A task's fitted pooling.

    Attributes:
        query: float32 (C,), w.
        temperature: T.
    """

    query: np.ndarray
    temperature: float = 1.0

    def pool(self, embedding: np.ndarray, valid: tuple[int, int] | None = None) -> np.ndarray:
        """(C, h, w) -> float32 (C,), summed in float64 without BLAS."""
        rows, columns = valid if valid is not None else embedding.shape[1:]
        cells = embedding[:, :rows, :columns].reshape(len(embedding), -1).astype(np.float64)
        scores = np.einsum("c,cn->n", self.query.astype(np.float64), cells, optimize=False)
        scores = scores / (np.sqrt(len(cells)) * self.temperature)
        weights = np.exp(scores - scores.max())
        return np.einsum("cn,n->c", cells, weights / weights.sum(), optimize=False).astype(np.float32)
