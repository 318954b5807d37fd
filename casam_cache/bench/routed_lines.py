"""Results of routed methods: look-ups in the table of outcomes under every head, by what a router chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from casam_cache.bench.lines import Config, Course, Line
from casam_cache.bench.node import Node
from casam_cache.bench.nodes import Nodes
from casam_cache.bench.routed_work import read_choices, read_features
from casam_cache.bench.site import Split
from casam_cache.bench.stages import Stage
from casam_cache.bench.tables import OutcomeTable, Tables
from casam_cache.methods.base import Method
from casam_cache.methods.routed import Routed
from casam_cache.registry import revision_of
from casam_cache.routers.choice import (
    PoolingChoice,
    RouterChoice,
    RoutingOptions,
    chosen_options,
    pooling_choice,
    router_choice,
)
from casam_cache.routers.classifier import ClassifierOptions, classifier_options
from casam_cache.routers.files import load_router
from casam_cache.routers.fitted import FittedRouter, TaskRouters
from casam_cache.routers.routing import FALLBACK, ood_accuracy, routing_accuracy

REVISIONS = {"pool": 1, "query": 1, "router": 1, "classifier": 1, "merge": 1, "model": 1}
_WORK = "casam_cache.bench.routed_work"


@dataclass(frozen=True)
class RoutedNodes:
    """Makes the nodes of routing."""

    nodes: Nodes

    def pool(self, split: Split, pooling: PoolingChoice, query: Node | None = None) -> Node:
        """Pooled vectors of a split; all poolings of it share one reading.

        Args:
            split: whose images.
            pooling: in which way.
            query: of the task whose learned pooling is used.
        """
        inputs = {
            "task": split.task,
            "split": split.split,
            "items": split.content,
            "pooling": pooling.decisive(),
        }
        parents = {}
        if query is not None:
            inputs["query"], parents["query"] = query.key, query
        group = f"pool/{split.task}/{split.split}"
        return self._node("pool", "pool", inputs, parents, len(split.images), group, f"pooling {split.task}")

    def query(self, task: str, pooling: PoolingChoice, folds: int, seed: int) -> Node:
        """A task's learned pooling, and its training vectors."""
        train = self.nodes.site.split(task, "train")
        inputs = {
            "task": task,
            "items": train.content,
            "pooling": pooling.decisive(),
            "folds": folds,
            "seed": seed,
        }
        return self._node("query", "query", inputs, {}, len(train.images), None, f"learned pooling of {task}")

    def router(self, task: str, pooling: PoolingChoice, choice: RouterChoice, seed: int) -> Node:
        """A task's density on its pooled training vectors; thresholds are read off it later."""
        train = self.nodes.site.split(task, "train")
        features = (
            self.query(task, pooling, choice.folds, seed) if pooling.learned else self.pool(train, pooling)
        )
        inputs = {
            "task": task,
            "items": train.content,
            "features": features.key,
            "pooling": pooling.decisive(),
            "router": choice.decisive(),
            "seed": seed,
        }
        parents = {"features": features}
        return self._node("router", "route", inputs, parents, 1, "router", f"{choice.name} router of {task}")

    def classifier(
        self, options: ClassifierOptions, tasks: Sequence[str], splits: Sequence[Split], seed: int
    ) -> Node:
        """MoDA's classifier over a set of tasks, and its choices on `splits`; the tasks' order has no part in it."""
        trains = [self.nodes.site.split(task, "train") for task in sorted(tasks)]
        inputs = {
            "items": [[train.task, train.content] for train in trains],
            "classifier": options.model_dump(mode="json"),
            "seed": seed,
            "splits": sorted([split.task, split.split, split.content] for split in splits),
        }
        cost = sum(len(split.images) for split in splits)
        label = f"classifier of {len(trains)} tasks"
        return self._node("classifier", "classify", inputs, {}, cost, None, label)

    def merge(self, method: Routed, experts: Mapping[str, Node], seed: int) -> Node:
        """The merged heads of a set of tasks; how images are routed to them has no part in it."""
        own = {*type(method).Options.model_fields} - {*RoutingOptions.model_fields, "routing", "fallback"}
        options = method.options.model_dump(mode="json")
        inputs = {
            "method": {"name": method.name, "revision": revision_of(type(method))},
            "options": {name: value for name, value in options.items() if name in own},
            "seed": seed,
            "items": [[task, experts[task].key] for task in sorted(experts)],
        }
        parents = {task: experts[task] for task in sorted(experts)}
        return self._node(
            "merge", "merge", inputs, parents, 1, None, f"{method.name} of {len(experts)} heads"
        )

    def model(
        self,
        method: Routed,
        pooling: PoolingChoice,
        choice: RouterChoice,
        experts: Mapping[str, Node],
        routers: Mapping[str, Node],
    ) -> Node:
        """What belongs together for prediction."""
        parents = {f"head/{task}": node for task, node in experts.items()}
        parents |= {f"router/{task}": node for task, node in routers.items()}
        if pooling.learned:
            parents |= {f"query/{task}": node.parents["features"] for task, node in routers.items()}
        inputs = {
            "method": {"name": method.name, "revision": revision_of(type(method))},
            "options": chosen_options(method.options),
            "pooling": pooling.decisive(),
            "router": {**choice.decisive(), "threshold": choice.threshold, "strict": choice.strict},
            "tasks": sorted(experts),
            "parents": {role: node.key for role, node in sorted(parents.items())},
        }
        return self._node("model", "model", inputs, parents, 1, None, f"{method.name} model")

    def _node(
        self,
        kind: str,
        function: str,
        inputs: Mapping[str, Any],
        parents: Mapping[str, Node],
        cost: float,
        together: str | None,
        label: str,
    ) -> Node:
        stage = Stage(kind, REVISIONS[kind], dict(inputs))
        place = self.nodes.site.place
        return Node(stage, f"{_WORK}:{function}", place, dict(parents), cost, together, label)


class RoutedLine(Line):
    """A head a task and a router: the outcome of each mask under the head its image is sent to."""

    def __init__(self, config: Config, course: Course, nodes: Nodes) -> None:
        super().__init__(config, course, nodes)
        method = config.method
        assert isinstance(method, Routed)
        self.method, self.routed = method, RoutedNodes(nodes)
        self.experts = {
            task: nodes.fit(method.expert_method(), config.training, task, course.seed)
            for task in course.order
        }
        self.pooling = pooling_choice(method.options)
        self.router = router_choice(method.options)
        self.routers: dict[str, Node] = {}
        self.features: dict[tuple[str, str], Node] = {}
        self.classifiers: list[Node] = []
        if method.routing == "density":
            self._plan_density()
        if method.routing == "classifier":
            self._plan_classifiers()
        self.merged = [self._merge(course.order[: step + 1]) for step in range(len(course.order))]
        self.model = (
            self.routed.model(method, self.pooling, self.router, self.experts, self.routers)
            if self.routers and not method.merges
            else None
        )

    @property
    def trained(self) -> Method:
        """The expert."""
        method = self.config.method
        assert isinstance(method, Routed)
        return method.expert_method()

    def _plan_density(self) -> None:
        self.routers = {
            task: self.routed.router(task, self.pooling, self.router, self.course.seed)
            for task in self.course.order
        }
        for task, router in self.routers.items():
            query = router.parents["features"] if self.pooling.learned else None
            for name, split in self.tested.items():
                self.features[name, task] = self.routed.pool(split, self.pooling, query)

    def _plan_classifiers(self) -> None:
        options, order = classifier_options(self.method.options), self.course.order
        for step in range(len(order)):
            splits = list((self.tested if step == len(order) - 1 else self.splits).values())
            node = self.routed.classifier(options, order[: step + 1], splits, self.course.seed)
            self.classifiers.append(node)

    def _merge(self, seen: Sequence[str]) -> Node | None:
        if not self.method.merges:
            return None
        return self.routed.merge(self.method, {task: self.experts[task] for task in seen}, self.course.seed)

    @property
    def oracle(self) -> bool:
        """Whether the true task is told at test time."""
        return self.method.routing == "oracle"

    def head(self, step: int, task: str, name: str) -> Node:
        """The evaluation of a task's head, as it is after `step` + 1 tasks, on the set `name`."""
        split, merged = self.tested[name], self.merged[step]
        if merged is None:
            return self.make.evaluate(self.experts[task], split)
        return self.make.evaluate(merged, split, member=task)

    def targets(self) -> list[Node]:
        """Every head on every set, as far as routing can ask for it; routers and features."""
        last = len(self.course.order) - 1
        found: list[Node] = [*self.routers.values(), *self.features.values(), *self.classifiers]
        for step in range(len(self.course.order)):
            seen = self.course.order[: step + 1]
            names = self.tested if step == last else self.splits
            for name in names:
                used = [task for task in seen if not self.oracle or task == name]
                found += [self.head(step, task, name) for task in used]
        if self.model:
            found.append(self.model)
        return list({node.key: node for node in found}.values())

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """R with its upper triangle: images of tasks not seen yet go where the router sends them."""
        self._tables = tables
        return [
            [self._outcome(step, name) for name in self.course.order]
            for step in range(len(self.course.order))
        ]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """By the router over all tasks; an oracle sends images of no task to the frozen SAM."""
        self._tables = tables
        last = len(self.course.order) - 1
        return {name: self._outcome(last, name) for name in self.course.unseen}

    def _outcome(self, step: int, name: str) -> OutcomeTable:
        seen = sorted(self.course.order[: step + 1])
        choice = self.choice(step, name)
        used = sorted(set(choice.values()) - {FALLBACK})
        others = [self._tables.outcomes(self.head(step, seen[place], name)) for place in used]
        compact = {FALLBACK: FALLBACK, **{place: number for number, place in enumerate(used)}}
        frozen = self._tables.outcomes(self.frozen[name])
        return frozen.choose(others, {image: compact[place] for image, place in choice.items()})

    def choice(self, step: int, name: str) -> dict[str, int]:
        """Of each image of a set, the place of its task among the sorted tasks seen; -1 is the frozen SAM."""
        seen = sorted(self.course.order[: step + 1])
        images = self.tested[name].images
        if self.oracle:
            return dict.fromkeys(images, seen.index(name) if name in seen else FALLBACK)
        chosen = self._chosen(step, name)
        return {image: int(place) for image, place in zip(images, chosen, strict=True)}

    def _chosen(self, step: int, name: str) -> np.ndarray:
        """int64 (images,) by the classifier over the tasks seen, or by their densities."""
        if self.classifiers:
            folder = self._tables.runs.folder(self.classifiers[step].stage)
            return read_choices(folder, name, self.tested[name].split)
        routers = self._seen_routers[step]
        scores = np.stack([self._score(router, name) for router in routers.fitted], axis=1)
        return routers.route(scores, fallback=bool(getattr(self.method.options, "fallback", True)))

    def _score(self, router: FittedRouter, name: str) -> np.ndarray:
        known: dict[tuple[int, str], np.ndarray] = self._scores
        place = (id(router.router), name)
        if place not in known:
            folder = self._tables.runs.folder(self.features[name, router.task].stage)
            known[place] = router.score(read_features(folder))
        return known[place]

    @cached_property
    def _scores(self) -> dict[tuple[int, str], np.ndarray]:
        return {}

    @cached_property
    def _seen_routers(self) -> list[TaskRouters]:
        """The routers after each task."""
        runs = self._tables.runs
        loaded = {
            task: self._with_options(load_router(runs.folder(node.stage)))
            for task, node in self.routers.items()
        }
        order = self.course.order
        return [TaskRouters([loaded[task] for task in order[: step + 1]]) for step in range(len(order))]

    def _with_options(self, router: FittedRouter) -> FittedRouter:
        """A fit is shared by every threshold rule: this line's own rule comes in here."""
        from dataclasses import replace

        return replace(router, choice=self.router)

    def extra(self, tables: Tables) -> dict[str, Any]:
        """Routing and OOD accuracy, thresholds, and sizes."""
        self._tables = tables
        last = len(self.course.order) - 1
        seen = sorted(self.course.order)
        chosen = {name: list(self.choice(last, name).values()) for name in self.tested}
        own = [place for name in self.course.order for place in chosen[name]]
        true = [seen.index(name) for name in self.course.order for _ in chosen[name]]
        found: dict[str, Any] = {
            "router": self.router_name,
            "routing_accuracy": None if self.oracle else routing_accuracy(own, true),
            "parameters": tables.parameters(next(iter(self.experts.values()))),
            "bytes_kept": self._bytes(tables),
            "run": tables.folder(self.model) if self.model else None,
            "confusion": {name: self._counts(last, name) for name in self.tested},
        }
        if not self.oracle and self.course.unseen:
            found["ood_accuracy"] = ood_accuracy([p for name in self.course.unseen for p in chosen[name]])
        if self.routers:
            routers = self._seen_routers[last]
            taus = zip(routers.names, routers.thresholds().tolist(), strict=True)
            found["thresholds"] = {task: tau if np.isfinite(tau) else None for task, tau in taus}
        if not self.oracle and not self.method.merges:
            found["oracle"] = self._oracle_matrix()
        return found

    @property
    def router_name(self) -> str:
        """What chose the heads."""
        return self.router.name if self.method.routing == "density" else self.method.routing

    def _counts(self, step: int, name: str) -> dict[str, int]:
        """Images of a set by where they were sent."""
        names = [*sorted(self.course.order[: step + 1]), "frozen"]
        found: dict[str, int] = {}
        for place in self.choice(step, name).values():
            found[names[place]] = found.get(names[place], 0) + 1
        return dict(sorted(found.items()))

    def _oracle_matrix(self) -> list[list[OutcomeTable]]:
        """R had the true task been told: what routing costs is the difference."""
        order = self.course.order
        return [
            [
                self._tables.outcomes(
                    self.head(step, name, name) if name in order[: step + 1] else self.frozen[name]
                )
                for name in order
            ]
            for step in range(len(order))
        ]

    def _bytes(self, tables: Tables) -> int:
        merged = self.merged[-1]
        if merged is None:
            kept = sum(tables.bytes_kept(node) for node in self.experts.values())
        else:
            kept = int(tables.recorded(merged).get("bytes", 0))
        routing = [*self.routers.values(), *self.classifiers[-1:]]
        if self.pooling.learned:
            routing += [node.parents["features"] for node in self.routers.values()]
        return kept + sum(int(tables.recorded(node).get("bytes", 0)) for node in routing)
