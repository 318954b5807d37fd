"""Fit one method to one task from its store, and score it beside the frozen SAM on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.recipes import PAPER
from casam_cache.bench.configs import fitting
from casam_cache.bench.families import fit_stage, scoring
from casam_cache.bench.fit_recipe import DEFAULT_RECIPE, FitRecipe
from casam_cache.bench.stages.distance import Cost
from casam_cache.bench.stages.evaluate import Evaluate, metric_refs
from casam_cache.bench.stages.fit import Fit
from casam_cache.bench.tables import step_seconds
from casam_cache.bench.tasks import Tasks, TaskSplit
from casam_cache.bench.trackers import Tracker, Tracking
from casam_cache.bench.volumes import VolumeScore, VolumeStages
from casam_cache.bench.whole_images import WholeScore, whole_score
from casam_cache.config import parse_assignments, parse_settings
from casam_cache.encode.kept_backbones import keep_backbone
from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.schedule import PlanProgress, run_plan
from casam_cache.engine.stage import Stage
from casam_cache.engine.uses import note_use
from casam_cache.errors import CasamError, OptionError
from casam_cache.methods.registry import METHODS
from casam_cache.metrics.boundary import boundary_note
from casam_cache.metrics.columns import facts_of
from casam_cache.metrics.intervals import Interval
from casam_cache.notebook import html_table
from casam_cache.references import absolute_reference, is_file_reference
from casam_cache.training.evaluation_prompts import BOX, ORACLE_BOX, EvaluationPrompt, parse_prompt
from casam_cache.training.few_shots import few_shots
from casam_cache.training.folds import Fold
from casam_cache.training.loop import FitProgress
from casam_cache.training.options import TrainingOptions
from casam_cache.training.outcomes import Score, gain, score

SPLITS = ("val", "test")


@dataclass(frozen=True)
class FitReport:
    """A fitted method beside the frozen SAM on one task.

    Attributes:
        task, method, model: what was fitted: dataset, method, backbone's store.
        run: folder of the fit: head.safetensors, head.json, record.json.
        outcomes: folder of the fitted head's per-mask outcomes.
        computed: whether this call trained; False where the fit was there already.
        evaluate: the split that was scored, `test` or `val`, or a fold: `fold 2/5`.
        test: the fitted head on that split.
        frozen: the frozen SAM on the same masks and prompts.
        gain: paired difference fitted - frozen by metric.
        parameters: trained parameters.
        flops: of head and decoder for one sample of one training step from the cache, forward and backward, a
            multiplication and an addition counting as two; of what trains through the image, its encoder's too.
        mask_mode: how the dataset's masks were read.
        seed: of initial weights, order, masks and prompts.
        prompt: what every mask was prompted with, `EvaluationPrompt.name`.
        stand_in: what the backbone is, where it is no real SAM.
        chosen: how the state that was kept was chosen on held-out groups, as `training.selection.Chosen`; None where
            there were too few groups, or none were asked for: then it is the last.
        shrunk: then, how far what was kept went on the way to that one, where it is not all of it.
        steps: optimiser steps taken.
        step_seconds: that one of them took where the fit was computed, reading its inputs included; 0 if not known.
        groups: of the training images with masks (patients, slides).
        shots: images that were trained on, where only some were asked for; else 0.
        volumes: scores of volumes, over all of them and for each class; empty where images are no slices of volumes.
        volume_outcomes: folder with them of each volume; empty without.
        whole_images: scores of the larger images that were cut into tiles; None without.
    """

    task: str
    method: str
    model: str
    run: str
    outcomes: str
    computed: bool
    evaluate: str
    test: Score
    frozen: Score
    gain: dict[str, Interval]
    parameters: int
    flops: int
    mask_mode: str
    seed: int
    prompt: str = ORACLE_BOX
    stand_in: str = ""
    chosen: Mapping[str, Any] | None = None
    shrunk: float | None = None
    steps: int = 0
    step_seconds: float = 0.0
    groups: int = 0
    shots: int = 0
    volumes: tuple[VolumeScore, ...] = ()
    volume_outcomes: str = ""
    whole_images: WholeScore | None = None

    def _repr_html_(self) -> str:
        """For a notebook: frozen beside fitted, percent where a metric is a share, with 95 % intervals."""
        sides = (self.frozen.metrics, self.test.metrics, self.gain)
        rows = [
            (metric.label, *(side[metric.name].text(metric.percent) for side in sides))
            for metric in facts_of(self.test.metrics)
        ]
        title = f"{self.method} on {self.task}, {self.model}: {self.test.masks} {self.evaluate} masks, {self.prompt}"
        note = f"{title}; {self.stand_in}" if self.stand_in else title
        return html_table(note, ("", "frozen SAM", "fitted", "gain"), rows)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        plain = {
            name: value for name, value in vars(self).items() if isinstance(value, str | int | float | bool)
        }
        gains = {name: interval.to_json() for name, interval in self.gain.items()}
        return {
            **plain, "test": self.test.to_json(), "frozen": self.frozen.to_json(), "gain": gains,
            "chosen": None if self.chosen is None else dict(self.chosen),
            "shrunk": self.shrunk,
            "volumes": [each.to_json() for each in self.volumes],
            "whole_images": None if self.whole_images is None else self.whole_images.to_json(),
        }  # fmt: skip


def fit_task(
    task: str,
    store: Path | str = "casam_store",
    runs: Path | str = "casam_runs",
    *,
    method: str | None = None,
    options: Sequence[str] = (),
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    split: str = "test",
    fold: Fold | None = None,
    prompts: str | None = None,
    metrics: Sequence[str] = (),
    model: str | None = None,
    device: str = "auto",
    changed: Changed = "stop",
    on_fit: Callable[[FitProgress], None] | None = None,
    on_evaluate: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    trackers: Sequence[Tracker] = (),
    executor: Executor | None = None,
    jobs: int = 1,
    on_stages: Callable[[PlanProgress], None] | None = None,
) -> FitReport:
    """Trains on the task's train split and scores on another, each computed once and found again.

    Args:
        task: name of the dataset, a folder of `store`.
        store: folder of stores.
        runs: folder of runs.
        method: a method's name; None is the one of a recipe file, or else `alignment`.
        options: `key=value` for the method's options and for `TrainingOptions`.
        recipe: where options say nothing: `default`, the backbone's own recipe (`Backbone.recipe`), `paper`, or a YAML
            file with one method, such as `casam search` writes.
        seed: of everything random.
        split: `test`, or `val` so that nothing needs choosing on test.
        fold: trains on all folds but this and scores this; None trains on the train split and scores `split`.
        prompts: what every mask is prompted with when it is scored: `box`, `jitter:0.1`, `jitter:5px`, `point`,
            `point:random` or `clicks:5`. Training has prompts of its own. None is what a recipe file says, or else
            `box`.
        metrics: further ones beside IoU, Boundary IoU and Dice: names, `biou_5px`, or `FILE.py:CLASS`.
        model: the backbone's store, needed only where the task has several.
        device: `auto`, `cpu`, `cuda`, ...
        changed: what to do about finished stages that other code computed: `stop`, `recompute` or `keep`.
        on_fit: progress of training.
        on_evaluate: progress of scoring, called with (images done, images).
        say: takes lines for a person, e.g. that a damaged stage is computed again.
        trackers: are told the curves and scores, also of a fit that was there already, and closed; with an executor
            not the curves.
        executor: where stages run, with one thread each (`casam_cache.engine.clusters.open_executor`); None is here,
            with all threads.
        jobs: stages that the executor takes at once.
        on_stages: called as stages on an executor finish, which tell nothing before.

    Raises:
        ChangedCodeError: the fit is there and was computed by other code, with `stop`.
        OptionError: unknown task, model, method or option, or a wrong value.
        StoreError: the store is not finished, lacks an array the method needs, or has no such split.
    """
    plan = FitPlan.make(
        task, store, method=method, options=options, recipe=recipe, seed=seed, split=split, fold=fold, prompts=prompts,
        metrics=metrics, model=model, device=device,
    )  # fmt: skip
    tasks, fit, scored, prompt = plan.tasks, plan.fit, plan.scored, plan.prompt
    fitted, frozen, cost, volumes, wanted = plan.fitted, plan.frozen, plan.cost, plan.volumes, plan.wanted
    evaluate, folder = scored.ref.split, Runs(Path(runs))
    with Tracking(trackers, _run_name(fit), _described(fit, tasks.place.model)) as tracking:

        def show(progress: Any) -> None:
            if isinstance(progress, FitProgress):
                tracking.step(progress.step, progress.loss)
                if on_fit:
                    on_fit(progress)
            elif on_evaluate:
                on_evaluate(*progress)

        computed = run_plan(
            wanted, folder, tasks.place, changed=changed, jobs=jobs, executor=executor,
            threads=None if executor is None else 1, on_progress=on_stages, on_inner=show, say=say,
        )  # fmt: skip
        recorded = folder.recorded(fit)
        after, before = fitted.read(folder), frozen.read(folder)
        test, untouched, gained = score(after), score(before), gain(after, before)
        sides = {evaluate: test.metrics, "frozen": untouched.metrics, "gain": gained}
        tracking.fitted(recorded["fit"])
        lines = tracking.scored(
            {f"{side}/{name}": value.mean for side, found in sides.items() for name, value in found.items()}
        )
    if say:
        for line in filter(None, (*lines, boundary_note(after.scores["iou"], after.scores["biou"]))):
            say(line)
    keep_backbone(Path(tasks.place.stores), tasks.place.weights(task), folder.root)
    told = "" if prompt == BOX else f", {prompt.name}"
    note_use(folder, f"fit-{fitted.key}", f"fit: {fit.method.name} on {task}, {evaluate}{told}", wanted)
    backbone = tasks.place.backbone(task)
    shown = few_shots(tasks.place.items(fit.items), fit.training.shots, seed)
    return FitReport(
        task=task,
        method=fit.method.name,
        model=tasks.place.model,
        run=str(folder.folder(fit)),
        outcomes=str(folder.folder(fitted)),
        computed=fit.key in computed,
        evaluate=evaluate,
        test=test,
        frozen=untouched,
        gain=gained,
        parameters=recorded["parameters"],
        flops=folder.recorded(cost)["flops"] - cost.cached_flops(backbone),
        mask_mode=recorded["mask_mode"],
        seed=seed,
        prompt=prompt.name,
        stand_in=backbone.stand_in,
        chosen=recorded["fit"]["chosen"],
        shrunk=recorded["fit"].get("shrunk"),
        steps=recorded["fit"]["steps"],
        step_seconds=step_seconds(recorded["fit"]),
        groups=len({row.item.group for row in shown.rows if row.item.masks}),
        shots=sum(row.item.masks > 0 for row in shown.rows) if fit.training.shots else 0,
        volumes=volumes.scores(folder),
        volume_outcomes=volumes.folder(folder),
        whole_images=whole_score(scored, fitted, frozen, folder),
    )


@dataclass(frozen=True)
class FitPlan:
    """The stages of one fit and its scores; nothing is computed yet.

    Attributes:
        tasks: of the folder of stores.
        fit: the training.
        scored: the split or fold that is scored.
        prompt: what every mask is prompted with.
        fitted, frozen: the scores of both sides.
        cost: of a training pass.
        volumes: scores of volumes.
    """

    tasks: Tasks
    fit: Fit
    scored: TaskSplit
    prompt: EvaluationPrompt
    fitted: Evaluate
    frozen: Evaluate
    cost: Cost
    volumes: VolumeStages

    @property
    def wanted(self) -> list[Stage]:
        return [self.fit, self.fitted, self.frozen, self.cost, *self.volumes.wanted]

    @classmethod
    def make(
        cls,
        task: str,
        store: Path | str,
        *,
        method: str | None = None,
        options: Sequence[str] = (),
        recipe: str = DEFAULT_RECIPE,
        seed: int = 0,
        split: str = "test",
        fold: Fold | None = None,
        prompts: str | None = None,
        metrics: Sequence[str] = (),
        model: str | None = None,
        device: str = "auto",
    ) -> FitPlan:
        """Looks everything up; arguments and errors as of `fit_task`."""
        check_split(split)
        prompt = parse_prompt(prompts or FitRecipe.read(recipe, method).prompts or BOX.text)
        train, evaluate = ("train", split) if fold is None else (fold.train, fold.scored)
        tasks, fit = plan_fit(
            task, store, method=method, options=options, recipe=recipe, seed=seed, model=model, device=device,
            train=train,
        )  # fmt: skip
        scored, refs = tasks.split(task, evaluate), metric_refs(metrics)
        fitted, frozen = (scoring(scored, head, prompt=prompt, metrics=refs) for head in (fit, None))
        cost = Cost(method=fit.method, weights=tasks.place.weights(task), task=task)
        return cls(tasks, fit, scored, prompt, fitted, frozen, cost, VolumeStages.of(scored, fitted, frozen))


def _run_name(fit: Fit) -> str:
    return f"{fit.task}-{fit.method.name}-seed{fit.seed}-{fit.key[:8]}"


def _described(fit: Fit, model: str) -> dict[str, Any]:
    """What trackers show of a fit, plain JSON."""
    return {
        "task": fit.task, "model": model, "method": fit.method.name, "seed": fit.seed, "key": fit.key,
        "options": dict(fit.method.options), "training": fit.training.model_dump(mode="json"),
    }  # fmt: skip


def check_split(split: str) -> None:
    """Only validation and test splits are scored.

    Raises:
        CasamError: it is another one.
    """
    if split not in SPLITS:
        raise CasamError(f"unknown split '{split}' to evaluate on", f"available: {', '.join(SPLITS)}")


def plan_fit(
    task: str,
    store: Path | str,
    *,
    method: str | None = None,
    options: Sequence[str] = (),
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
    train: str = "train",
) -> tuple[Tasks, Fit]:
    """The fit of one method to one task, not yet computed, from its split `train`; the rest as of `fit_task`."""
    base = FitRecipe.read(recipe, method)
    made = METHODS.get(base.method)
    if made.family != "single":
        raise OptionError(
            f"method '{made.name}' is not a fit of one task",
            f"casam bench --methods {base.method} compares it over tasks",
        )
    models: list[type[BaseModel]] = [made.options_model(), TrainingOptions]
    parse_assignments(options, models, PAPER)  # what is wrong is said before anything is opened
    references = [absolute_reference(base.method)] if is_file_reference(base.method) else []
    tasks = Tasks.open(Path(store), model, str(choose_device(device)), references, task=task)
    usual = tasks.place.backbone(task).recipe if base.backbone else {}
    given = {name: values[0] for name, values in parse_settings(options).items()}
    usual = fitting({**fitting(usual, made, base.options), **base.options}, made, given)
    method_options, training = parse_assignments(options, models, usual)
    assert isinstance(training, TrainingOptions)
    return tasks, fit_stage(tasks, made(method_options), training, task, seed, train)
