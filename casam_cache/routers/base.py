"""What every router is: a density fitted to one task's pooled vectors, which scores any vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from pydantic import BaseModel

from casam_cache.errors import CasamError


@dataclass(frozen=True)
class Job:
    """One scorer to fit.

    Attributes:
        features: float32 (N, D), one row an image, in the order of their ids.
        options: of the scorer (`RouterOptions.scorer()`).
        seed, task: what every random choice belongs to.
        rows: int64, the rows to fit on; a fold leaves some out.
    """

    features: np.ndarray
    options: BaseModel
    seed: int
    task: str
    rows: np.ndarray


class Scorer(ABC):
    """One task's fitted density.

    Attributes:
        kind: in options, files and tables.
    """

    kind: ClassVar[str]

    @abstractmethod
    def score(self, features: np.ndarray) -> np.ndarray:
        """How little each row is like the task: (M, D) -> float64 (M,), lower is more like it.

        A row's bits depend on nothing but the row.
        """

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything that is kept of the task, as named arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        """The scorer that gave `state`.

        Raises:
            KeyError, ValueError: if arrays are missing or do not fit together.
        """

    def calibrated(self, held_out: Sequence[tuple[np.ndarray, Scorer]]) -> Self:
        """This scorer with what it wants to keep of the K folds; most keep nothing.

        Args:
            held_out: of each fold the held-out vectors (N_k, D) and the scorer fitted on the others.
        """
        return self

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
