"""k nearest neighbours: an upper reference that breaks the rule, since it keeps every training vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from casam_cache.routers.base import Job, Router, by_blocks


class NeighbourOptions(BaseModel):
    """Mean distance to the nearest training vectors.

    Attributes:
        neighbours: how many (k); at most as many as there are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    neighbours: int = Field(default=3, ge=1)


class Neighbours(Router):
    """s(f) = mean over the k nearest training vectors x of ||f - x||^2 / D.

    Not exemplar-free in spirit: one vector of every training image stays behind (`stored_bytes` counts them).

    Args:
        kept: float32 (N, D), the training vectors.
        neighbours: k.
    """

    name = "knn"
    Options = NeighbourOptions

    def __init__(self, kept: np.ndarray, neighbours: int) -> None:
        self.kept = kept
        self.neighbours = min(neighbours, len(kept))
        self._exact = kept.astype(np.float64)
        self._squares = np.square(self._exact).sum(axis=1)

    @classmethod
    def fit(cls, job: Job) -> Self:
        return cls(job.features[job.rows], cast(NeighbourOptions, job.options).neighbours)

    def score(self, features: np.ndarray) -> np.ndarray:
        def nearest(block: np.ndarray) -> np.ndarray:
            squares = np.square(block).sum(axis=1)[:, None] + self._squares - 2 * (block @ self._exact.T)
            closest = np.partition(squares, self.neighbours - 1, axis=1)[:, : self.neighbours]
            return np.sort(np.maximum(closest, 0), axis=1).mean(axis=1) / block.shape[1]

        return by_blocks(nearest, features)

    def state(self) -> dict[str, np.ndarray]:
        return {"kept": self.kept}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        return cls(state["kept"], cast(NeighbourOptions, options).neighbours)
