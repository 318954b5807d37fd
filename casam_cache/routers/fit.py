"""Fitting: the density on all of a task's training vectors, and K more by group for the threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from casam_cache.errors import CasamError
from casam_cache.routers.base import Job, Scorer, check_features
from casam_cache.routers.fitted import FittedRouter
from casam_cache.routers.folds import assign_folds
from casam_cache.routers.options import RouterOptions

_FITTERS = {
    "vae": "casam_cache.routers.vae_training",
    "centroid": "casam_cache.routers.centroid",
    "mahalanobis": "casam_cache.routers.mahalanobis",
    "knn": "casam_cache.routers.neighbours",
    "gmm": "casam_cache.routers.mixture",
}


@dataclass(frozen=True)
class FitRequest:
    """One task's router to fit.

    Attributes:
        features: float32 (N, D), one row a training image, in the order of their ids: draws go by row.
        groups: (N,) patient or slide of each row.
        options: of the router; `threshold` and `strict` play no part in the fit.
        seed, task: what every random choice belongs to.
        fold_features: float32 (K, N, D) for a pooling that is itself fitted: in [k] every row is pooled by what
            was fitted without the rows that fold k holds out (`assign_folds`). None: the same `features`.
    """

    features: np.ndarray
    groups: Sequence[str]
    options: RouterOptions = field(default_factory=RouterOptions)
    seed: int = 0
    task: str = "task"
    fold_features: np.ndarray | None = None


def fit_router(
    features: np.ndarray,
    groups: Sequence[str],
    options: RouterOptions,
    *,
    seed: int,
    task: str,
    fold_features: np.ndarray | None = None,
) -> FittedRouter:
    """`fit_routers` for one request."""
    return fit_routers([FitRequest(features, groups, options, seed, task, fold_features)])[0]


def fit_routers(
    requests: Sequence[FitRequest], *, progress: Callable[[int, int], None] | None = None
) -> list[FittedRouter]:
    """The router of every request; a request's result does not depend on the others.

    Variational autoencoders of equal shape, over all requests and folds, train together.

    Args:
        requests: any mixture of tasks, options and seeds.
        progress: called with what is done and how much there is, in units of the kind of router.

    Raises:
        CasamError: for features that are not finite or fewer than two, or training that diverged.
    """
    plans = [_plan(request) for request in requests]
    by_kind: dict[str, list[tuple[int, int, Job]]] = {}
    for number, (_, jobs) in enumerate(plans):
        for place, job in enumerate(jobs):
            by_kind.setdefault(requests[number].options.router, []).append((number, place, job))
    scorers: dict[tuple[int, int], Scorer] = {}
    for kind, entries in sorted(by_kind.items()):
        fit_many: Any = import_module(_FITTERS[kind]).fit_many
        extra = {"progress": progress} if kind == "vae" else {}
        fitted = fit_many([job for _, _, job in entries], **extra)
        for (number, place, _), scorer in zip(entries, fitted, strict=True):
            scorers[number, place] = scorer
    return [
        _assemble(request, folds, [scorers[number, place] for place in range(len(jobs))], jobs)
        for number, (request, (folds, jobs)) in enumerate(zip(requests, plans, strict=True))
    ]


def _plan(request: FitRequest) -> tuple[np.ndarray, list[Job]]:
    """The fold of each row, and what to fit: first on all rows, then without each fold."""
    options = request.options.scorer()
    features = check_features(request.features, request.task)
    if len(request.groups) != len(features):
        raise CasamError(
            f"router of {request.task}: {len(request.groups)} groups for {len(features)} training images"
        )
    folds = assign_folds(request.groups, request.options.folds, seed=request.seed, task=request.task)
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
    request: FitRequest, folds: np.ndarray, scorers: Sequence[Scorer], jobs: Sequence[Job]
) -> FittedRouter:
    final, of_folds = scorers[0], scorers[1:]
    held_out = np.zeros(len(folds) if of_folds else 0, dtype=np.float64)
    parts = []
    for fold, (scorer, job) in enumerate(zip(of_folds, jobs[1:], strict=True)):
        rows = folds == fold
        parts.append((job.features[rows], scorer))
        held_out[rows] = scorer.score(job.features[rows])
    if not np.isfinite(held_out).all():
        raise CasamError(
            f"router of {request.task}: held-out scores are not finite",
            "a smaller vae_learning_rate, or standardise=task, keeps the training stable",
        )
    return FittedRouter(
        task=request.task,
        options=request.options,
        seed=request.seed,
        scorer=final.calibrated(parts),
        held_out=held_out,
        fold=folds if of_folds else np.zeros(0, dtype=np.int64),
        images=len(folds),
        groups=len(set(request.groups)),
        channels=jobs[0].features.shape[1],
    )
