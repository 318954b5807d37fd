"""Fitting: the density on all of a task's training vectors, and K more by group for the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.routers.base import Job, Progress, Router, check_features, scores_of
from casam_cache.routers.choice import PoolingChoice, RouterChoice
from casam_cache.routers.fitted import FittedRouter
from casam_cache.routers.pooling import Pooling, Read, pool_all


@dataclass(frozen=True)
class FitRequest:
    """One task's router to fit.

    Attributes:
        features: float32 (N, D), one row a training image, in the order of their ids: draws go by row.
        groups: (N,) patient or slide of each row.
        choice: of the router; `threshold` and `strict` play no part in the fit.
        seed: what every random choice belongs to, with `task`.
        task: its name.
        fold_features: float32 (K, N, D) for a pooling that is itself fitted: in [k] every row is pooled by what
            was fitted without the rows that fold k holds out (`assign_folds`). None: the same `features`.
    """

    features: np.ndarray
    groups: Sequence[str]
    choice: RouterChoice
    seed: int = 0
    task: str = "task"
    fold_features: np.ndarray | None = None


def fit_routers(requests: Sequence[FitRequest], *, progress: Progress | None = None) -> list[FittedRouter]:
    """The router of every request; a request's result does not depend on the others.

    Variational autoencoders of equal shape, over all requests and folds, train together.

    Args:
        requests: any mixture of tasks, options and seeds.
        progress: called with what is done and how much there is, in units of the kind of router.

    Raises:
        CasamError: for features that are not finite or fewer than two, or training that diverged.
    """
    plans = [_plan(request) for request in requests]
    by_kind: dict[type[Router], list[tuple[int, int, Job]]] = {}
    for number, (_, jobs) in enumerate(plans):
        for place, job in enumerate(jobs):
            by_kind.setdefault(requests[number].choice.kind, []).append((number, place, job))
    routers: dict[tuple[int, int], Router] = {}
    for kind, entries in by_kind.items():
        fitted = kind.fit_many([job for _, _, job in entries], progress)
        for (number, place, _), router in zip(entries, fitted, strict=True):
            routers[number, place] = router
    return [
        _assemble(request, folds, [routers[number, place] for place in range(len(jobs))], jobs)
        for number, (request, (folds, jobs)) in enumerate(zip(requests, plans, strict=True))
    ]


def assign_folds(groups: Sequence[str], folds: int, *, seed: int, task: str) -> np.ndarray:
    """Which fold holds out each row.

    Whole groups are dealt to the fold that has the fewest rows, large groups first, equal ones in an order drawn
    for this task; it does not matter in which order the rows are.

    Args:
        groups: (N,) patient or slide of each row.
        folds: wanted number; K = min(folds, number of groups).
        seed: what the draw belongs to, with `task`.
        task: its name.

    Returns:
        int64 (N,) in 0..K-1; all 0 for one group, of which nothing can be held out.
    """
    names, member, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    count = max(1, min(folds, len(names)))
    drawn = generator(seed, "folds", task).permutation(len(names))
    filled = np.zeros(count, dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for group in sorted(range(len(names)), key=lambda name: (-sizes[name], drawn[name])):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[member]


def fit_pooling(
    choice: PoolingChoice, read: Read, groups: Sequence[str], *, folds: int, seed: int, task: str
) -> tuple[Pooling, np.ndarray, np.ndarray | None]:
    """A learned pooling of a task, and the task's training vectors by it.

    Args:
        choice: which.
        read: a training image's embedding and valid cells, by its place.
        groups: (N,) patient or slide of each image.
        folds: wanted number.
        seed: what every random choice belongs to, with `task`.
        task: its name.

    Returns:
        The pooling, float32 (N, D), and float32 (K, N, D), in [k] by what was fitted without the images that fold k
        holds out; None where one group leaves nothing to hold out.
    """
    assigned = assign_folds(groups, folds, seed=seed, task=task)
    fitted = choice.kind.fit_folds(read, len(groups), assigned, choice.options, seed=seed, task=task)
    expected = 1 + (int(assigned.max()) + 1 if assigned.max() else 0)
    if len(fitted) != expected:
        raise CasamError(f"pooling {choice.name} was fitted {len(fitted)} times, expected {expected}")
    pooled = pool_all(read, len(groups), fitted)
    return fitted[0], pooled[0], np.stack(pooled[1:]) if expected > 1 else None


def _plan(request: FitRequest) -> tuple[np.ndarray, list[Job]]:
    """The fold of each row, and what to fit: first on all rows, then without each fold."""
    options = request.choice.options
    features = check_features(request.features, request.task)
    if len(request.groups) != len(features):
        raise CasamError(
            f"router of {request.task}: {len(request.groups)} groups for {len(features)} training images"
        )
    folds = assign_folds(request.groups, request.choice.folds, seed=request.seed, task=request.task)
    count = int(folds.max()) + 1
    everything = np.arange(len(features))
    jobs = [Job(features, options, request.seed, request.task, everything)]
    if count == 1:
        return folds, jobs
    views = request.fold_features
    if views is not None and views.shape != (count, *features.shape):
        raise CasamError(
            f"router of {request.task}: fold features of shape {views.shape}, expected {(count, *features.shape)}"
        )
    for fold in range(count):
        view = features if views is None else check_features(views[fold], request.task)
        jobs.append(Job(view, options, request.seed, request.task, everything[folds != fold]))
    return folds, jobs


def _assemble(
    request: FitRequest, folds: np.ndarray, routers: Sequence[Router], jobs: Sequence[Job]
) -> FittedRouter:
    final, of_folds = routers[0], routers[1:]
    held_out = np.zeros(len(folds) if of_folds else 0, dtype=np.float64)
    parts = []
    for fold, (router, job) in enumerate(zip(of_folds, jobs[1:], strict=True)):
        rows = folds == fold
        parts.append((job.features[rows], router))
        held_out[rows] = scores_of(router, job.features[rows], request.task)
    if not np.isfinite(held_out).all():
        raise CasamError(
            f"router of {request.task}: held-out scores are not finite",
            "other options of the router, or `casam store verify`, which checks what is stored",
        )
    return FittedRouter(
        task=request.task,
        choice=request.choice,
        seed=request.seed,
        router=final.calibrated(parts),
        held_out=held_out,
        fold=folds if of_folds else np.zeros(0, dtype=np.int64),
        images=len(folds),
        groups=len(set(request.groups)),
        channels=jobs[0].features.shape[1],
    )
