"""Where images are sent: their vectors, the densities of tasks, a classifier over tasks. No head has a part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load, save

from casam_cache.bench.tasks import SplitRef
from casam_cache.config import validated
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work, beside
from casam_cache.routers.classifier import choose_exemplars, classifier_input, fit_classifier
from casam_cache.routers.classifier_options import ClassifierOptions
from casam_cache.routers.files import load_router, save_router
from casam_cache.routers.fit import FitRequest, fit_routers
from casam_cache.routers.fitted import FittedRouter
from casam_cache.routers.folds import assign_folds
from casam_cache.routers.learned import LearnedPooling, fit_query, sample_cells
from casam_cache.routers.options import PoolingOptions, RouterOptions
from casam_cache.routers.pooling import pool
from casam_cache.training.stored import SplitView

FEATURES = "features.safetensors"
QUERY = "query.safetensors"
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
        images: how many there are, for estimates.
    """

    kind: ClassVar[str] = "query"

    items: SplitRef
    pooling: Mapping[str, Any]
    folds: int
    seed: int
    images: int = beside(1)

    @property
    def cost(self) -> float:
        """Images."""
        return float(self.images)

    @property
    def label(self) -> str:
        """For people."""
        return f"learned pooling of {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        """Writes the query and the vectors."""
        view = work.place.items(self.items)
        options, task = _pooling(self.pooling), self.items.task

        def read(index: int) -> tuple[np.ndarray, tuple[int, int]]:
            return view.embedding(index), view.item(index).geometry.valid_grid

        sample = sample_cells(read, len(view), seed=self.seed, task=task)
        folds = assign_folds(_groups(view), self.folds, seed=self.seed, task=task)
        rows: list[np.ndarray | None] = [None]
        if folds.max():
            rows += [np.flatnonzero(folds != fold) for fold in range(int(folds.max()) + 1)]
        fitted = [fit_query(sample, kept, temperature=options.temperature) for kept in rows]
        pooled = np.stack([[one.pool(*read(index)) for index in range(len(view))] for one in fitted])
        arrays = {
            "query": fitted[0].query,
            "temperature": np.array([options.temperature]),
            "fold_features": pooled[1:],
        }
        (work.result / QUERY).write_bytes(save(arrays))
        (work.result / FEATURES).write_bytes(save({"features": pooled[0]}))
        return {"bytes": fitted[0].query.nbytes, "parameters": fitted[0].query.size}

    def read(self, runs: Runs) -> np.ndarray:
        """The training vectors, float32 (N, D)."""
        return _arrays(runs.open(self) / FEATURES)["features"]

    def fold_features(self, runs: Runs) -> np.ndarray | None:
        """The training vectors by the pooling of each fold, float32 (K, N, D); None without folds."""
        found = _arrays(runs.open(self) / QUERY)["fold_features"]
        return found if len(found) else None

    def fitted(self, runs: Runs) -> LearnedPooling:
        """The pooling that was fitted."""
        return read_query(runs.open(self))


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Stage):
    """Every image of a split as one vector.

    Attributes:
        items: whose images.
        pooling: its deciding options.
        query: of the task whose learned pooling is used.
        images: how many there are, for estimates.
    """

    kind: ClassVar[str] = "pool"

    items: SplitRef
    pooling: Mapping[str, Any]
    query: Query | None
    images: int = beside(1)

    @property
    def group(self) -> str:
        """All poolings of a split share one reading of its embeddings."""
        return f"pool/{self.items.task}/{self.items.split}"

    @property
    def cost(self) -> float:
        """Images."""
        return float(self.images)

    @property
    def label(self) -> str:
        """For people."""
        return f"pooling {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        """Writes the vectors."""
        return self.compute_together([self], [work])[0]

    @classmethod
    def compute_together(cls, stages: Sequence[Pool], works: Sequence[Work]) -> list[dict[str, Any]]:
        """From one reading of the embeddings."""
        view = works[0].place.items(stages[0].items)
        asked = [_pooling(stage.pooling) for stage in stages]
        fitted = [
            stage.query.fitted(work.runs) if stage.query else None
            for stage, work in zip(stages, works, strict=True)
        ]
        rows: list[list[np.ndarray]] = [[] for _ in works]
        for index in range(len(view)):
            embedding, valid = view.embedding(index), view.item(index).geometry.valid_grid
            for found, options, query in zip(rows, asked, fitted, strict=True):
                found.append(pool(embedding, valid, options, fitted=query))
        for work, found in zip(works, rows, strict=True):
            (work.result / FEATURES).write_bytes(save({"features": np.stack(found)}))
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
        """For people."""
        return f"{self.router['router']} router of {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        """Writes the router."""
        return self.compute_together([self], [work])[0]

    @classmethod
    def compute_together(cls, stages: Sequence[FitRouter], works: Sequence[Work]) -> list[dict[str, Any]]:
        """Many in one go."""
        requests = []
        for stage, work in zip(stages, works, strict=True):
            features = stage.features
            requests.append(
                FitRequest(
                    features.read(work.runs),
                    _groups(work.place.items(stage.items)),
                    validated(RouterOptions, stage.router),  # type: ignore[arg-type]
                    stage.seed,
                    stage.items.task,
                    features.fold_features(work.runs) if isinstance(features, Query) else None,
                )
            )
        fitted = fit_routers(requests)
        facts = []
        for stage, work, router in zip(stages, works, fitted, strict=True):
            work.use(type(router.scorer))
            save_router(router, work.result, pooling=dict(stage.pooling))
            scorer = router.scorer
            facts.append(
                {"parameters": scorer.trained_parameters, "bytes": scorer.stored_bytes, "folds": router.folds}
            )
        return facts

    def read(self, runs: Runs) -> FittedRouter:
        """The fitted router."""
        return load_router(runs.open(self))


@dataclass(frozen=True, eq=False, kw_only=True)
class Classify(Stage):
    """MoDA's classifier over a set of tasks, from exemplars of each, and where it sends the images of every set.

    Attributes:
        items: train splits, sorted by task: the order of the tasks has no part in it.
        classifier: its options.
        seed: of the run.
        splits: whose images it is asked about, sorted.
        images: of the splits, for estimates.
    """

    kind: ClassVar[str] = "classifier"

    items: tuple[SplitRef, ...]
    classifier: ClassifierOptions
    seed: int
    splits: tuple[SplitRef, ...]
    images: int = beside(1)

    @property
    def cost(self) -> float:
        """Images it is asked about."""
        return float(self.images)

    @property
    def label(self) -> str:
        """For people."""
        return f"classifier of {len(self.items)} tasks"

    def compute(self, work: Work) -> dict[str, Any]:
        """Writes classifier and choices."""
        options, exemplars, size = self.classifier, {}, 0
        for ref in self.items:
            view = work.place.items(ref)
            place = {view.item(index).id: index for index in range(len(view))}
            kept = choose_exemplars(list(place), options.exemplars, self.seed, ref.task)
            exemplars[ref.task] = [self._input(view, place[name]) for name in kept]
            size += sum(image.nbytes for image in exemplars[ref.task])
        classifier = fit_classifier(exemplars, options, self.seed)
        classifier.save(work.result)
        chosen = {}
        for ref in self.splits:
            view = work.place.items(ref)
            inputs = [self._input(view, index) for index in range(len(view))]
            chosen[f"{ref.task}/{ref.split}"] = classifier.predict(inputs)
        (work.result / CHOICES).write_bytes(save(chosen))
        return {"parameters": classifier.trained_parameters, "bytes": classifier.stored_bytes + size}

    def read(self, runs: Runs, ref: SplitRef) -> np.ndarray:
        """Where it sent the images of a split: places among its sorted tasks, int64 (N,)."""
        return _arrays(runs.open(self) / CHOICES)[f"{ref.task}/{ref.split}"]

    def _input(self, view: SplitView, index: int) -> np.ndarray:
        valid = view.item(index).geometry.valid_grid
        return classifier_input(self.classifier, lambda name: view.feature(name, index), valid)


def read_query(folder: Path) -> LearnedPooling:
    """The pooling in the folder of a `Query` stage."""
    arrays = _arrays(folder / QUERY)
    return LearnedPooling(arrays["query"], float(arrays["temperature"][0]))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = load(path.read_bytes())
    return arrays


def _pooling(decisive: Mapping[str, Any]) -> PoolingOptions:
    options = validated(PoolingOptions, decisive)
    assert isinstance(options, PoolingOptions)
    return options


def _groups(view: SplitView) -> list[str]:
    return [view.item(index).group for index in range(len(view))]
