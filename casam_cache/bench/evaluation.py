"""A fitted head beside the frozen SAM from several kinds of prompts, and after each click; nothing computed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.backbones.devices import choose_device
from casam_cache.bench.families import scoring
from casam_cache.bench.fit import check_split, plan_fit
from casam_cache.bench.fit_recipe import DEFAULT_RECIPE
from casam_cache.bench.stages.evaluate import Evaluate, MetricRefs, metric_refs
from casam_cache.bench.stages.fit import Fit
from casam_cache.bench.stages.head import MethodRef
from casam_cache.bench.tasks import SplitRef, Tasks, TaskSplit
from casam_cache.bench.volumes import VolumeScore, VolumeStages
from casam_cache.bench.whole_images import WholeScore, whole_score
from casam_cache.config import validated
from casam_cache.engine.runs import RECORD, Changed, Record, Runs, read_record
from casam_cache.engine.schedule import PlanProgress, run_plan
from casam_cache.engine.uses import note_use
from casam_cache.errors import CasamError, OptionError, StoreError
from casam_cache.fingerprint import digest
from casam_cache.metrics.intervals import Interval, difference_interval, mean_interval
from casam_cache.training.evaluation_prompts import EvaluationPrompt, parse_prompts
from casam_cache.training.loop import FitProgress
from casam_cache.training.options import TrainingOptions
from casam_cache.training.outcomes import Outcomes, Score, gain, score

DEFAULT_PROMPTS = "box,jitter:0.05,jitter:0.1,jitter:0.2,point,clicks:5"


@dataclass(frozen=True)
class ClickScore:
    """IoU after so many clicks.

    Attributes:
        click: 1, 2, ...
        frozen, fitted: means over masks with intervals.
        gain: paired difference fitted - frozen.
    """

    click: int
    frozen: Interval
    fitted: Interval
    gain: Interval

    def to_json(self) -> dict[str, Any]:
        sides = {name: getattr(self, name).to_json() for name in ("frozen", "fitted", "gain")}
        return {"click": self.click, **sides}


@dataclass(frozen=True)
class PromptScore:
    """A fitted head beside the frozen SAM from one kind of prompt.

    Attributes:
        prompt: `EvaluationPrompt.name`.
        fitted, frozen: every metric's mean over the masks; of clicks, after the last.
        gain: paired difference fitted - frozen by metric.
        outcomes, frozen_outcomes: folders with the scores of each mask and, of clicks, after each click.
        clicks: IoU after each click; empty for other prompts.
        volumes: scores of volumes, over all of them and for each class; empty where images are no slices of volumes.
        whole_images: scores of whole images; None where images are no tiles of larger ones.
    """

    prompt: str
    fitted: Score
    frozen: Score
    gain: dict[str, Interval]
    outcomes: str
    frozen_outcomes: str
    clicks: tuple[ClickScore, ...] = ()
    volumes: tuple[VolumeScore, ...] = ()
    whole_images: WholeScore | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        return {
            "prompt": self.prompt,
            "fitted": self.fitted.to_json(),
            "frozen": self.frozen.to_json(),
            "gain": {name: interval.to_json() for name, interval in self.gain.items()},
            "clicks": [click.to_json() for click in self.clicks],
            "volumes": [each.to_json() for each in self.volumes],
            "whole_images": None if self.whole_images is None else self.whole_images.to_json(),
            "outcomes": self.outcomes,
            "frozen_outcomes": self.frozen_outcomes,
        }


@dataclass(frozen=True)
class PromptReport:
    """What `casam evaluate` ends with.

    Attributes:
        task, method, model: what was fitted: dataset, method, backbone's store.
        run: folder of the fit.
        computed: stages that this call computed; 0 where everything was there.
        evaluate: the split that was scored, `test` or `val`.
        parameters: trained parameters.
        stand_in: what is said of a model that is not one to publish with; else empty.
        mask_mode: how the dataset's masks were read.
        seed: of the fit.
        prompts: one entry a kind of prompt, in the order asked for.
    """

    task: str
    method: str
    model: str
    run: str
    computed: int
    evaluate: str
    parameters: int
    stand_in: str
    mask_mode: str
    seed: int
    prompts: tuple[PromptScore, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, str | int)}
        return {**plain, "prompts": [each.to_json() for each in self.prompts]}


@dataclass(frozen=True)
class _Plan:
    """A fit, where its inputs are, and where its stages are kept."""

    tasks: Tasks
    fit: Fit
    runs: Runs


def evaluate_prompts(
    run: Path | str | None = None,
    *,
    task: str | None = None,
    prompts: str = DEFAULT_PROMPTS,
    store: Path | str | None = None,
    runs: Path | str | None = None,
    method: str | None = None,
    options: Sequence[str] = (),
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    split: str = "test",
    metrics: Sequence[str] = (),
    model: str | None = None,
    device: str = "auto",
    changed: Changed = "stop",
    on_fit: Callable[[FitProgress], None] | None = None,
    on_evaluate: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> PromptReport:
    """Scores a fit and the frozen SAM from each kind of prompt, each computed once and found again.

    Args:
        run: folder of a fit, as `casam fit` printed it; its record says what was fitted and on which store.
        task: instead of `run`: name of the dataset. The fit that `casam fit` makes of these options is found, or
            computed.
        prompts: kinds of prompts, separated by commas.
        store: folder of stores; by default the run's own, or `casam_store`.
        runs: folder of runs; by default the one that the run lies in, or `casam_runs`.
        method: with `task`, a method's name; None is the one of a recipe file, or else `alignment`.
        options: with `task`, `key=value` for the method's options and for `TrainingOptions`.
        recipe: with `task`, as of `fit_task`.
        seed: with `task`, of everything random in the fit.
        split: `test` or `val`.
        metrics: further ones, as of `fit_task`.
        model: with `task`, the backbone's store, needed only where the task has several.
        device: `auto`, `cpu`, `cuda`, ...
        changed: what to do about finished stages that other code computed: `stop`, `recompute` or `keep`.
        on_fit: progress of training, where the fit is missing.
        on_evaluate: progress of scoring, called with (what is scored, images done, images).
        say: takes lines for a person, e.g. that a damaged stage is computed again.

    Raises:
        ChangedCodeError: stages are there and were computed by other code, with `stop`.
        OptionError: an unknown task, model, method, option or prompt, or neither a run nor a task.
        CasamError: the run is no finished fit, or its store is not there or of other weights.
        StoreError: the store is not finished, lacks an array the method needs, or has no such split.
    """
    check_split(split)
    kinds = parse_prompts(prompts)
    if (run is None) == (task is None):
        raise OptionError(
            "give a run or a task" if run is None else "a run says itself what task it is of",
            "casam evaluate RUN, with the folder that casam fit printed, or casam evaluate --task NAME",
        )
    if run is not None:
        plan = _recorded_plan(Path(run), store, runs, device)
    else:
        assert task is not None
        tasks, fit = plan_fit(
            task,
            store or "casam_store",
            method=method,
            options=options,
            recipe=recipe,
            seed=seed,
            model=model,
            device=device,
        )
        plan = _Plan(tasks, fit, Runs(Path(runs or "casam_runs")))
    return _report(plan, kinds, split, metric_refs(metrics), changed, on_fit, on_evaluate, say)


def _report(
    plan: _Plan,
    kinds: Sequence[EvaluationPrompt],
    split: str,
    metrics: MetricRefs,
    changed: Changed,
    on_fit: Callable[[FitProgress], None] | None,
    on_evaluate: Callable[[str, int, int], None] | None,
    say: Callable[[str], None] | None,
) -> PromptReport:
    tasks, fit, runs = plan.tasks, plan.fit, plan.runs
    scored: TaskSplit = tasks.split(fit.task, split)

    def scored_by(head: Fit | None, kind: EvaluationPrompt) -> Evaluate:
        return scoring(scored, head, prompt=kind, metrics=metrics)

    stages = [(kind, scored_by(fit, kind), scored_by(None, kind)) for kind in kinds]
    volumes = [VolumeStages.of(scored, fitted, frozen) for _, fitted, frozen in stages]
    wanted = [
        fit,
        *(stage for _, fitted, frozen in stages for stage in (frozen, fitted)),
        *(stage for each in volumes for stage in each.wanted),
    ]
    running = [""]

    def on_progress(progress: PlanProgress) -> None:
        running[0] = progress.running[0] if progress.running else running[0]

    def on_inner(progress: Any) -> None:
        if isinstance(progress, FitProgress):
            if on_fit:
                on_fit(progress)
        elif on_evaluate:
            on_evaluate(running[0], *progress)

    computed = run_plan(
        wanted, runs, tasks.place, changed=changed, threads=None,
        on_progress=on_progress, on_inner=on_inner, say=say,
    )  # fmt: skip
    name = digest(sorted(stage.key for stage in wanted))[:20]
    note_use(runs, f"evaluate-{name}", f"evaluate: {fit.method.name} on {fit.task}, {split}", wanted)
    recorded = runs.recorded(fit)
    return PromptReport(
        task=fit.task,
        method=fit.method.name,
        model=tasks.place.model,
        run=str(runs.folder(fit)),
        computed=len(computed),
        evaluate=split,
        parameters=recorded["parameters"],
        stand_in=plan.tasks.place.backbone(plan.fit.task).stand_in,
        mask_mode=recorded["mask_mode"],
        seed=fit.seed,
        prompts=tuple(
            _score(runs, scored, kind, fitted, frozen, own)
            for (kind, fitted, frozen), own in zip(stages, volumes, strict=True)
        ),
    )


def _score(
    runs: Runs,
    split: TaskSplit,
    kind: EvaluationPrompt,
    fitted: Evaluate,
    frozen: Evaluate,
    volumes: VolumeStages,
) -> PromptScore:
    after, before = fitted.read(runs), frozen.read(runs)
    return PromptScore(
        prompt=kind.name,
        fitted=score(after),
        frozen=score(before),
        gain=gain(after, before),
        outcomes=str(runs.folder(fitted)),
        frozen_outcomes=str(runs.folder(frozen)),
        clicks=_clicks(runs, kind.clicks, after, fitted, frozen),
        volumes=volumes.scores(runs),
        whole_images=whole_score(split, fitted, frozen, runs),
    )


def _clicks(
    runs: Runs, clicks: int, outcomes: Outcomes, fitted: Evaluate, frozen: Evaluate
) -> tuple[ClickScore, ...]:
    if not clicks:
        return ()
    after, before = fitted.read_clicks(runs), frozen.read_clicks(runs)
    groups = outcomes.task_groups
    found = []
    for click in range(1, clicks + 1):
        own, base = after.after(click), before.after(click)
        found.append(
            ClickScore(
                click,
                mean_interval(base, groups).within(0, 1),
                mean_interval(own, groups).within(0, 1),
                difference_interval(own, base, groups),
            )
        )
    return tuple(found)


# A run's own record


def _recorded_plan(folder: Path, store: Path | str | None, runs: Path | str | None, device: str) -> _Plan:
    """The fit that a folder holds, as its record tells it: the train split it came from need not be there any more."""
    folder = folder.absolute()
    named = "name the folder that casam fit printed, RUNS/fit/KEY, or give --task and the options of the fit"
    if not (folder / RECORD).is_file():
        raise CasamError(f"{folder} is not the folder of a finished run: {RECORD} is missing", named)
    record = read_record(folder)
    if record.kind != Fit.kind:
        raise CasamError(
            f"{folder} is a stage of kind '{record.kind}', and only a fit of one task is evaluated by itself",
            f"{named}; casam bench --prompts compares other methods",
        )
    kept = Runs(folder.parent.parent)
    if runs is not None and Path(runs).resolve() != kept.root.resolve():
        raise OptionError(
            f"{folder} does not lie in the runs folder {runs}", "leave --runs out: the run says it itself"
        )
    fit, own = _recorded_fit(record, folder)
    stores = own.parent.parent if store is None else Path(store)
    if not (stores / own.parent.name).is_dir():
        raise StoreError(
            f"the store that {folder} was fitted on is not there: {stores / own.parent.name / own.name}",
            "--store DIR names the folder of stores where it is now",
        )
    tasks = Tasks.open(stores, own.stem, str(choose_device(device)), task=fit.task)
    weights = record.recorded["identity"]["backbone"]["weights"]
    if tasks.place.weights(fit.task) != weights:
        raise StoreError(
            f"{tasks.store(fit.task).path} holds features of other weights than {folder} was fitted on",
            "--store DIR names the folder with the run's own store",
        )
    return _Plan(tasks, fit, kept)


def _recorded_fit(record: Record, folder: Path) -> tuple[Fit, Path]:
    """The stage that a record is of, and the store it was computed from."""
    try:
        inputs, own = record.inputs, Path(record.recorded["store"])
        training = validated(TrainingOptions, inputs["training"])
        assert isinstance(training, TrainingOptions)
        fit = Fit(
            method=MethodRef(**inputs["method"]),
            seed=inputs["seed"],
            training=training,
            items=SplitRef(*inputs["items"]),
        )
        same = fit.key == record.key and own.parent.name == fit.task
    except (KeyError, TypeError, CasamError):
        same = False
    if not same:
        raise CasamError(
            f"{folder} was written by another release, which describes its fits otherwise",
            "give --task and the options of the fit: what is missing is computed",
        )
    return fit, own
