"""Nearest centroid: the sanity baseline of every other router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel

from casam_cache.routers.base import Job, Scorer


class CentroidScorer(Scorer):
    """s(f) = ||f - mean||^2 / D: what equation 6 becomes when the posterior collapses to the prior.

    Args:
        mean: float64 (D,), of the task's training vectors.
    """

    kind = "centroid"

    def __init__(self, mean: np.ndarray) -> None:
        self.mean = mean

    def score(self, features: np.ndarray) -> np.ndarray:
        """(M, D) -> float64 (M,)."""
        return np.square(features.astype(np.float64) - self.mean).mean(axis=1)

    def state(self) -> dict[str, np.ndarray]:
        """The mean."""
        return {"mean": self.mean}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        """The scorer that gave `state`."""
        return cls(state["mean"])


def fit_many(jobs: Sequence[Job]) -> list[CentroidScorer]:
    """One centroid a job."""
    return [CentroidScorer(job.features[job.rows].astype(np.float64).mean(axis=0)) for job in jobs]
