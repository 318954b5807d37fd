"""From scores and thresholds to a task, or to none (section 3.3, Algorithm 7), and how often that was right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FALLBACK = -1  # in place of a task: the frozen SAM, without any head


@dataclass(frozen=True)
class Decision:
    """Where one image goes.

    Attributes:
        task: whose head is used; None: the frozen SAM, without any head.
        nearest: the task with the lowest score, used or not.
        score: its score.
        threshold: its tau; infinite where it never rejects.
        scores: the score under every task.
    """

    task: str | None
    nearest: str
    score: float
    threshold: float
    scores: dict[str, float]

    @property
    def fallback(self) -> bool:
        """Whether the frozen SAM is used."""
        return self.task is None


def route(scores: np.ndarray, taus: np.ndarray, *, fallback: bool = True, strict: bool = False) -> np.ndarray:
    """The task of each image: t* = argmin_t s_t, if s_t* <= tau_t*.

    Columns are tasks in the order of their sorted names, so that equal scores go to the first name whatever the
    order in which tasks were learned.

    Args:
        scores: float64 (M, T), lower is more like the task.
        taus: float64 (T,).
        fallback: False: always the nearest task.
        strict: s < tau, as Algorithm 7 writes, in place of s <= tau (section 3.3).

    Returns:
        int64 (M,), the column, or `FALLBACK`.

    Raises:
        ValueError: for a NaN, or shapes that do not fit.
    """
    scores, taus = np.asarray(scores, dtype=np.float64), np.asarray(taus, dtype=np.float64)
    if scores.ndim != 2 or taus.shape != scores.shape[1:]:
        raise ValueError(f"scores {scores.shape} and thresholds {taus.shape} do not fit")
    if np.isnan(scores).any() or np.isnan(taus).any():
        raise ValueError("a score or threshold is NaN")
    if not scores.shape[1]:
        return np.full(len(scores), FALLBACK, dtype=np.int64)
    nearest = scores.argmin(axis=1)
    if not fallback:
        return nearest
    lowest, limit = scores[np.arange(len(scores)), nearest], taus[nearest]
    accepted = lowest < limit if strict else lowest <= limit
    return np.where(accepted, nearest, FALLBACK)


def decision(
    names: Sequence[str],
    scores: np.ndarray,
    taus: np.ndarray,
    *,
    fallback: bool = True,
    strict: bool = False,
) -> Decision:
    """`route` for one image, with the figures it came from.

    Args:
        names: of the T tasks, sorted.
        scores: float64 (T,).
        taus: float64 (T,).
        fallback: as in `route`.
        strict: as in `route`.

    Raises:
        ValueError: for no task, names that are not sorted, NaN, or shapes that do not fit.
    """
    if not names or list(names) != sorted(names):
        raise ValueError("names must be sorted, and at least one")
    chosen = int(route(np.asarray(scores)[None], taus, fallback=fallback, strict=strict)[0])
    nearest = int(np.argmin(scores))
    return Decision(
        None if chosen == FALLBACK else names[chosen],
        names[nearest],
        float(scores[nearest]),
        float(taus[nearest]),
        {name: float(score) for name, score in zip(names, scores, strict=True)},
    )


def routing_accuracy(chosen: Sequence[int] | np.ndarray, true: Sequence[int] | np.ndarray) -> float:
    """Share of the images sent to the head of their own task; a fallback is wrong. NaN without images.

    Args:
        chosen: the task chosen for each image, by its place, or `FALLBACK`.
        true: the place of each image's task.

    Raises:
        ValueError: for columns of different length.
    """
    heads, tasks = np.asarray(chosen), np.asarray(true)
    if heads.shape != tasks.shape:
        raise ValueError(f"{len(heads)} choices for {len(tasks)} images")
    return float((heads == tasks).mean()) if len(heads) else math.nan


def ood_accuracy(chosen: Sequence[int] | np.ndarray) -> float:
    """Share of unseen images sent to the frozen SAM ("Acc" of Tables 6, 10 and 11). NaN without images."""
    heads = np.asarray(chosen)
    return float((heads == FALLBACK).mean()) if len(heads) else math.nan
