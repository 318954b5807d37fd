"""One result: a method with its options over one order and seed; the stages it needs, and its figures from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from casam_cache.bench.node import Node
from casam_cache.bench.nodes import Nodes, State
from casam_cache.bench.side_work import read_distances
from casam_cache.bench.site import Split
from casam_cache.bench.tables import OutcomeTable, Tables
from casam_cache.fingerprint import digest
from casam_cache.methods.base import Method
from casam_cache.methods.joint import Joint
from casam_cache.methods.sequential import Sequential
from casam_cache.training.options import TrainingOptions


@dataclass(frozen=True)
class Config:
    """One method with one set of options.

    Attributes:
        label: in tables.
        method: with its options.
        training: the recipe of its fits.
        chosen: the options that were set, as given, for tables and selection.
    """

    label: str
    method: Method
    training: TrainingOptions
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Every option, plain."""
        return {
            **self.method.options.model_dump(mode="json"),
            **self.training.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Course:
    """What a method goes through.

    Attributes:
        order: tasks, in order of training.
        seed: of the run.
        evaluate: the split that is scored.
        unseen: sets that no method trains on, scored after the last task.
    """

    order: tuple[str, ...]
    seed: int
    evaluate: str
    unseen: tuple[str, ...]


class Line(ABC):
    """A config over a course."""

    def __init__(self, config: Config, course: Course, nodes: Nodes) -> None:
        self.config, self.course, self.make = config, course, nodes
        self.splits = {task: nodes.site.split(task, course.evaluate) for task in course.order}
        self.unseen = {task: nodes.site.split(task, "test") for task in course.unseen}
        # Every result is beside the frozen SAM's on the same masks and prompts: forward transfer needs it.
        self.frozen = {name: nodes.evaluate(None, split) for name, split in self.tested.items()}
        self.cost = nodes.cost(self.trained, course.order[0])

    @property
    def trained(self) -> Method:
        """The method whose head one training pass goes through."""
        return self.config.method

    @property
    def tested(self) -> dict[str, Split]:
        """Every set that is scored."""
        return {**self.splits, **self.unseen}

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every stage this result is made from, parents before children."""
        return tuple(closure([*self.frozen.values(), self.cost, *self.targets()]))

    @property
    def key(self) -> str:
        """Names the result: what it is, and the stages it is made from."""
        described = [self.config.method.name, list(self.course.order), self.course.seed, self.course.evaluate]
        used = sorted(node.key for node in self.targets())
        return digest([described, self.config.to_json(), used])[:20]

    @abstractmethod
    def targets(self) -> list[Node]:
        """Stages whose results enter the figures (their parents follow)."""

    @abstractmethod
    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """For each row of R, the outcomes on each test set in order of training; one row where there is no path."""

    @abstractmethod
    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """Outcomes on each unseen set after the last task; empty where the method has no answer there."""

    def extra(self, tables: Tables) -> dict[str, Any]:
        """Further columns of the result."""
        return {}


def closure(targets: Iterable[Node]) -> list[Node]:
    """The nodes and all their ancestors, each once, parents first."""
    seen: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.key in seen:
            return
        for parent in node.parents.values():
            visit(parent)
        seen[node.key] = node

    for node in targets:
        visit(node)
    return list(seen.values())


class FrozenLine(Line):
    """The frozen SAM: the same on every row."""

    def targets(self) -> list[Node]:
        """The evaluations without a head."""
        return list(self.frozen.values())

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """One row."""
        return [[tables.outcomes(self.frozen[task]) for task in self.course.order]]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """As on every other set."""
        return {task: tables.outcomes(self.frozen[task]) for task in self.course.unseen}

    def extra(self, tables: Tables) -> dict[str, Any]:
        """Nothing is trained or kept."""
        return {"parameters": 0, "bytes_kept": 0}


class SingleLine(Line):
    """A fit of its own for every task, scored on that task: no sequence, no routing (Tables 3 and 7)."""

    def __init__(self, config: Config, course: Course, nodes: Nodes) -> None:
        super().__init__(config, course, nodes)
        self.fits = {
            task: nodes.fit(config.method, config.training, task, course.seed) for task in course.order
        }
        self.scored = {task: nodes.evaluate(fit, self.splits[task]) for task, fit in self.fits.items()}
        compared = nodes.site.place.reference
        self.distances = {
            task: nodes.distance(fit, self.splits[task]) for task, fit in self.fits.items() if compared
        }

    def targets(self) -> list[Node]:
        """Each task's evaluation, and its distances where there is a reference."""
        return [*self.scored.values(), *self.distances.values()]

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """One row: each task by its own fit."""
        return [[tables.outcomes(self.scored[task]) for task in self.course.order]]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """No fit belongs to an unseen set."""
        return {}

    def extra(self, tables: Tables) -> dict[str, Any]:
        """Size of one fit, and of all."""
        return {
            "parameters": tables.parameters(self.fits[self.course.order[0]]),
            "bytes_kept": sum(tables.bytes_kept(fit) for fit in self.fits.values()),
            "run": {task: tables.folder(fit) for task, fit in self.fits.items()},
            "distances": {
                task: read_distances(tables.runs.folder(node.stage)) for task, node in self.distances.items()
            },
        }


class JointLine(Line):
    """One head on all tasks at once: the last row only."""

    def __init__(self, config: Config, course: Course, nodes: Nodes) -> None:
        super().__init__(config, course, nodes)
        assert isinstance(config.method, Joint)
        self.fit = nodes.joint(config.method, config.training, course.order, course.seed)
        self.scored = {name: nodes.evaluate(self.fit, split) for name, split in self.tested.items()}

    def targets(self) -> list[Node]:
        """The evaluations."""
        return list(self.scored.values())

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """One row."""
        return [[tables.outcomes(self.scored[task]) for task in self.course.order]]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """By the same head."""
        return {task: tables.outcomes(self.scored[task]) for task in self.course.unseen}

    def extra(self, tables: Tables) -> dict[str, Any]:
        """Size of the head."""
        return {
            "parameters": tables.parameters(self.fit),
            "bytes_kept": tables.bytes_kept(self.fit),
            "run": tables.folder(self.fit),
        }


class SequentialLine(Line):
    """One head through the tasks, scored on every test set after each of them."""

    def __init__(self, config: Config, course: Course, nodes: Nodes) -> None:
        super().__init__(config, course, nodes)
        method = config.method
        assert isinstance(method, Sequential)
        state: State | None = None
        self.states: list[State] = []
        for task in course.order:
            state = nodes.learn(method, config.training, state, task, course.seed)
            self.states.append(state)
        self.cells = [
            [nodes.evaluate(state.head, self.splits[task]) for task in course.order] for state in self.states
        ]
        self.outside = {
            name: nodes.evaluate(self.states[-1].head, split) for name, split in self.unseen.items()
        }

    def targets(self) -> list[Node]:
        """All evaluations, and the last memory: it is part of what the method keeps."""
        last = self.states[-1].memory
        return [
            *(node for row in self.cells for node in row),
            *self.outside.values(),
            *([last] if last else []),
        ]

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """A row a task learnt."""
        return [[tables.outcomes(node) for node in row] for row in self.cells]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """By the last head."""
        return {task: tables.outcomes(node) for task, node in self.outside.items()}

    def extra(self, tables: Tables) -> dict[str, Any]:
        """Size of the last head and memory."""
        last = self.states[-1]
        kept = tables.bytes_kept(last.head) + (tables.memory_bytes(last.memory) if last.memory else 0)
        return {
            "parameters": tables.parameters(last.head),
            "bytes_kept": kept,
            "run": tables.folder(last.head),
        }


def means(table: OutcomeTable) -> dict[str, float]:
    """The mean of each metric over the masks where it is defined; NaN where there is none."""
    found = {}
    for name, values in table.scores.items():
        finite = values[np.isfinite(values)]
        found[name] = float(finite.mean()) if len(finite) else float("nan")
    return found
