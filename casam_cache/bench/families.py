"""The families of methods: which stages each needs over an order, and how R[t, k] follows from outcomes.

A family is named by `Method.family`. An `Entry` is one method with its options over one order and seed: one row of
results. Routed methods are in `routed.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from casam_cache.backbones.devices import choose_precision
from casam_cache.bench.stages.distance import Cost, Distance, reference_content, reference_store
from casam_cache.bench.stages.evaluate import Evaluate, MetricRefs, metric_refs
from casam_cache.bench.stages.fit import Fit, JointFit
from casam_cache.bench.stages.head import HeadStage, MethodRef
from casam_cache.bench.stages.sequence import Learn, Remember, SequenceStage
from casam_cache.bench.tables import OutcomeTable, Tables
from casam_cache.bench.tasks import SplitRef, Tasks, TaskSplit
from casam_cache.config import validated
from casam_cache.engine.stage import Stage, closure, each_once
from casam_cache.errors import OptionError
from casam_cache.fingerprint import digest
from casam_cache.methods.base import Method
from casam_cache.methods.registry import METHODS
from casam_cache.methods.sequential import Sequential
from casam_cache.routers.choice import chosen_options
from casam_cache.training.evaluation_prompts import BOX, EvaluationPrompt
from casam_cache.training.held_out import FEWEST_GROUPS
from casam_cache.training.items import ALL
from casam_cache.training.options import LATER, VIEW_SEPARATOR, TrainingOptions
from casam_cache.views import parse_views


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
        return {**chosen_options(self.method.options), **self.training.model_dump(mode="json")}


@dataclass(frozen=True)
class Course:
    """What a method goes through.

    Attributes:
        order: tasks, in order of training.
        seed: of the run.
        evaluate: the split that is scored.
        unseen: sets that no method trains on, scored after the last task.
        metrics: what is scored.
        prompt: what every mask is prompted with, for every method and for the frozen SAM.
    """

    order: tuple[str, ...]
    seed: int
    evaluate: str
    unseen: tuple[str, ...]
    metrics: MetricRefs = field(default_factory=metric_refs)
    prompt: EvaluationPrompt = BOX


class Entry(ABC):
    """A config over a course."""

    def __init__(self, config: Config, course: Course, tasks: Tasks) -> None:
        self.config, self.course, self.tasks = config, course, tasks
        used = [name for name in ("shots", "mix") if getattr(config.training, name)]
        if used and config.method.family not in ("single", "frozen"):
            raise OptionError(
                f"{used[0]} is of methods that learn one task, and {config.method.name} learns several",
                f"leave {used[0]} out, or choose methods such as alignment and decoder",
            )
        self.splits = {task: tasks.split(task, course.evaluate) for task in course.order}
        self.unseen = {task: tasks.split(task, ALL) for task in course.unseen}
        # Every result is beside the frozen SAM's on the same masks and prompts: forward transfer needs it.
        self.frozen = {name: self.evaluate(None, split) for name, split in self.tested.items()}
        first = course.order[0]
        weights = tasks.store(first).identity["backbone"]["weights"]
        self.cost = Cost(method=MethodRef.of(self.trained), weights=weights, task=first)

    @property
    def trained(self) -> Method:
        """The method whose head one training pass goes through."""
        return self.config.method

    @property
    def tested(self) -> dict[str, TaskSplit]:
        return {**self.splits, **self.unseen}

    @cached_property
    def wanted(self) -> tuple[Stage, ...]:
        """The stages whose results are read, each once."""
        return each_once([*self.frozen.values(), self.cost, *self.targets(), *self.described()])

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage this result is made from, parents before children."""
        return tuple(closure(self.wanted))

    @cached_property
    def key(self) -> str:
        """Names the result: what it is, and the stages it is made from."""
        described = [self.config.method.name, list(self.course.order), self.course.seed, self.course.evaluate]
        used = sorted(stage.key for stage in self.targets())
        return digest([described, self.config.to_json(), used])[:20]

    @abstractmethod
    def targets(self) -> list[Stage]:
        """Stages whose results enter the figures (their parents follow)."""

    def described(self) -> list[Stage]:
        """Further stages whose sizes or facts enter the row: they must be there, though nothing is scored with them."""
        return []

    @abstractmethod
    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        """For each row of R, the outcomes on each test set in order of training; one row where there is no path."""

    @abstractmethod
    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        """Outcomes on each unseen set after the last task; empty where the method has no answer there."""

    @abstractmethod
    def last_scorings(self, tables: Tables, name: str) -> dict[str, Evaluate]:
        """By image of a tested set, the scoring whose outcome its masks have after the last task; empty as above."""

    def extra(self, tables: Tables) -> dict[str, Any]:
        return {}

    def evaluate(self, head: HeadStage | None, split: TaskSplit, member: str = "") -> Evaluate:
        """The scoring of a head, or of the frozen SAM."""
        return scoring(split, head, member, self.course.prompt, self.course.metrics)

    def fit(self, method: Method, task: str) -> Fit:
        """The ordinary fit of one task, which every order and every method that begins with it shares."""
        return fit_stage(self.tasks, method, self.config.training, task, self.course.seed)


class OneRowEntry(Entry):
    """A method that no path of tasks has a part in: R has its last row only.

    Attributes:
        scored: the one evaluation of each set on which the method has an answer.
    """

    scored: Mapping[str, Evaluate]

    def targets(self) -> list[Stage]:
        return list(self.scored.values())

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        return [[tables.outcomes(self.scored[task]) for task in self.course.order]]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        return {
            task: tables.outcomes(self.scored[task]) for task in self.course.unseen if task in self.scored
        }

    def last_scorings(self, tables: Tables, name: str) -> dict[str, Evaluate]:
        return dict.fromkeys(self.tested[name].images, self.scored[name]) if name in self.scored else {}


class FrozenEntry(OneRowEntry):
    """The frozen SAM: the same on every row."""

    def __init__(self, config: Config, course: Course, tasks: Tasks) -> None:
        super().__init__(config, course, tasks)
        self.scored = self.frozen

    def extra(self, tables: Tables) -> dict[str, Any]:
        return {"parameters": 0, "bytes_kept": 0}


class SingleEntry(OneRowEntry):
    """A fit of its own for every task, scored on that task alone: no sequence, no routing (Tables 3 and 7)."""

    def __init__(self, config: Config, course: Course, tasks: Tasks) -> None:
        super().__init__(config, course, tasks)
        self.fits = {task: self.fit(config.method, task) for task in course.order}
        self.scored = {task: self.evaluate(fit, self.splits[task]) for task, fit in self.fits.items()}
        compared = tasks.place.reference
        self.distances = {task: self._distance(fit) for task, fit in self.fits.items() if compared}

    def _distance(self, fit: Fit) -> Distance:
        split = self.splits[fit.task]
        store = reference_store(Path(self.tasks.place.reference), fit.task)
        reference = reference_content(store, split.images)
        cost = 3 * len(split.images)  # each is read three times
        return Distance(items=split.ref, head=fit, reference=reference, cost=cost)

    def targets(self) -> list[Stage]:
        return [*super().targets(), *self.distances.values()]

    def described(self) -> list[Stage]:
        return list(self.fits.values())

    def extra(self, tables: Tables) -> dict[str, Any]:
        return {
            "parameters": tables.runs.recorded(self.fits[self.course.order[0]]).get("parameters"),
            "bytes_kept": sum(fit.bytes_kept(tables.runs) for fit in self.fits.values()),
            "step_seconds": tables.step_seconds(list(self.fits.values())),
            "run": {task: tables.folder(fit) for task, fit in self.fits.items()},
            "distances": {task: stage.read(tables.runs) for task, stage in self.distances.items()},
            **(
                {"features": {task: stage.name for task, stage in self.distances.items()}}
                if self.distances
                else {}
            ),
        }


class JointEntry(OneRowEntry):
    """One head on all tasks at once: the last row only."""

    def __init__(self, config: Config, course: Course, tasks: Tasks) -> None:
        super().__init__(config, course, tasks)
        trains = [train_split(tasks, config.method, config.training, task) for task in sorted(course.order)]
        self.joint = JointFit(
            method=MethodRef.of(config.method),
            training=resolved(config.training, tasks, trains),
            seed=course.seed,
            items=tuple(train.ref for train in trains),
            cost=sum(visits(train, config.training) for train in trains),
        )
        self.scored = {name: self.evaluate(self.joint, split) for name, split in self.tested.items()}

    def described(self) -> list[Stage]:
        return [self.joint]

    def extra(self, tables: Tables) -> dict[str, Any]:
        return {
            "parameters": tables.runs.recorded(self.joint).get("parameters"),
            "bytes_kept": self.joint.bytes_kept(tables.runs),
            "run": tables.folder(self.joint),
        }


@dataclass(frozen=True)
class _After:
    """A sequential method after some tasks: where its head and its memory are, and what was learnt."""

    head: HeadStage
    memory: SequenceStage | None
    past: tuple[SplitRef, ...]


class SequentialEntry(Entry):
    """One head through the tasks, scored on every test set after each of them."""

    def __init__(self, config: Config, course: Course, tasks: Tasks) -> None:
        super().__init__(config, course, tasks)
        self.after: list[_After] = []
        for task in course.order:
            self.after.append(self._learn(self.after[-1] if self.after else None, task))
        self.cells = [
            [self.evaluate(after.head, self.splits[task]) for task in course.order] for after in self.after
        ]
        last = self.after[-1].head
        self.outside = {name: self.evaluate(last, split) for name, split in self.unseen.items()}

    def _learn(self, before: _After | None, task: str) -> _After:
        """After one more task; the first may be an ordinary fit that others share."""
        method = self.config.method
        assert isinstance(method, Sequential)
        train = train_split(self.tasks, method, self.config.training, task)
        past = before.past if before else ()
        common: dict[str, Any] = {
            "method": MethodRef.of(method),
            "training": resolved(self.config.training, self.tasks, [train]),
            "seed": self.course.seed,
            "items": train.ref,
        }
        if before is None and method.first is not None:
            head = self.fit(with_shared_options(method.first, method.options), task)
            memory = Remember(**common, fitted=head, cost=len(train.images)) if method.remembers else None
            return _After(head, memory, (train.ref,))
        learnt = Learn(
            **common,
            cost=visits(train, self.config.training),
            last=before.head if before else None,
            last_memory=before.memory if before else None,
            past=past,
        )
        return _After(learnt, learnt, (*past, train.ref))

    def targets(self) -> list[Stage]:
        memory = self.after[-1].memory  # it is part of what the method keeps
        cells = [stage for row in self.cells for stage in row]
        return [*cells, *self.outside.values(), *([memory] if memory else [])]

    def described(self) -> list[Stage]:
        return [self.after[-1].head]

    def matrix(self, tables: Tables) -> list[list[OutcomeTable]]:
        return [[tables.outcomes(stage) for stage in row] for row in self.cells]

    def on_unseen(self, tables: Tables) -> dict[str, OutcomeTable]:
        return {task: tables.outcomes(stage) for task, stage in self.outside.items()}

    def last_scorings(self, tables: Tables, name: str) -> dict[str, Evaluate]:
        last = dict(zip(self.course.order, self.cells[-1], strict=True)) | self.outside
        return dict.fromkeys(self.tested[name].images, last[name])

    def extra(self, tables: Tables) -> dict[str, Any]:
        last = self.after[-1]
        kept = last.head.bytes_kept(tables.runs)
        if last.memory is not None:
            memory = last.memory.memory(tables.runs)
            kept += memory.bytes + sum(self._embedding_bytes(exemplar.task) for exemplar in memory.exemplars)
        return {
            "parameters": tables.runs.recorded(last.head).get("parameters"),
            "bytes_kept": kept,
            "run": tables.folder(last.head),
        }

    def _embedding_bytes(self, task: str) -> int:
        """Of an exemplar's embedding; its masks are a few hundred bytes."""
        store = self.tasks.place.store(task)
        size = store.dtype.itemsize
        for side in store.embedding_shape:
            size *= side
        return size


def entry_class(method: Method) -> type[Entry]:
    from casam_cache.bench.routed import RoutedEntry

    families: dict[str, type[Entry]] = {
        "frozen": FrozenEntry,
        "single": SingleEntry,
        "joint": JointEntry,
        "sequential": SequentialEntry,
        "routed": RoutedEntry,
    }
    return families[method.family]


def scoring(
    split: TaskSplit,
    head: HeadStage | None,
    member: str = "",
    prompt: EvaluationPrompt = BOX,
    metrics: MetricRefs | None = None,
) -> Evaluate:
    """The scoring of a head, or of the frozen SAM, on a split; by default with the standard metrics."""
    return Evaluate(
        items=split.ref, head=head, member=member, prompt=prompt.name,
        metrics=metric_refs() if metrics is None else metrics, cost=sum(split.masks) * prompt.passes,
    )  # fmt: skip


def fit_stage(
    tasks: Tasks, method: Method, training: TrainingOptions, task: str, seed: int, split: str = "train"
) -> Fit:
    """The fit of a single-task method to one task, from a split of it."""
    train = train_split(tasks, method, training, task, split)
    return Fit(
        method=MethodRef.of(method),
        training=resolved(training, tasks, [train]),
        seed=seed,
        items=train.ref,
        cost=visits(train, training),
    )


def train_split(
    tasks: Tasks, method: Method, training: TrainingOptions, task: str, split: str = "train"
) -> TaskSplit:
    """The train split of a task, which must have all that the method reads."""
    views = (view.array for view in parse_views(training.views, VIEW_SEPARATOR))
    tasks.require(task, (*method.needs, *views))
    return tasks.split(task, split)


def resolved(training: TrainingOptions, tasks: Tasks, trains: Sequence[TaskSplit]) -> TrainingOptions:
    """The recipe with the numeric mode that `auto` means on this device, and nothing of options without effect.

    Where no task has enough groups for some to be held out, the fit is that of a recipe which asks for none, unless it
    then goes part of the way alone.
    """
    precision = choose_precision(training.precision, torch.device(tasks.place.device))
    apart = any(train.groups >= FEWEST_GROUPS for train in trains)
    none = ("checks", "patience") if training.interpolations else ("held_out", "checks", "patience")
    unused = {} if apart else {name: LATER[name] for name in none}
    return training.model_copy(update={"precision": precision, **unused})


def visits(train: TaskSplit, training: TrainingOptions) -> float:
    """Image-mask pairs that a fit trains on: the unit of its cost."""
    images = min(train.scored, training.shots or train.scored)
    pairs = sum(min(count, training.masks_per_image) for count in train.masks) * images / train.scored
    each = max(1, -(-images // training.batch_size))
    return pairs * training.steps(images) / each


def with_shared_options(name: str, options: BaseModel) -> Method:
    """The method `name` with the options that it shares with `options`."""
    made = METHODS.get(name)
    model, given = made.options_model(), options.model_dump(mode="json")
    return made(validated(model, {key: given[key] for key in model.model_fields if key in given}))
