"""What every pooling is: a way of making one vector of an embedding, over the cells of the grid that hold image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel

from casam_cache.errors import CasamError

Valid = tuple[int, int]
Read = Callable[[int], tuple[np.ndarray, Valid | None]]


class Pooling(ABC):
    """One vector of each embedding.

    A `learned` one is fitted to the training images of each task; the threshold of the task's router comes from images
    that were held out, and these may not have been seen by their pooling either: `fit_folds`.

    Attributes:
        name: for `--set pooling=...`, in files and tables.
        Options: model of its options, each a `--set`; all have defaults, and no other router or pooling may have one
            of the same name.
        revision: raised when the same options would give another result; for a pooling from a user's file, the SHA-256
            of that file.
        learned: whether it is fitted to each task; then `fit_folds`, `state` and `from_state` are its own too.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]]
    revision: ClassVar[int | str] = 1
    learned: ClassVar[bool] = False

    def __init__(self, options: BaseModel) -> None:
        self.options: Any = options

    @abstractmethod
    def pool(self, embedding: np.ndarray, valid: Valid | None = None) -> np.ndarray:
        """(C, h, w) -> float32 (D,).

        Args:
            embedding: any float dtype.
            valid: rows and columns of the grid that hold image (`Geometry.valid_grid`); None: all.
        """

    @classmethod
    def fit_folds(
        cls, read: Read, count: int, folds: np.ndarray, options: BaseModel, *, seed: int, task: str
    ) -> list[Self]:
        """A learned pooling fitted to all training images of a task, then one without each of the K > 1 folds.

        Args:
            read: an image's embedding (C, h, w) and valid cells, by its place among the training images.
            count: N, how many there are.
            folds: int64 (N,), which of the K folds holds out each image; K = 1 asks for the first one alone.
            options: of the pooling.
            seed: what every random choice belongs to, with `task`.
            task: its name.
        """
        raise NotImplementedError(f"{cls.__name__} is learned, and defines no fit_folds")

    def state(self) -> dict[str, np.ndarray]:
        """What was learned of a task, as named arrays."""
        return {}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        """The pooling that gave `state`.

        Raises:
            KeyError, ValueError: if arrays are missing or do not fit together.
        """
        return cls(options)


def pool_all(read: Read, count: int, poolings: Sequence[Pooling]) -> list[np.ndarray]:
    """Every image in several ways, from one reading of its embedding: float32 (N, D) of each pooling.

    Raises:
        CasamError: a pooling gives no finite float32 vector of one width.
    """
    rows: list[list[np.ndarray]] = [[] for _ in poolings]
    for index in range(count):
        embedding, valid = read(index)
        for found, pooling in zip(rows, poolings, strict=True):
            found.append(pool_one(pooling, embedding, valid))
            if found[-1].shape != found[0].shape:
                raise CasamError(
                    f"pooling {pooling.name} gives {len(found[0])} numbers of one image, {len(found[-1])} of another"
                )
    return [np.stack(found) for found in rows]


def pool_one(pooling: Pooling, embedding: np.ndarray, valid: Valid | None = None) -> np.ndarray:
    """`pooling.pool`, checked.

    Raises:
        CasamError: it gives no finite float32 vector.
    """
    vector = pooling.pool(embedding, valid)
    if not (isinstance(vector, np.ndarray) and vector.ndim == 1 and vector.dtype == np.float32):
        shown = f"{vector.dtype} {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise CasamError(f"pooling {pooling.name} gives {shown}, expected a float32 vector")
    if not np.isfinite(vector).all():
        raise CasamError(f"pooling {pooling.name} gives a vector that is not finite")
    return vector
