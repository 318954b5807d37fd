"""Mahalanobis distance: with a covariance that all tasks seen share, or with each task's own.

Both keep statistics of a task and nothing of an image: number, mean and scatter of its training vectors. For the
shared covariance also a scatter of what each fold held out: from it follows a threshold for every set of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from casam_cache.errors import OptionError
from casam_cache.routers.base import Job, Router, by_blocks


class MahalanobisOptions(BaseModel):
    """Distance to the task's mean in the metric of a covariance.

    Attributes:
        covariance: `shared` by all tasks seen so far, or each task's `own`.
        shrinkage: weight of a multiple of the identity in the covariance; None: the oracle approximating
            shrinkage, from the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    covariance: Literal["shared", "own"] = "shared"
    shrinkage: float | None = Field(default=None, ge=0, le=1)


@dataclass(frozen=True)
class HeldOut:
    """What is kept of the vectors that the K folds held out.

    Attributes:
        sizes: int64 (K,), vectors held out.
        moments: float64 (K, D, D), sum of d d^T, where d is a held-out vector less the mean of the others.
        shifts: float64 (K, D), the mean of those d.
    """

    sizes: np.ndarray
    moments: np.ndarray
    shifts: np.ndarray


class Metric:
    """The inverse of a shrunk covariance, of a scatter (D, D) with so many degrees of freedom."""

    def __init__(self, scatter: np.ndarray, degrees: int, shrinkage: float | None) -> None:
        values, vectors = np.linalg.eigh(shrunk(scatter / max(1, degrees), degrees, shrinkage))
        self.log_determinant = float(np.log(values).sum())
        self._whiten = vectors / np.sqrt(values)

    def squared(self, apart: np.ndarray) -> np.ndarray:
        """d^T S^-1 d of each row d, (M, D) -> float64 (M,)."""
        whitened: np.ndarray = np.square(apart @ self._whiten)
        return whitened.sum(axis=1)

    def summed(self, moment: np.ndarray) -> float:
        """Sum of d^T S^-1 d over vectors whose d d^T sum to `moment` (D, D)."""
        return float(np.trace(self._whiten.T @ moment @ self._whiten))


class Mahalanobis(Router):
    """s(f) = (f - mean)^T S^-1 (f - mean) / D; with an own covariance plus log det S / D.

    The determinant makes scores in different metrics comparable: s is then a Gaussian's negative log density, up to
    a factor and a constant. With a shared S it is the same for all tasks and left out.

    Args:
        count: n, training vectors.
        mean: float64 (D,).
        scatter: float64 (D, D), sum of (f - mean)(f - mean)^T.
        options: `covariance` and `shrinkage`.
        held_out: of the folds, for the shared covariance.
        metric: None: from this task alone.
    """

    name = "mahalanobis"
    Options = MahalanobisOptions

    def __init__(
        self,
        count: int,
        mean: np.ndarray,
        scatter: np.ndarray,
        options: MahalanobisOptions,
        held_out: HeldOut | None = None,
        metric: Metric | None = None,
    ) -> None:
        if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
            raise ValueError("mean and scatter do not fit together")
        self.count, self.mean, self.scatter = count, mean, scatter
        self.options, self.held_out = options, held_out
        self._metric = metric or Metric(scatter, count - 1, options.shrinkage)

    @classmethod
    def fit(cls, job: Job) -> Self:
        """Distances are in the metric of its own task."""
        vectors = job.vectors
        mean = vectors.mean(axis=0)
        return cls(len(vectors), mean, _scatter(vectors - mean), cast(MahalanobisOptions, job.options))

    def score(self, features: np.ndarray) -> np.ndarray:
        squared = by_blocks(lambda block: self._metric.squared(block - self.mean), features)
        if self.options.covariance == "own":
            squared = squared + self._metric.log_determinant
        return squared / len(self.mean)

    def calibrated(self, held_out: Sequence[tuple[np.ndarray, Self]]) -> Self:
        """Keeps `HeldOut` for the shared covariance."""
        if self.options.covariance == "own" or not held_out:
            return self
        apart = [features.astype(np.float64) - fold.mean for features, fold in held_out]
        kept = HeldOut(
            np.array([len(rows) for rows in apart]),
            np.stack([_scatter(rows) for rows in apart]),
            np.stack([rows.mean(axis=0) for rows in apart]),
        )
        return type(self)(self.count, self.mean, self.scatter, self.options, kept, self._metric)

    def state(self) -> dict[str, np.ndarray]:
        state = {"count": np.array([self.count]), "mean": self.mean, "scatter": self.scatter}
        if self.held_out is not None:
            kept = self.held_out
            state |= {"sizes": kept.sizes, "moments": kept.moments, "shifts": kept.shifts}
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        kept = HeldOut(state["sizes"], state["moments"], state["shifts"]) if "sizes" in state else None
        count = int(state["count"][0])
        return cls(count, state["mean"], state["scatter"], cast(MahalanobisOptions, options), kept)

    @classmethod
    def combine(
        cls, routers: Sequence[Self], held_out: Sequence[np.ndarray]
    ) -> list[tuple[Self, np.ndarray]]:
        """With `covariance=shared`, the routers in the metric of their pooled within-task covariance.

        A task's held-out vectors are gone when the next task comes. Their scores in the new metric are taken to be
        those in the task's own metric times one factor, which makes their mean exact: the mean over folds of
        tr(S_-k^-1 M_k), with M_k the fold's held-out moment and S_-k the shared covariance without the fold's vectors.
        With one task the factor is 1.

        Raises:
            OptionError: if a covariance is to be shared by features of different width.
        """
        if any(router.options.covariance == "own" for router in routers):
            return list(zip(routers, held_out, strict=True))
        if len({router.mean.shape for router in routers}) > 1:
            raise OptionError("tasks with features of different width cannot share a covariance")
        degrees = sum(router.count - 1 for router in routers)
        total = np.zeros_like(routers[0].scatter)
        for router in routers:
            total = total + router.scatter
        shared = []
        for one, scores in zip(routers, held_out, strict=True):
            metric = Metric(total, degrees, one.options.shrinkage)
            moved = cls(one.count, one.mean, one.scatter, one.options, one.held_out, metric)
            shared.append((moved, scores * _factor(one, scores, total, degrees)))
        return shared


def shrunk(covariance: np.ndarray, degrees: int, shrinkage: float | None) -> np.ndarray:
    """(1 - r) covariance + r tr(covariance) / D identity, float64 (D, D), positive definite.

    Args:
        covariance: (D, D).
        degrees: of freedom behind it.
        shrinkage: r; None: the oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (2010).
    """
    size = len(covariance)
    scale = np.trace(covariance) / size
    if scale <= 0:
        return np.eye(size)  # training vectors without any spread: plain Euclidean distance
    if shrinkage is None:
        # Their equation 23 divided by D^2 above and below, without the terms in 1/D that they drop in practice.
        mean_square = np.square(covariance).sum() / size**2
        under = (max(1, degrees) + 1) * (mean_square - scale**2 / size)
        shrinkage = 1.0 if under <= 0 else min(1.0, (mean_square + scale**2) / under)
    ridge = max(shrinkage, 1e-6)  # with fewer images than channels a covariance alone has no inverse
    return (1 - ridge) * covariance + ridge * scale * np.eye(size)


def _factor(router: Mahalanobis, scores: np.ndarray, total: np.ndarray, degrees: int) -> float:
    """New mean of held-out scores over their mean in the task's own metric."""
    kept = router.held_out
    if kept is None or not len(scores) or not scores.sum() > 0:
        return 1.0
    new = 0.0
    for size, moment, shift in zip(kept.sizes, kept.moments, kept.shifts, strict=True):
        # The scatter without the fold: an identity of sums of squares about two means.
        gone = moment - size**2 / router.count * np.outer(shift, shift)
        metric = Metric(total - gone, degrees - int(size), router.options.shrinkage)
        new += metric.summed(moment)
    return new / len(router.mean) / float(scores.sum())


def _scatter(apart: np.ndarray) -> np.ndarray:
    """Sum of d d^T over rows d, (N, D) -> (D, D), without BLAS, whose order of summation varies."""
    scatter: np.ndarray = np.einsum("nc,nd->cd", apart, apart, optimize=False)
    return scatter
