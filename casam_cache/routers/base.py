"""What every router is: a density fitted to one task's pooled vectors, which scores any vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel

from casam_cache.errors import CasamError

ROWS = 16
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One router to fit.

    Attributes:
        features: float32 (N, D), one row an image, in the order of their ids.
        options: the router's `Options`.
        seed, task: what every random choice belongs to.
        rows: int64, the rows to fit on; a fold leaves some out.
    """

    features: np.ndarray
    options: BaseModel
    seed: int
    task: str
    rows: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        """float64 (n, D): the rows to fit on."""
        return self.features[self.rows].astype(np.float64)


class Router(ABC):
    """One task's fitted density.

    `fit` knows the training vectors of its own task and nothing else, so that a router is the same in every order of
    the tasks. It may depend on nothing but its job: draw with `fingerprint.generator(job.seed, job.task, ...)`.

    Attributes:
        name: for `--set router=...`, in files and tables.
        Options: model of its options, each a `--set`; all have defaults, and no other router or pooling may have one
            of the same name.
        revision: raised when the same options would give another result; for a router from a user's file, the SHA-256
            of that file.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]]
    revision: ClassVar[int | str] = 1

    @classmethod
    @abstractmethod
    def fit(cls, job: Job) -> Self:
        """The router of one task, from `job.vectors`."""

    @classmethod
    def fit_many(cls, jobs: Sequence[Job], progress: Progress | None = None) -> list[Self]:
        """One router a job, as `fit` gives it; a job's result depends on no other.

        Args:
            jobs: all tasks, folds, options and seeds that are wanted at once.
            progress: called with what is done and how much there is.
        """
        fitted = []
        for job in jobs:
            fitted.append(cls.fit(job))
            if progress is not None:
                progress(len(fitted), len(jobs))
        return fitted

    @abstractmethod
    def score(self, features: np.ndarray) -> np.ndarray:
        """How little each row is like the task: float32 (M, D) -> float64 (M,), lower is more like it.

        A row's bits depend on nothing but the row; see `by_blocks` for matrix products.
        """

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything that is kept of the task, as named arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        """The router that gave `state`.

        Raises:
            KeyError, ValueError: if arrays are missing or do not fit together.
        """

    def calibrated(self, held_out: Sequence[tuple[np.ndarray, Self]]) -> Self:
        """This router with what it wants to keep of the K folds; most keep nothing.

        Args:
            held_out: of each fold the held-out vectors (N_k, D) and the router fitted on the others.
        """
        return self

    @classmethod
    def combine(
        cls, routers: Sequence[Self], held_out: Sequence[np.ndarray]
    ) -> list[tuple[Self, np.ndarray]]:
        """The routers of the tasks seen so far as they are among each other; most stay as they are.

        Args:
            routers: in sorted order of their tasks' names, so that sums have the same bits in every order.
            held_out: float64 (N,) each, the scores that the router's threshold comes from.

        Returns:
            Each router, with its held-out scores.
        """
        return list(zip(routers, held_out, strict=True))

    @classmethod
    def decisive(cls, options: BaseModel) -> dict[str, Any]:
        """Of the options those that a fit depends on, as plain JSON."""
        return options.model_dump(mode="json")

    @property
    def stored_numbers(self) -> int:
        """How many numbers are kept of the task."""
        return sum(array.size for array in self.state().values())

    @property
    def stored_bytes(self) -> int:
        """How many bytes they take."""
        return sum(array.nbytes for array in self.state().values())

    @property
    def trained_parameters(self) -> int:
        """How many numbers an optimiser trained, as the paper counts parameters."""
        return 0


def scores_of(router: Router, features: np.ndarray, task: str) -> np.ndarray:
    """`router.score`, checked: float64 (M,).

    Raises:
        CasamError: it gives something else, or NaN.
    """
    scores = np.asarray(router.score(np.ascontiguousarray(features, dtype=np.float32)))
    if scores.shape != (len(features),) or scores.dtype != np.float64:
        raise CasamError(
            f"router {router.name} of {task}: the scores of {len(features)} images are {scores.dtype} {scores.shape},"
            f" expected float64 ({len(features)},)"
        )
    if np.isnan(scores).any():
        raise CasamError(
            f"router {router.name} of {task}: the score of image {np.isnan(scores).argmax()} is NaN"
        )
    return scores


def by_blocks(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """`function` over rows (M, D) in blocks of exactly 16, the last filled with zeros.

    A matrix product may sum in another order for another number of rows. Here it always has 16, so that an image has
    the same bits whatever images are scored beside it.

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


def check_features(features: np.ndarray, task: str) -> np.ndarray:
    """The features as a contiguous float32 (N, D).

    Raises:
        CasamError: for fewer than two rows, another shape, or a row that is not finite.
    """
    array = np.asarray(features)
    if array.ndim != 2 or not array.shape[1]:
        raise CasamError(f"router of {task}: features of shape {array.shape}, expected (images, channels)")
    if len(array) < 2:
        raise CasamError(
            f"router of {task}: {len(array)} training image{'' if len(array) == 1 else 's'}, a router needs two",
            "give the task more training images",
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise CasamError(
            f"router of {task}: the features of training image {bad[0]} (counted from 0) are not finite,"
            f" {len(bad)} such in all",
            "`casam store verify` checks what is stored",
        )
    return np.ascontiguousarray(array, dtype=np.float32)
