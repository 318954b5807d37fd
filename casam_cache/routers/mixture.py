"""A Gaussian mixture with diagonal covariances, fitted by expectation and maximisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from casam_cache.fingerprint import generator
from casam_cache.routers.base import Job, Router

# Every component's variances count this many imagined vectors with the task's overall variance, so that a component
# of one image has a width, and none shrinks onto a point.
PRIOR_VECTORS = 2.0


class MixtureOptions(BaseModel):
    """A mixture of Gaussians with diagonal covariances.

    Attributes:
        components: how many Gaussians; at most as many as there are training vectors.
        iterations: of expectation and maximisation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    components: int = Field(default=2, ge=1)
    iterations: int = Field(default=50, ge=1)


class Mixture(Router):
    """s(f) = -log p(f) / D.

    Args:
        weights: float64 (k,), of the components.
        means: float64 (k, D).
        variances: float64 (k, D).
    """

    name = "gmm"
    Options = MixtureOptions

    def __init__(self, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> None:
        if not means.shape == variances.shape == (len(weights), *means.shape[1:]):
            raise ValueError("weights, means and variances do not fit together")
        self.weights, self.means, self.variances = weights, means, variances

    @classmethod
    def fit(cls, job: Job) -> Self:
        options = cast(MixtureOptions, job.options)
        vectors = job.vectors
        components = min(options.components, len(vectors))
        overall = vectors.var(axis=0)
        overall = np.maximum(overall, 1e-6 * overall.mean() or 1e-12)
        random = generator(job.seed, "gmm", job.task)
        means = _spread_out(vectors / np.sqrt(overall), components, random) * np.sqrt(overall)
        weights, variances = np.full(components, 1 / components), np.tile(overall, (components, 1))
        for _ in range(options.iterations):
            joint = _log_joint(vectors, weights, means, variances)
            shares = np.exp(joint - _log_sum(joint))  # (k, N)
            counts = shares.sum(axis=1)
            weights = counts / len(vectors)
            heavy = np.maximum(counts, 1e-12)[:, None]
            means = np.einsum("kn,nd->kd", shares, vectors, optimize=False) / heavy
            apart = np.square(vectors[None] - means[:, None])  # (k, N, D)
            scatter = np.einsum("kn,knd->kd", shares, apart, optimize=False)
            variances = (scatter + PRIOR_VECTORS * overall) / (heavy + PRIOR_VECTORS)
        return cls(weights, means, variances)

    def score(self, features: np.ndarray) -> np.ndarray:
        joint = _log_joint(features.astype(np.float64), self.weights, self.means, self.variances)
        return -_log_sum(joint)[0] / features.shape[1]

    def state(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights, "means": self.means, "variances": self.variances}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        return cls(state["weights"], state["means"], state["variances"])


def _spread_out(vectors: np.ndarray, components: int, random: np.random.Generator) -> np.ndarray:
    """First means (k, D): a drawn vector, then each time the one farthest from those chosen."""
    chosen = [int(random.integers(len(vectors)))]
    nearest = np.square(vectors - vectors[chosen[0]]).sum(axis=1)
    while len(chosen) < components:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(vectors - vectors[chosen[-1]]).sum(axis=1))
    return vectors[chosen]


def _log_joint(
    vectors: np.ndarray, weights: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """log(weight_k N(f_n; mean_k, variance_k)), float64 (k, N)."""
    rows = []
    for weight, mean, variance in zip(weights, means, variances, strict=True):
        exponent = (np.square(vectors - mean) / variance).sum(axis=1)
        rows.append(np.log(max(weight, 1e-300)) - 0.5 * (exponent + np.log(2 * np.pi * variance).sum()))
    return np.stack(rows)


def _log_sum(joint: np.ndarray) -> np.ndarray:
    """Log of the sum over components of exp, (k, N) -> (1, N)."""
    highest = joint.max(axis=0, keepdims=True)
    total: np.ndarray = highest + np.log(np.exp(joint - highest).sum(axis=0, keepdims=True))
    return total
