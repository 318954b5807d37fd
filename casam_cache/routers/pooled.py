"""The pooled vectors of one task's training images, by any number of poolings, and what its folds need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.routers.folds import assign_folds
from casam_cache.routers.learned import LearnedPooling, Read, fit_query, sample_cells
from casam_cache.routers.options import PoolingOptions
from casam_cache.routers.pooling import pool


@dataclass(frozen=True)
class PooledTask:
    """One pooling of a task's training images.

    Attributes:
        options: of the pooling.
        features: float32 (N, D), one row an image.
        fitted: the query, for `learned`: the task pools any image with it, its own and others'.
        fold_features: float32 (K, N, D), for `learned`: `FitRequest.fold_features`.
    """

    options: PoolingOptions
    features: np.ndarray
    fitted: LearnedPooling | None = None
    fold_features: np.ndarray | None = None


def pool_task(
    read: Read,
    groups: Sequence[str],
    options: Sequence[PoolingOptions],
    *,
    folds: int,
    seed: int,
    task: str,
) -> list[PooledTask]:
    """Pool a task's training images.

    Poolings without parameters share one pass over the embeddings; `learned` takes two more: to fit, to pool.

    Args:
        read: an image's embedding (C, h, w) and valid cells, by its place among the training images.
        groups: (N,) patient or slide of each.
        options: the poolings wanted.
        folds: `RouterOptions.folds`: a held-out image is pooled by a query fitted without its fold.
        seed: as for the router that will be fitted.
        task: its name.
    """
    fixed = [one for one in options if one.pooling != "learned"]
    rows: list[list[np.ndarray]] = [[] for _ in fixed]
    if fixed:
        for place in range(len(groups)):
            embedding, valid = read(place)
            for row, one in zip(rows, fixed, strict=True):
                row.append(pool(embedding, valid, one))
    found = {id(one): PooledTask(one, np.stack(row)) for one, row in zip(fixed, rows, strict=True)}
    learned = [one for one in options if one.pooling == "learned"]
    if learned:
        fold = assign_folds(groups, folds, seed=seed, task=task)
        for one, task_pooled in zip(learned, _learned(read, fold, learned, seed, task), strict=True):
            found[id(one)] = task_pooled
    return [found[id(one)] for one in options]


def _learned(
    read: Read, fold: np.ndarray, options: Sequence[PoolingOptions], seed: int, task: str
) -> list[PooledTask]:
    sample = sample_cells(read, len(fold), seed=seed, task=task)
    count = int(fold.max()) + 1
    without = [np.flatnonzero(fold != one) for one in range(count)] if count > 1 else []
    queries = [
        [fit_query(sample, rows, temperature=one.temperature) for rows in (None, *without)] for one in options
    ]
    pooled = np.zeros((len(options), 1 + len(without), len(fold), sample.cells.shape[2]), dtype=np.float32)
    for place in range(len(fold)):
        embedding, valid = read(place)
        for number, fitted in enumerate(queries):
            for part, query in enumerate(fitted):
                pooled[number, part, place] = query.pool(embedding, valid)
    return [
        PooledTask(one, pooled[number, 0], queries[number][0], pooled[number, 1:] if without else None)
        for number, one in enumerate(options)
    ]
