"""Attention pooling with a trained query (Table 5, "with params").

f = sum over cells of alpha Z[:, h, w], alpha = softmax(w . Z[:, h, w] / (sqrt(C) T)), with one w in R^C a task.

The paper does not say what trains the query. The only loss there is is equation 6, and at the paper's beta the
posterior all but collapses to the prior: the decoder then gives one vector for all images, and the best it can give
is their mean. What is left of the loss is the spread of the task's pooled vectors,

    L(w) = 1/(N D) sum over images i of ||f_i - mean f||^2,

and that is what w minimises here: the query a VAE would train if it could reach into the pooling, without the VAE's
noise and at one fit for all values of beta. It sees the training images of its own task and no others. What is alike
in all images of a task may be alike in every task (empty margins): that is a property of the objective, not of this
program, and Table 5 too has the trained pooling below the parameter-free one.

Adam from w = 0, which is mean pooling; every step takes all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from pydantic import BaseModel

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.routers.pooling import Pooling, Read, Valid
from casam_cache.routers.poolings import TemperatureOptions

CELLS = 16384  # of a task enter the fit, as many of each image: drawn where it has more
STEPS = 100
LEARNING_RATE = 0.02
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


class Learned(Pooling):
    """A task's fitted pooling.

    Args:
        options: the temperature T.
        query: float32 (C,), w; None: not fitted yet.
    """

    name = "learned"
    Options = TemperatureOptions
    learned = True

    def __init__(self, options: BaseModel, query: np.ndarray | None = None) -> None:
        super().__init__(options)
        self.query = query

    @classmethod
    def fit_folds(
        cls, read: Read, count: int, folds: np.ndarray, options: BaseModel, *, seed: int, task: str
    ) -> list[Self]:
        """By `fit_query`, all from one sample of the images' cells."""
        sample = sample_cells(read, count, seed=seed, task=task)
        rows: list[np.ndarray | None] = [None]
        if folds.max():
            rows += [np.flatnonzero(folds != fold) for fold in range(int(folds.max()) + 1)]
        temperature = cast(TemperatureOptions, options).temperature
        return [cls(options, fit_query(sample, kept, temperature=temperature)) for kept in rows]

    def state(self) -> dict[str, np.ndarray]:
        return {} if self.query is None else {"query": self.query}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        return cls(options, state["query"])

    def pool(self, embedding: np.ndarray, valid: Valid | None = None) -> np.ndarray:
        """(C, h, w) -> float32 (C,), summed in float64 without BLAS.

        Raises:
            CasamError: for an embedding of another number of channels.
            ValueError: it has not been fitted.
        """
        if self.query is None:
            raise ValueError("learned pooling needs the query that was fitted to the task")
        if len(embedding) != len(self.query):
            raise CasamError(
                f"the learned pooling is for {len(self.query)} channels, the embedding has {len(embedding)}",
                "use the backbone that it was fitted with",
            )
        cells = _cells(embedding, valid).astype(np.float64)
        scores = np.einsum("nc,c->n", cells, self.query.astype(np.float64), optimize=False)
        scores = scores / (np.sqrt(cells.shape[1]) * self.options.temperature)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        return np.einsum("n,nc->c", weights, cells, optimize=False).astype(np.float32)


@dataclass(frozen=True)
class CellSample:
    """Cells of a task's training images, as many of each image.

    Attributes:
        cells: float64 (N, k, C); zeros where an image has fewer.
        absent: bool (N, k), which are such.
    """

    cells: np.ndarray
    absent: np.ndarray


def sample_cells(read: Read, count: int, *, seed: int, task: str) -> CellSample:
    """Up to `CELLS` / N cells of each of the N images, drawn for (seed, task, image).

    Args:
        read: an image's embedding (C, h, w) and valid cells, by its place among the training images.
        count: N.
        seed: what the draw belongs to, with `task`.
        task: its name.
    """
    wanted = max(1, CELLS // max(1, count))
    taken = []
    for place in range(count):
        cells = _cells(*read(place))
        if len(cells) > wanted:
            chosen = generator(seed, "cells", task, place).choice(len(cells), wanted, replace=False)
            cells = cells[np.sort(chosen)]
        taken.append(cells)
    width = max(len(cells) for cells in taken)
    all_cells = np.zeros((count, width, taken[0].shape[1]), dtype=np.float64)
    absent = np.ones((count, width), dtype=bool)
    for place, cells in enumerate(taken):
        all_cells[place, : len(cells)] = cells
        absent[place, : len(cells)] = False
    return CellSample(all_cells, absent)


def fit_query(
    sample: CellSample, rows: Sequence[int] | np.ndarray | None = None, *, temperature: float = 1.0
) -> np.ndarray:
    """The query that makes the pooled vectors of these images alike.

    Args:
        sample: of the task.
        rows: the images to fit on; None: all.
        temperature: T.

    Returns:
        float32 (C,).
    """
    kept = slice(None) if rows is None else np.asarray(rows)
    cells, absent = sample.cells[kept], sample.absent[kept]
    query = np.zeros(cells.shape[2])
    first, second = np.zeros_like(query), np.zeros_like(query)
    for step in range(1, STEPS + 1):
        slope = spread(query, cells, absent, temperature)[1]
        first = BETAS[0] * first + (1 - BETAS[0]) * slope
        second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
        size = np.sqrt(second / (1 - BETAS[1] ** step)) + EPSILON
        query = query - LEARNING_RATE * first / (1 - BETAS[0] ** step) / size
    return query.astype(np.float32)


def spread(
    query: np.ndarray, cells: np.ndarray, absent: np.ndarray, temperature: float
) -> tuple[float, np.ndarray]:
    """L(w) and its gradient.

    Args:
        query: float64 (C,), w.
        cells: float64 (N, k, C).
        absent: bool (N, k).
        temperature: T.

    Returns:
        L, and dL/dw, float64 (C,).
    """
    images, _, channels = cells.shape
    scale = np.sqrt(channels) * temperature
    scores = np.einsum("nkc,c->nk", cells, query, optimize=False) / scale
    scores[absent] = -np.inf
    alpha = np.exp(scores - scores.max(axis=1, keepdims=True))
    alpha /= alpha.sum(axis=1, keepdims=True)
    pooled = np.einsum("nk,nkc->nc", alpha, cells, optimize=False)
    apart = pooled - pooled.mean(axis=0)
    # The mean moves with w too, but deviations from a mean sum to zero, so that it adds nothing to the gradient.
    along = np.einsum("nkc,nc->nk", cells, apart, optimize=False)
    inner = alpha * (along - (alpha * along).sum(axis=1, keepdims=True))
    slope = np.einsum("nk,nkc->c", inner, cells, optimize=False)
    return float(np.square(apart).mean()), 2 / (images * channels * scale) * slope


def _cells(embedding: np.ndarray, valid: Valid | None) -> np.ndarray:
    """The cells that hold image as rows, (C, h, w) -> (cells, C), copied together."""
    rows, columns = valid if valid is not None else embedding.shape[1:]
    inside = embedding[:, :rows, :columns].reshape(len(embedding), -1)
    return np.ascontiguousarray(inside.T)
