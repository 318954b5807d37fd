"""Routed methods: look-ups in the table of outcomes under every head, by what a router chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from casam_cache.bench.families import Config, Course, Entry
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.stages.head import MethodRef
from casam_cache.bench.stages.routed import Merge, Model
from casam_cache.bench.stages.routing import Classify, FitRouter, Pool, Query
from casam_cache.bench.tables import OutcomeTable, Tables
from casam_cache.bench.tasks import Tasks, TaskSplit
from casam_cache.engine.stage import Stage, each_once
from casam_cache.methods.base import Method
from casam_cache.methods.routed import Routed
from casam_cache.routers.choice import chosen_options, pooling_choice, router_choice
from casam_cache.routers.classifier import classifier_options
from casam_cache.routers.fitted import FittedRouter, TaskRouters
from casam_cache.routers.routing import FALLBACK, ood_accuracy, routing_accuracy


@dataclass(frozen=True)
class LastRouting:
    """How densities sent images after the last task.

    Attributes:
        tasks: T names, sorted.
        thresholds: float64 (T,), infinite where nothing is rejected.
        images: ids by set, learnt or unseen.
        scores: float64 (images, T) by set, lower is more like the task.
        chosen: int64 (images,) by set, a task's place or -1, the frozen SAM.
    """

    tasks: tuple[str, ...]
    thresholds: np.ndarray
    images: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, np.ndarray]
    chosen: Mapping[str, np.ndarray]


class RoutedEntry(Entry):
    """A head a task and a router: the outcome of each mask under the head its image is sent to."""

    def __init__(self, config: Config, course: Course, tasks: Tasks) -> None:
        method = config.method
        assert isinstance(method, Routed)
        self.method = method
        self._scores: dict[tuple[int, str], np.ndarray] = {}
        self._loaded: list[TaskRouters] = []
        super().__init__(config, course, tasks)
        self.experts = {task: self.fit(method.expert_method(), task) for task in course.order}
        self.pooling, self.router = pooling_choice(method.options), router_choice(method.options)
        density = method.routing == "density"
        self.routers = {task: self._router(task) for task in course.order} if density else {}
        self.features = {
            (name, task): self._pool(split, self.routers[task])
            for task in self.routers
            for name, split in self.tested.items()
        }
        steps = range(len(course.order))
        self.classifiers = (
            [self._classifier(step) for step in steps] if method.routing == "classifier" else []
        )
        self.merged = [self._merge(course.order[: step + 1]) for step in steps]
        self.model = None
        if self.routers and not method.merges:
            self.model = Model(
                method=replace(MethodRef.of(method), options=chosen_options(method.options)),
                pooling=self.pooling.decisive(),
                router={
                    **self.router.decisive(),
                    "threshold": self.router.threshold,
                    "strict": self.router.strict,
                },
                heads=dict(sorted(self.experts.items())),
                routers=dict(sorted(self.routers.items())),
            )

    @property
    def trained(self) -> Method:
        return self.method.expert_method()

    @property
    def oracle(self) -> bool:
        """Whether the true task is told at test time."""
        return self.method.routing == "oracle"

    # Stages

    def _router(self, task: str) -> FitRouter:
        train, pooling, seed = self.tasks.split(task, "train"), self.pooling.decisive(), self.course.seed
        features: Pool | Query
        if self.pooling.learned:
            folds = self.router.folds
            features = Query(items=train.ref, pooling=pooling, folds=folds, seed=seed, cost=len(train.images))
        else:
            features = Pool(items=train.ref, pooling=pooling, query=None, cost=len(train.images))
        return FitRouter(
            items=train.ref, features=features, pooling=pooling, router=self.router.decisive(), seed=seed
        )

    def _pool(self, split: TaskSplit, router: FitRouter) -> Pool:
        query = router.features if isinstance(router.features, Query) else None
        return Pool(items=split.ref, pooling=router.pooling, query=query, cost=len(split.images))

    def _classifier(self, step: int) -> Classify:
        seen = self.course.order[: step + 1]
        asked = self.tested if len(seen) == len(self.course.order) else self.splits
        return Classify(
            items=tuple(self.tasks.split(task, "train").ref for task in sorted(seen)),
            classifier=classifier_options(self.method.options),
            seed=self.course.seed,
            splits=tuple(sorted((split.ref for split in asked.values()), key=lambda ref: ref.key_data())),
            cost=sum(len(split.images) for split in asked.values()),
        )

    def _merge(self, seen: Sequence[str]) -> Merge | None:
        """Of a set of tasks, not of a sequence; how images are routed has no part in it."""
        if not self.method.merges:
            return None
        own = self.method.expert_method().options.model_dump(mode="json")
        return Merge(
            method=replace(MethodRef.of(self.method), options=own),
            seed=self.course.seed,
            experts={task: self.experts[task] for task in sorted(seen)},
        )

    def head(self, step: int, task: str, name: str) -> Evaluate:
        """The evaluation of a task's head, as it is after `step` + 1 tasks, on the set `name`."""
        split, merged = self.tested[name], self.merged[step]
        if merged is None:
            return self.evaluate(self.experts[task], split)
        return self.evaluate(merged, split, member=task)

    def targets(self) -> list[Stage]:
        """Every head on every set, as far as routing can ask for it; routers and features."""
        last = len(self.course.order) - 1
        found: list[Stage] = [*self.routers.values(), *self.features.values(), *self.classifiers]
        for step in range(len(self.course.order)):
            for name in self.tested if step == last else self.splits:
                seen = self.course.order[: step + 1]
                found += [self.head(step, task, name) for task in seen if not self.oracle or task == name]
        if self.model:
            found.append(self.model)
        return list(each_once(found))

    def described(self) -> list[Stage]:
        """Heads and queries: they count in the bytes kept, and the model names them."""
        merged = self.merged[-1]
        queries = [router.features for router in self.routers.values() if isinstance(router.features, Query)]
        return [*self.experts.values(), *([merged] if merged else []), *queries]

    # Results

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """R with its upper triangle: images of tasks not seen yet go where the router sends them."""
        steps = range(len(self.course.order))
        return [[self._outcome(tables, step, name) for name in self.course.order] for step in steps]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """By the router over all tasks; an oracle tells a task, and images of none have none to tell."""
        if self.oracle:
            return {}
        last = len(self.course.order) - 1
        return {name: self._outcome(tables, last, name) for name in self.course.unseen}

    def last_scorings(self, tables: Tables, name: str) -> dict[str, Evaluate]:
        if self.oracle and name in self.unseen:
            return {}
        last, seen = len(self.course.order) - 1, sorted(self.course.order)
        return {
            image: self.frozen[name] if place == FALLBACK else self.head(last, seen[place], name)
            for image, place in self.choice(tables, last, name).items()
        }

    def _outcome(self, tables: Tables, step: int, name: str) -> OutcomeTable:
        seen = sorted(self.course.order[: step + 1])
        choice = self.choice(tables, step, name)
        used = sorted(set(choice.values()) - {FALLBACK})
        others = [tables.outcomes(self.head(step, seen[place], name)) for place in used]
        compact = {FALLBACK: FALLBACK, **{place: number for number, place in enumerate(used)}}
        frozen = tables.outcomes(self.frozen[name])
        return frozen.choose(others, {image: compact[place] for image, place in choice.items()})

    def choice(self, tables: Tables, step: int, name: str) -> dict[str, int]:
        """Of each image of a set, the place of its task among the sorted tasks seen; -1 is the frozen SAM."""
        seen, images = sorted(self.course.order[: step + 1]), self.tested[name].images
        if self.oracle:
            return dict.fromkeys(images, seen.index(name) if name in seen else FALLBACK)
        chosen = self._chosen(tables, step, name)
        return {image: int(place) for image, place in zip(images, chosen, strict=True)}

    def _chosen(self, tables: Tables, step: int, name: str) -> np.ndarray:
        """int64 (images,) by the classifier over the tasks seen, or by their densities."""
        if self.classifiers:
            return self.classifiers[step].read(tables.runs, self.tested[name].ref)
        routers = self._routers_after(tables)[step]
        scores = np.stack([self._score(tables, router, name) for router in routers.fitted], axis=1)
        return routers.route(scores, fallback=bool(getattr(self.method.options, "fallback", True)))

    def last_routing(self, tables: Tables) -> LastRouting | None:
        """Of every image of every tested set; None where no density routes."""
        if not self.routers:
            return None
        last = len(self.course.order) - 1
        routers = self._routers_after(tables)[last]
        scores = {
            name: np.stack([self._score(tables, router, name) for router in routers.fitted], axis=1)
            for name in self.tested
        }
        return LastRouting(
            routers.names, routers.thresholds(), {name: split.images for name, split in self.tested.items()},
            scores, {name: self._chosen(tables, last, name) for name in self.tested},
        )  # fmt: skip

    def _score(self, tables: Tables, router: FittedRouter, name: str) -> np.ndarray:
        place = (id(router.router), name)
        if place not in self._scores:
            self._scores[place] = router.score(self.features[name, router.task].read(tables.runs))
        return self._scores[place]

    def _routers_after(self, tables: Tables) -> list[TaskRouters]:
        """The routers after each task, with this entry's own threshold rule: a fit is shared by all rules."""
        if not self._loaded:
            order = self.course.order
            fitted = {
                task: replace(stage.read(tables.runs), choice=self.router)
                for task, stage in self.routers.items()
            }
            self._loaded.extend(
                TaskRouters([fitted[task] for task in order[: step + 1]]) for step in range(len(order))
            )
        return self._loaded

    def extra(self, tables: Tables) -> dict[str, Any]:
        """Routing and OOD accuracy, thresholds, and sizes."""
        last, order = len(self.course.order) - 1, self.course.order
        asked = order if self.oracle else self.tested
        sent = {name: list(self.choice(tables, last, name).values()) for name in asked}
        inside = [place for name in order for place in sent[name]]
        true = [sorted(order).index(name) for name in order for _ in sent[name]]
        outside = [place for name in self.course.unseen for place in sent.get(name, ())]
        found: dict[str, Any] = {
            "router": self.router.name if self.method.routing == "density" else self.method.routing,
            "routing_accuracy": None if self.oracle else routing_accuracy(inside, true),
            "parameters": tables.runs.recorded(next(iter(self.experts.values()))).get("parameters"),
            "bytes_kept": self._bytes(tables),
            "run": tables.folder(self.model) if self.model else None,
            "confusion": {name: self._counts(places) for name, places in sent.items()},
        }
        if outside:
            found["ood_accuracy"] = ood_accuracy(outside)
        if self.routers:
            routers = self._routers_after(tables)[last]
            taus = zip(routers.names, routers.thresholds().tolist(), strict=True)
            found["thresholds"] = {task: tau if np.isfinite(tau) else None for task, tau in taus}
        if not self.oracle and not self.method.merges:
            found["oracle"] = self._oracle_matrix(tables)
        return found

    def _counts(self, places: Sequence[int]) -> dict[str, int]:
        """Images of a set by where they were sent."""
        names = [*sorted(self.course.order), "frozen"]
        found: dict[str, int] = {}
        for place in places:
            found[names[place]] = found.get(names[place], 0) + 1
        return dict(sorted(found.items()))

    def _oracle_matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """R had the true task been told: what routing costs is the difference."""
        order = self.course.order
        return [
            [
                tables.outcomes(
                    self.head(step, name, name) if name in order[: step + 1] else self.frozen[name]
                )
                for name in order
            ]
            for step in range(len(order))
        ]

    def _bytes(self, tables: Tables) -> int:
        merged = self.merged[-1]
        if merged is None:
            kept = sum(fit.bytes_kept(tables.runs) for fit in self.experts.values())
        else:
            kept = int(tables.runs.recorded(merged).get("bytes", 0))
        routing: list[Stage] = [*self.routers.values(), *self.classifiers[-1:]]
        routing += [stage.features for stage in self.routers.values() if isinstance(stage.features, Query)]
        return kept + sum(int(tables.runs.recorded(stage).get("bytes", 0)) for stage in routing)
