"""Where images are sent: their vectors, the densities of tasks, a classifier over tasks. No head has a part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load, save

from casam_cache.bench.tasks import SplitRef
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work
from casam_cache.routers.choice import PoolingChoice, RouterChoice
from casam_cache.routers.classifier import (
    ClassifierOptions,
    choose_exemplars,
    classifier_input,
    fit_classifier,
)
from casam_cache.routers.files import load_pooling, load_router, save_pooling, save_router
from casam_cache.routers.fit import FitRequest, fit_pooling, fit_routers
from casam_cache.routers.fitted import FittedRouter
from casam_cache.routers.pooling import Pooling, Read, pool_all
from casam_cache.training.items import EMBEDDING, Items

FEATURES = "features.safetensors"
FOLD_FEATURES = "fold_features.safetensors"
CHOICES = "choices.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class Query(Stage):
    """A task's learned pooling, and its training vectors: by the query of all of them, and by those of the K folds.

    The threshold's held-out scores must know nothing of the images held out, nor may their pooling.

    Attributes:
        items: the train split.
        pooling: its deciding options.
        folds: K.
        seed: of the run.
    """

    kind: ClassVar[str] = "query"

    items: SplitRef
    pooling: Mapping[str, Any]
    folds: int
    seed: int

    @property
    def label(self) -> str:
        return f"learned pooling of {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        items: Items = work.place.items(self.items)
        choice = PoolingChoice.restore(self.pooling)
        work.use(choice.kind)
        pooling, features, of_folds = fit_pooling(
            choice, _reader(items), _groups(items), folds=self.folds, seed=self.seed, task=self.items.task
        )
        save_pooling(pooling, work.result)
        (work.result / FEATURES).write_bytes(save({"features": features}))
        if of_folds is not None:
            (work.result / FOLD_FEATURES).write_bytes(save({"features": of_folds}))
        state = list(pooling.state().values())
        return {
            "bytes": sum(array.nbytes for array in state),
            "parameters": sum(array.size for array in state),
        }

    def read(self, runs: Runs) -> np.ndarray:
        """The training vectors, float32 (N, D)."""
        return _arrays(runs.open(self) / FEATURES)["features"]

    def fold_features(self, runs: Runs) -> np.ndarray | None:
        """The training vectors by the pooling of each fold, float32 (K, N, D); None without folds."""
        path = runs.open(self) / FOLD_FEATURES
        return _arrays(path)["features"] if path.exists() else None

    def fitted(self, runs: Runs) -> Pooling:
        return load_pooling(runs.open(self))


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Stage):
    """Every image of a split as one vector.

    Attributes:
        items: whose images.
        pooling: its deciding options.
        query: of the task whose learned pooling is used.
    """

    kind: ClassVar[str] = "pool"

    items: SplitRef
    pooling: Mapping[str, Any]
    query: Query | None

    @property
    def group(self) -> str:
        """All poolings of a split share one reading of its embeddings."""
        return f"pool/{self.items.task}/{self.items.split}"

    @property
    def label(self) -> str:
        return f"pooling {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        return self.compute_together([self], [work])[0]

    @classmethod
    def compute_together(cls, stages: Sequence[Pool], works: Sequence[Work]) -> list[dict[str, Any]]:
        """From one reading of the embeddings."""
        items: Items = works[0].place.items(stages[0].items)
        poolings = []
        for stage, work in zip(stages, works, strict=True):
            choice = PoolingChoice.restore(stage.pooling)
            work.use(choice.kind)
            poolings.append(stage.query.fitted(work.runs) if stage.query else choice.make())
        for work, found in zip(works, pool_all(_reader(items), len(items), poolings), strict=True):
            (work.result / FEATURES).write_bytes(save({"features": found}))
        return [{} for _ in works]

    def read(self, runs: Runs) -> np.ndarray:
        """float32 (N, D), one row an image in the order of the items."""
        return _arrays(runs.open(self) / FEATURES)["features"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FitRouter(Stage):
    """A task's density on its pooled training vectors, with held-out scores by group; every threshold is read off it.

    Attributes:
        items: the train split.
        features: its vectors.
        pooling: its deciding options.
        router: its deciding options, without a threshold rule.
        seed: of the run.
    """

    kind: ClassVar[str] = "router"

    items: SplitRef
    features: Pool | Query
    pooling: Mapping[str, Any]
    router: Mapping[str, Any]
    seed: int

    @property
    def group(self) -> str:
        """Densities of all tasks are fitted in one go."""
        return "router"

    @property
    def label(self) -> str:
        return f"{self.router['name']} router of {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        return self.compute_together([self], [work])[0]

    @classmethod
    def compute_together(cls, stages: Sequence[FitRouter], works: Sequence[Work]) -> list[dict[str, Any]]:
        requests = []
        for stage, work in zip(stages, works, strict=True):
            features = stage.features
            requests.append(
                FitRequest(
                    features.read(work.runs),
                    _groups(work.place.items(stage.items)),
                    RouterChoice.restore(stage.router),
                    stage.seed,
                    stage.items.task,
                    features.fold_features(work.runs) if isinstance(features, Query) else None,
                )
            )
        fitted = fit_routers(requests)
        facts = []
        for stage, work, router in zip(stages, works, fitted, strict=True):
            scorer = router.router
            work.use(type(scorer))
            save_router(router, work.result, pooling=dict(stage.pooling))
            facts.append(
                {"parameters": scorer.trained_parameters, "bytes": scorer.stored_bytes, "folds": router.folds}
            )
        return facts

    def read(self, runs: Runs) -> FittedRouter:
        return load_router(runs.open(self))


@dataclass(frozen=True, eq=False, kw_only=True)
class Classify(Stage):
    """MoDA's classifier over a set of tasks, from exemplars of each, and where it sends the images of every set.

    Attributes:
        items: train splits, sorted by task: the order of the tasks has no part in it.
        classifier: its options.
        seed: of the run.
        splits: whose images it is asked about, sorted.
    """

    kind: ClassVar[str] = "classifier"

    items: tuple[SplitRef, ...]
    classifier: ClassifierOptions
    seed: int
    splits: tuple[SplitRef, ...]

    @property
    def label(self) -> str:
        return f"classifier of {len(self.items)} tasks"

    def compute(self, work: Work) -> dict[str, Any]:
        options, exemplars, size = self.classifier, {}, 0
        for ref in self.items:
            items = work.place.items(ref)
            place = {item.id: index for index, item in enumerate(items)}
            kept = choose_exemplars(list(place), options.exemplars, self.seed, ref.task)
            exemplars[ref.task] = [self._input(items, place[name]) for name in kept]
            size += sum(image.nbytes for image in exemplars[ref.task])
        classifier = fit_classifier(exemplars, options, self.seed)
        classifier.save(work.result)
        chosen = {}
        for ref in self.splits:
            items = work.place.items(ref)
            inputs = [self._input(items, index) for index in range(len(items))]
            chosen[f"{ref.task}/{ref.split}"] = classifier.predict(inputs)
        (work.result / CHOICES).write_bytes(save(chosen))
        return {"parameters": classifier.trained_parameters, "bytes": classifier.stored_bytes + size}

    def read(self, runs: Runs, ref: SplitRef) -> np.ndarray:
        """Where it sent the images of a split: places among its sorted tasks, int64 (N,)."""
        return _arrays(runs.open(self) / CHOICES)[f"{ref.task}/{ref.split}"]

    def _input(self, items: Items, index: int) -> np.ndarray:
        valid = items.item(index).geometry.valid_grid
        return classifier_input(self.classifier, lambda name: items.feature(name, index), valid)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = load(path.read_bytes())
    return arrays


def _reader(items: Items) -> Read:
    return lambda index: (items.feature(EMBEDDING, index), items.item(index).geometry.valid_grid)


def _groups(items: Items) -> list[str]:
    return [item.group for item in items]
