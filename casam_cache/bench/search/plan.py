"""What a search is over: a method, tasks with their validation groups, a space, and the stages of each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from casam_cache.backbones.devices import choose_device
from casam_cache.bench.configs import config_of, fitting
from casam_cache.bench.families import Config, fit_stage, scoring, train_split
from casam_cache.bench.fit_recipe import FitRecipe
from casam_cache.bench.search.halving import Rung, rungs_of
from casam_cache.bench.search.objectives import read_objectives
from casam_cache.bench.search.space import BUILTIN, Space, read_space
from casam_cache.bench.stages.distance import Cost
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.stages.fit import Fit
from casam_cache.bench.stages.head import MethodRef
from casam_cache.bench.tasks import Tasks, TaskSplit
from casam_cache.config import parse_settings, single_values
from casam_cache.engine.stage import KEY_DIGITS
from casam_cache.errors import OptionError, StoreError
from casam_cache.fingerprint import digest
from casam_cache.methods.base import Method
from casam_cache.methods.registry import METHODS
from casam_cache.references import absolute_reference, is_file_reference
from casam_cache.registry import revision_of
from casam_cache.training.evaluation_prompts import BOX, EvaluationPrompt, parse_prompt
from casam_cache.training.folds import Fold

VAL = "val"
HELD = Fold(1, 4, within=True)  # of the training split, where a task has no validation split


@dataclass(frozen=True)
class Judged:
    """Where a task's fits are trained and judged; its test split is neither.

    Attributes:
        task: its name.
        train: the split that is trained on.
        scored: the groups that decide.
    """

    task: str
    train: str
    scored: TaskSplit

    @property
    def told(self) -> str:
        """For people."""
        what = "validation split" if self.train == "train" else "a quarter of the training split's groups"
        return f"{self.task}: judged on its {self.scored.groups} groups of the {what}".replace("the a", "a")


@dataclass(frozen=True)
class PointStages:
    """The stages that judge a point at one rung.

    Attributes:
        fits, scored: by task.
        cost: of the head; None where nobody asks at this rung.
    """

    fits: Mapping[str, Fit]
    scored: Mapping[str, Evaluate]
    cost: Cost | None

    @property
    def wanted(self) -> list[Any]:
        return [*self.scored.values(), *([self.cost] if self.cost else [])]


@dataclass(frozen=True)
class SearchPlan:
    """A search, checked, with nothing computed.

    Attributes:
        made: the method.
        reference: how the method is named, with the whole path of a user's file.
        tasks: of the folder of stores.
        judged: the tasks, in order.
        space: what is tried.
        base: the options that stand where a point says nothing.
        objectives: their names.
        rungs: of the halving.
        seed: of suggestions and fits.
        prompt: what masks are scored with.
    """

    made: type[Method]
    reference: str
    tasks: Tasks
    judged: tuple[Judged, ...]
    space: Space
    base: Mapping[str, Any]
    objectives: tuple[str, ...]
    rungs: tuple[Rung, ...]
    seed: int
    prompt: EvaluationPrompt

    @classmethod
    def make(
        cls,
        head: str,
        store: Path | str,
        *,
        space: str = BUILTIN,
        tasks: Sequence[str] | None = None,
        objectives: str = "iou",
        options: Sequence[str] = (),
        recipe: str = "default",
        seed: int = 0,
        prompts: str = BOX.text,
        model: str | None = None,
        device: str = "auto",
        pruning: bool = True,
    ) -> SearchPlan:
        """Checks everything that can be checked before anything runs; arguments as of `search`.

        Raises:
            OptionError: an unknown method, task, option or objective, a wrong space, or one in which no point is valid.
            StoreError: a store lacks features, or a task has too few groups to judge on.
        """
        named, prompt = read_objectives(objectives), parse_prompt(prompts)
        base = FitRecipe.read(recipe, head)
        made = METHODS.get(base.method)
        if made.family != "single":
            single = [name for name in METHODS.names() if METHODS.get(name).family == "single"]
            raise OptionError(
                f"method '{made.name}' is not a head of one task", f"heads: {', '.join(single)}"
            )
        fixed = single_values(parse_settings(options))
        tried = read_space(space, made, fixed)
        references = [absolute_reference(base.method)] if is_file_reference(base.method) else []
        opened = Tasks.open(Path(store), model, str(choose_device(device)), references)
        chosen = list(dict.fromkeys(tasks)) if tasks else opened.names()
        for task in chosen:
            opened.store(task)  # which says what is wrong with the name of a task
        opened.check_same_backbone(chosen)
        usual = opened.place.backbone(chosen[0]).recipe if base.backbone else {}
        usual = {**fitting(usual, made, base.options), **base.options}
        plan = cls(
            made, references[0] if references else made.name, opened, tuple(_judged(opened, task) for task in chosen),
            tried, usual, named, rungs_of(chosen, pruning), seed, prompt,
        )  # fmt: skip
        plan._check_first()
        return plan

    def _check_first(self) -> None:
        """A space of which the first listed points are all refused is a mistake."""
        points = self.space.points(200) or [
            {
                each.name: each.values[0] if each.values else each.low
                for each in self.space.dimensions
                if not each.when
            }
        ]
        for place, point in enumerate(points):
            try:
                config = self.config(point)
                for judged in self.judged:
                    train_split(self.tasks, config.method, config.training, judged.task, judged.train)
                return
            except OptionError:
                if place + 1 == len(points):
                    raise

    @cached_property
    def key(self) -> str:
        """Names the study: all that decides which points are tried and what they are worth, but not how many."""
        splits = [
            [
                judged.train,
                self.tasks.split(judged.task, judged.train).ref.key_data(),
                judged.scored.ref.key_data(),
            ]
            for judged in self.judged
        ]
        described = {
            "method": [self.made.name, revision_of(self.made)], "space": self.space.to_json(), "base": dict(self.base),
            "splits": splits, "objectives": list(self.objectives), "rungs": [rung.to_json() for rung in self.rungs],
            "seed": self.seed, "prompt": self.prompt.name,
        }  # fmt: skip
        return digest(described)[:KEY_DIGITS]

    def config(self, point: Mapping[str, Any]) -> Config:
        """The method and the training of a point.

        Raises:
            OptionError: its values do not go together.
        """
        given = {**self.space.fixed, **point}
        idle = {*self.space.names, *self.space.idle} - set(point)  # they are left at the method's default
        usual = {name: value for name, value in self.base.items() if name not in idle}
        return config_of(
            self.made, self.made.name, {**fitting(usual, self.made, given), **given}, dict(point)
        )

    def stages(self, config: Config, rung: Rung) -> PointStages:
        """What judges a point at a rung."""
        fits, scored = {}, {}
        for judged in self.judged:
            if judged.task not in rung.tasks:
                continue
            train = train_split(self.tasks, config.method, config.training, judged.task, judged.train)
            training = rung.training(config.training, train.scored)
            fit = fit_stage(self.tasks, config.method, training, judged.task, self.seed, judged.train)
            fits[judged.task] = fit
            scored[judged.task] = scoring(judged.scored, fit, prompt=self.prompt)
        asked = rung == self.rungs[-1] or "flops" in self.objectives
        return PointStages(fits, scored, self.cost(config) if asked else None)

    def cost(self, config: Config) -> Cost:
        first = self.judged[0].task
        return Cost(method=MethodRef.of(config.method), weights=self.tasks.place.weights(first), task=first)

    @cached_property
    def frozen(self) -> dict[str, Evaluate]:
        """The frozen SAM on the groups that decide, by task."""
        return {each.task: scoring(each.scored, None, prompt=self.prompt) for each in self.judged}


def _judged(tasks: Tasks, task: str) -> Judged:
    """The validation split of a task, or where it has none a quarter of its training groups.

    Raises:
        StoreError: there are too few groups.
    """
    store = tasks.store(task)
    store.require_complete()
    if len(store.annotations.rows(VAL)):
        return Judged(task, "train", tasks.split(task, VAL))
    groups = {store.annotations.group(row) for row in store.annotations.rows("train")}
    if len(groups) < HELD.of:
        raise StoreError(
            f"task '{task}' has no validation split, and {len(groups)} groups in its train split: too few to set some"
            " apart",
            "casam encode --val-fraction 0.2 sets groups apart for validation, or leave the task out with --tasks",
        )
    return Judged(task, HELD.train, tasks.split(task, HELD.scored))
