"""A fitted router of one task, and several of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from casam_cache.errors import CasamError, OptionError
from casam_cache.routers.base import Router, scores_of
from casam_cache.routers.choice import RouterChoice
from casam_cache.routers.routing import Decision, decision, route
from casam_cache.routers.thresholds import RULES, threshold


@dataclass(frozen=True)
class FittedRouter:
    """One task's density, fitted on all its training vectors, with what its threshold comes from.

    Attributes:
        task: its name.
        choice: what was fitted, and the rule of its threshold.
        seed: of every random choice.
        router: the density.
        held_out: float64 (N,), the score of each training image by the density fitted without its fold; empty
            where one group leaves nothing to hold out: thresholds are then infinite.
        fold: int64 (N,), which fold held it out; empty likewise.
        images, groups: it was fitted on.
        channels: D.
    """

    task: str
    choice: RouterChoice
    seed: int
    router: Router
    held_out: np.ndarray
    fold: np.ndarray
    images: int
    groups: int
    channels: int

    @property
    def folds(self) -> int:
        """K that was used: min(folds, groups), or 0 where nothing could be held out."""
        return int(self.fold.max()) + 1 if len(self.fold) else 0

    def threshold(self, rule: str | None = None) -> float:
        """Tau by a rule, by default that of the choice; infinite where it rejects nothing."""
        return threshold(self.held_out, rule or self.choice.threshold)

    def thresholds(self) -> dict[str, float]:
        """Tau by every rule (Table 9)."""
        return {rule: self.threshold(rule) for rule in RULES}

    def calibrated(self, rule: str | None = None) -> bool:
        """Whether the rule's threshold is a finite one: the report says so where it is not."""
        return math.isfinite(self.threshold(rule))

    def score(self, features: np.ndarray) -> np.ndarray:
        """(M, D) -> float64 (M,), lower is more like the task.

        Raises:
            CasamError: for features of another width, or that are not finite; or scores that are none.
        """
        array = np.asarray(features)
        if array.ndim != 2 or array.shape[1] != self.channels:
            raise CasamError(
                f"the router of {self.task} takes {self.channels} features an image, not {array.shape[1:]}",
                "use the backbone and pooling that it was fitted with",
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise CasamError(f"router of {self.task}: the features of image {bad[0]} are not finite")
        return scores_of(self.router, array, self.task)


class TaskRouters:
    """The routers of the tasks seen so far. In which order they were seen has no part in any result.

    Args:
        fitted: one a task, of one kind. What they share (`Router.combine`) is made here.

    Raises:
        OptionError: for a task given twice, or routers of different kinds or options.
    """

    def __init__(self, fitted: Sequence[FittedRouter]) -> None:
        routers = sorted(fitted, key=lambda router: router.task)
        names = [router.task for router in routers]
        if len(set(names)) < len(names):
            raise OptionError(f"two routers for one task among {', '.join(names)}")
        if len({str(router.choice.decisive()) for router in routers}) > 1:
            raise OptionError("routers that were fitted with different options cannot be compared")
        self.names = tuple(names)
        self.fitted: tuple[FittedRouter, ...] = ()
        if routers:
            kind = routers[0].choice.kind
            moved = kind.combine([one.router for one in routers], [one.held_out for one in routers])
            self.fitted = tuple(
                replace(one, router=router, held_out=held_out)
                for one, (router, held_out) in zip(routers, moved, strict=True)
            )

    def scores(self, features: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """The score of every image under every task.

        Args:
            features: float32 (M, D); or one such array a task, where each task pools in its own way.

        Returns:
            float64 (M, T), columns in sorted order of the names.
        """
        columns = [
            router.score(features[router.task] if isinstance(features, Mapping) else features)
            for router in self.fitted
        ]
        if columns:
            return np.stack(columns, axis=1)
        return np.zeros((0 if isinstance(features, Mapping) else len(features), 0))

    def thresholds(self, rule: str | None = None) -> np.ndarray:
        """Tau of every task, float64 (T,)."""
        return np.array([router.threshold(rule) for router in self.fitted], dtype=np.float64)

    def route(self, scores: np.ndarray, rule: str | None = None, *, fallback: bool = True) -> np.ndarray:
        """`routing.route` of scores (M, T): int64 (M,), a column or `FALLBACK`."""
        return route(scores, self.thresholds(rule), fallback=fallback, strict=self._strict)

    def decide(
        self,
        features: np.ndarray | Mapping[str, np.ndarray],
        rule: str | None = None,
        *,
        fallback: bool = True,
    ) -> Decision:
        """Where one image goes: its vector (D,), or one a task.

        Raises:
            OptionError: if no task has been seen.
        """
        if not self.names:
            raise OptionError("there is no router to choose with")
        if isinstance(features, Mapping):
            rows: np.ndarray | Mapping[str, np.ndarray] = {name: f[None] for name, f in features.items()}
        else:
            rows = features[None]
        taus = self.thresholds(rule)
        return decision(self.names, self.scores(rows)[0], taus, fallback=fallback, strict=self._strict)

    @property
    def _strict(self) -> bool:
        return bool(self.fitted) and self.fitted[0].choice.strict
