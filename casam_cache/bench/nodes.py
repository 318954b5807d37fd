"""The stages of a bench and what their keys hold: exactly what their results depend on.

Every key holds the stage's kind and revision, options, the numeric mode, the seed, the content hashes of the items read
(which hold the backbone's fingerprint) and the keys of the stages before it. Device and versions are recorded only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from casam_cache.backbones.devices import choose_precision
from casam_cache.bench.node import Node
from casam_cache.bench.side_work import reference_content, reference_store
from casam_cache.bench.site import Site, Split
from casam_cache.bench.stages import Stage
from casam_cache.config import validated
from casam_cache.methods.base import Method
from casam_cache.methods.joint import Joint
from casam_cache.methods.registry import METHODS
from casam_cache.methods.sequential import Sequential
from casam_cache.registry import revision_of
from casam_cache.training.options import VIEW_SEPARATOR, TrainingOptions
from casam_cache.views import parse_views

PROMPT = "oracle box"
REVISIONS = {"fit": 1, "joint": 1, "learn": 1, "memory": 1, "evaluate": 1, "cost": 1, "distance": 1}
_WORK = "casam_cache.bench.work"
_SIDE = "casam_cache.bench.side_work"


@dataclass(frozen=True)
class State:
    """A sequential method after some tasks: where its head and its memory are.

    Attributes:
        head, memory: nodes; a memory may be missing.
        past: tasks learnt with the content of their train splits, in order.
    """

    head: Node
    memory: Node | None
    past: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Nodes:
    """Makes the nodes of one site.

    Attributes:
        site: the stores.
    """

    site: Site

    def fit(self, method: Method, training: TrainingOptions, task: str, seed: int) -> Node:
        """An ordinary fit of one task (`work.fit`)."""
        train = self._train(method, training, task)
        inputs = {**self._recipe(method, training, seed), "task": task, "items": train.content}
        return self._node("fit", "fit", inputs, {}, visits(train, training), f"{method.name} on {task}")

    def expert(self, name: str, options: BaseModel, training: TrainingOptions, task: str, seed: int) -> Node:
        """The ordinary fit of another method, with the options that both have."""
        return self.fit(expert_method(name, options), training, task, seed)

    def joint(self, method: Joint, training: TrainingOptions, tasks: Sequence[str], seed: int) -> Node:
        """One head on the union of the tasks' train splits (`work.joint`)."""
        trains = [self._train(method, training, task) for task in sorted(tasks)]
        inputs = {
            **self._recipe(method, training, seed),
            "items": [[train.task, train.content] for train in trains],
        }
        cost = sum(visits(train, training) for train in trains)
        return self._node("joint", "joint", inputs, {}, cost, f"{method.name} on {len(tasks)} tasks")

    def learn(
        self, method: Sequential, training: TrainingOptions, state: State | None, task: str, seed: int
    ) -> State:
        """A sequential method after one more task; its first may be an ordinary fit that others share."""
        train = self._train(method, training, task)
        done = (*(state.past if state else ()), (task, train.content))
        base = {**self._recipe(method, training, seed), "task": task, "items": train.content}
        if state is None and method.first is not None:
            head = self.expert(method.first, method.options, training, task, seed)
            if not method.remembers:
                return State(head, None, done)
            parents = {"head": head}
            memory = self._node(
                "memory", "remember", {**base, "head": head.key}, parents, len(train.images),
                f"memory of {method.name} after {task}",
            )  # fmt: skip
            return State(head, memory, done)
        parents = {}
        if state is not None:
            parents = {"head": state.head, **({"memory": state.memory} if state.memory else {})}
        inputs = {
            **base,
            "past": [list(entry) for entry in (state.past if state else ())],
            "parents": {role: node.key for role, node in parents.items()},
        }
        node = self._node(
            "learn", "learn", inputs, parents, visits(train, training), f"{method.name} on {task}"
        )
        return State(node, node, done)

    def evaluate(self, head: Node | None, split: Split, member: str | None = None) -> Node:
        """Per-mask outcomes of a head on a split; without a head, of the frozen SAM (`work.evaluate`).

        Args:
            head: node of the head's folder.
            split: what to score on.
            member: which of several heads in that folder.
        """
        inputs: dict[str, Any] = {
            "task": split.task,
            "split": split.split,
            "items": split.content,
            "prompt": PROMPT,
            "head": head.key if head else "identity",
        }
        if member is not None:
            inputs["member"] = member
        parents = {"head": head} if head else {}
        label = f"{head.label if head else 'frozen SAM'} scored on {split.task}"
        return self._node("evaluate", "evaluate", inputs, parents, sum(split.masks), label)

    def cost(self, method: Method, task: str) -> Node:
        """What one training pass of the method's head costs, on the backbone of a task's store."""
        inputs = {
            "method": {"name": method.name, "revision": revision_of(type(method))},
            "options": method.options.model_dump(mode="json"),
            "backbone": self.site.store(task).identity["backbone"]["weights"],
        }
        return self._node("cost", "cost", inputs, {}, 1, f"cost of {method.name}", _SIDE)

    def distance(self, fit: Node, split: Split) -> Node:
        """Distances of a split's features, before and after a fitted head, to the reference store's."""
        reference = reference_store(Path(self.site.place.reference), split.task)
        inputs = {
            "task": split.task,
            "split": split.split,
            "items": split.content,
            "head": fit.key,
            "reference": reference_content(reference, split.images),
        }
        cost = 3.0 * len(split.images)
        return self._node(
            "distance", "distance", inputs, {"head": fit}, cost, f"distances of {split.task}", _SIDE
        )

    def _train(self, method: Method, training: TrainingOptions, task: str) -> Split:
        views = (view.array for view in parse_views(training.views, VIEW_SEPARATOR))
        self.site.require(task, (*method.needs, *views))
        return self.site.split(task, "train")

    def _recipe(self, method: Method, training: TrainingOptions, seed: int) -> dict[str, Any]:
        numeric = choose_precision(training.precision, torch.device(self.site.place.device))
        return {
            "method": {"name": method.name, "revision": revision_of(type(method))},
            "options": method.options.model_dump(mode="json"),
            "training": {**training.model_dump(mode="json"), "precision": numeric},
            "seed": seed,
        }

    def _node(
        self,
        kind: str,
        function: str,
        inputs: Mapping[str, Any],
        parents: Mapping[str, Node],
        cost: float,
        label: str,
        module: str = _WORK,
    ) -> Node:
        stage = Stage(kind, REVISIONS[kind], dict(inputs))
        return Node(
            stage, f"{module}:{function}", self.site.place, dict(parents), max(1.0, cost), label=label
        )


def visits(train: Split, training: TrainingOptions) -> float:
    """Image-mask pairs that a fit trains on: the unit of its cost."""
    pairs = sum(min(count, training.masks_per_image) for count in train.masks)
    epochs = float(training.epochs)
    if training.max_steps is not None:
        epochs = min(epochs, training.max_steps * training.batch_size / max(1, train.scored))
    return pairs * epochs


def expert_method(name: str, options: BaseModel) -> Method:
    """The method `name` with the options that it shares with `options`."""
    made = METHODS.get(name)
    shared = {
        key: value
        for key, value in options.model_dump(mode="json").items()
        if key in made.Options.model_fields
    }
    return made(validated(made.Options, shared))
