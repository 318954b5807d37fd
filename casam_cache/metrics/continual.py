"""Continual-learning metrics as pure functions of the matrix R[t, k] (appendix B of the paper, equations 8-12).

Row t is after training on the first t + 1 tasks, column k the test set of the k-th task, both in order of training:
shape (N, N), upper triangle included for forward transfer. A method without a path through the tasks (frozen SAM, joint
training) has its one last row, shape (1, N): its Last is defined, everything else is NaN.

What is undefined is NaN: a test set on which no mask has a defined score is a NaN, leaves the weighted means it would
have entered (their weights are renormalised), and does not count in the means over tasks. A mean over nothing is NaN,
never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from casam_cache.metrics.base import Better

Weight = Literal["images", "masks", "tasks"]
Forgetting = Literal["paper", "mammoth", "avalanche"]
Table = Sequence[Sequence[float | None]] | np.ndarray


@dataclass(frozen=True)
class Summary:
    """The metrics of one matrix, in the units of R; NaN where undefined.

    Attributes:
        last: equation 9.
        avg: equation 10.
        ff: equation 12, of the variant asked for; positive is forgetting.
        bwt: backward transfer; positive is improvement.
        fwt: forward transfer against the frozen SAM.
        learning: mean of the diagonal, how well each task is learnt when its turn comes.
    """

    last: float
    avg: float
    ff: float
    bwt: float
    fwt: float
    learning: float


def summarise(
    matrix: Table,
    *,
    images: Sequence[int],
    masks: Sequence[int],
    weight: Weight = "images",
    forgetting: Forgetting = "paper",
    frozen: Sequence[float | None] | np.ndarray | None = None,
    better: Better = "high",
) -> Summary:
    """All metrics of R.

    Args:
        matrix: R, (N, N) or (1, N); None counts as NaN.
        images: in each test set, in the order of the columns.
        masks: in each test set.
        weight: of the tasks inside equation 8; no other metric is weighted.
        forgetting: the variant of FF.
        frozen: scores of the frozen SAM on the same test sets, for forward transfer.
        better: whether high or low scores are: to rise is to forget where low ones are, and transfers change sign.

    Raises:
        ValueError: for a matrix of another shape, counts of another length, or an unknown variant.
    """
    table = as_matrix(matrix)
    weights = task_weights(weight, images, masks)
    rising = table if better == "high" else -table
    baseline = None if frozen is None else np.asarray(frozen, dtype=np.float64)
    if baseline is not None and better == "low":
        baseline = -baseline
    return Summary(
        last=last(table, weights),
        avg=average(table, weights),
        ff=mean_forgetting(rising, forgetting),
        bwt=backward_transfer(rising),
        fwt=math.nan if baseline is None else forward_transfer(rising, baseline),
        learning=learning_accuracy(table),
    )


def as_matrix(matrix: Table) -> np.ndarray:
    """R as float64, (N, N) or (1, N).

    Raises:
        ValueError: for any other shape.
    """
    table = np.asarray(matrix, dtype=np.float64)  # None becomes NaN
    if table.ndim != 2 or not table.size or table.shape[0] not in (1, table.shape[1]):
        raise ValueError(f"a matrix of shape {table.shape}: (N, N) or (1, N) is needed")
    return table


def task_weights(weight: Weight, images: Sequence[int], masks: Sequence[int]) -> np.ndarray:
    """The n_k of equation 8, (N,): images of each test set as the paper writes, its masks, or one a task.

    Raises:
        ValueError: for an unknown name, or counts of different length.
    """
    if weight not in get_args(Weight):
        raise ValueError(f"unknown weight '{weight}': {', '.join(get_args(Weight))}")
    if len(images) != len(masks):
        raise ValueError(f"{len(images)} counts of images, {len(masks)} of masks")
    counts = {"images": images, "masks": masks, "tasks": [1] * len(images)}[weight]
    return np.asarray(counts, dtype=np.float64)


def running(matrix: Table, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """IoU_t of equation 8, (rows,): the weighted mean over the tasks seen, after each of them.

    Sums are exact before they are rounded: equal scores give equal bits in whatever order the tasks came.

    Raises:
        ValueError: not one weight a column, or a negative one.
    """
    table, column = as_matrix(matrix), np.asarray(weights, dtype=np.float64)
    rows, tasks = table.shape
    if column.shape != (tasks,) or not (column >= 0).all():
        raise ValueError(f"{column.shape} weights for {tasks} test sets: one each, none negative")
    seen = np.tri(rows, tasks, tasks - rows, dtype=bool)  # a single row has seen all tasks
    used = seen & np.isfinite(table)
    total = (used * column).sum(axis=1)
    summed = np.array([math.fsum(row) for row in np.where(used, table * column, 0.0)])
    return np.divide(summed, total, out=np.full(rows, np.nan), where=total > 0)


def last(matrix: Table, weights: Sequence[float] | np.ndarray) -> float:
    """Last-IoU, equation 9: IoU_N."""
    return float(running(matrix, weights)[-1])


def average(matrix: Table, weights: Sequence[float] | np.ndarray) -> float:
    """Avg-IoU, equation 10: the unweighted mean of IoU_t over t; NaN for a single row of several tasks."""
    table = as_matrix(matrix)
    return math.nan if _pathless(table) else _mean(running(table, weights))


def forgetting_by_task(matrix: Table, variant: Forgetting = "paper") -> np.ndarray:
    """f_{k,N} of every task but the last, (N - 1,): how far its score fell; NaN where undefined.

    Rows j count from training on task k on, j >= k: the paper evaluates on the tasks seen, and what a model scores on
    a task it has not seen cannot be forgotten.

    - `paper`, equation 11: max over j < N of R[j, k] - R[N, k]. The last row is not in the maximum, so a task that is
      best at the end counts as negative forgetting.
    - `mammoth`: the maximum includes the last row, so it is never negative.
    - `avalanche`: R[k, k] - R[N, k], the score right after training minus the last one.

    Raises:
        ValueError: for an unknown variant.
    """
    if variant not in get_args(Forgetting):
        raise ValueError(f"unknown forgetting '{variant}': {', '.join(get_args(Forgetting))}")
    table = as_matrix(matrix)
    tasks = table.shape[1]
    if _pathless(table):
        return np.full(tasks - 1, np.nan)
    if variant == "avalanche":
        return np.diagonal(table)[:-1] - table[-1, :-1]
    stop = tasks if variant == "mammoth" else tasks - 1
    best = np.array([_largest(table[k:stop, k]) for k in range(tasks - 1)])
    return best - table[-1, :-1]


def mean_forgetting(matrix: Table, variant: Forgetting = "paper") -> float:
    """FF-IoU, equation 12: the unweighted mean of f_{k,N} over the first N - 1 tasks; NaN for a single task."""
    return _mean(forgetting_by_task(matrix, variant))


def backward_transfer(matrix: Table) -> float:
    """BWT (Lopez-Paz and Ranzato, 2017): mean of R[N, k] - R[k, k], k < N; minus Avalanche's forgetting."""
    return 0.0 - mean_forgetting(matrix, "avalanche")  # never -0.0


def forward_transfer(matrix: Table, frozen: Sequence[float | None] | np.ndarray) -> float:
    """FWT (Lopez-Paz and Ranzato, 2017): mean of R[k - 1, k] - frozen[k], k > 1; the frozen SAM is the baseline.

    Args:
        matrix: R with its upper triangle.
        frozen: scores of the frozen SAM, (N,).

    Raises:
        ValueError: not one frozen score a column.
    """
    table = as_matrix(matrix)
    baseline = np.asarray(frozen, dtype=np.float64)
    if baseline.shape != (table.shape[1],):
        raise ValueError(f"{baseline.shape} frozen scores for {table.shape[1]} test sets")
    if _pathless(table):
        return math.nan
    return _mean(np.diagonal(table, 1) - baseline[1:])


def learning_accuracy(matrix: Table) -> float:
    """Mean of R[k, k] over all tasks (Riemer et al., 2019); NaN for a single row of several tasks."""
    table = as_matrix(matrix)
    return math.nan if _pathless(table) else _mean(np.diagonal(table))


def _pathless(table: np.ndarray) -> bool:
    return table.shape[0] < table.shape[1]


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else math.nan


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan
