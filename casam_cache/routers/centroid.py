"""Nearest centroid: the sanity baseline of every other router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from casam_cache.routers.base import Job, Router


class CentroidOptions(BaseModel):
    """Distance to the task's mean: nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Centroid(Router):
    """s(f) = ||f - mean||^2 / D: what equation 6 becomes when the posterior collapses to the prior.

    Args:
        mean: float64 (D,), of the task's training vectors.
    """

    name = "centroid"
    Options = CentroidOptions

    def __init__(self, mean: np.ndarray) -> None:
        self.mean = mean

    @classmethod
    def fit(cls, job: Job) -> Self:
        return cls(job.vectors.mean(axis=0))

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.square(features.astype(np.float64) - self.mean).mean(axis=1)

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        return cls(state["mean"])
