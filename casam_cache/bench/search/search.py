"""A search over options of a head: points that a sampler suggests are fitted and judged, each computed once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from casam_cache.bench.families import Config
from casam_cache.bench.search.halving import Rung, goes_on
from casam_cache.bench.search.outcome import FOLDER, SearchReport, report_of, write_report
from casam_cache.bench.search.plan import PointStages, SearchPlan
from casam_cache.bench.search.study import Scores, Study, TrialResult, require_optuna
from casam_cache.bench.tables import Tables
from casam_cache.encode.kept_backbones import keep_backbone
from casam_cache.engine.clusters import open_executor
from casam_cache.engine.executors import own_processes
from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.schedule import look, run_plan
from casam_cache.engine.stage import Stage, each_once
from casam_cache.engine.uses import note_use
from casam_cache.errors import DivergedError, OptionError


def batch_size(processes: int) -> int:
    """Points that are suggested together: with several processes two for each, as some are cut short early."""
    return 1 if processes == 1 else 2 * processes


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Attributes:
        trials: finished.
        wanted: in all; None where only time ends it.
        seconds: of the study so far, in all its calls.
        budget: seconds after which no trial begins; None without.
        began: trials and seconds that earlier calls contributed.
        best: the best value of the first objective; None as long as none is complete.
        rung: what is judged now, from 0, and of how many.
    """

    trials: int
    wanted: int | None
    seconds: float
    budget: float | None
    began: tuple[int, float]
    best: float | None
    rung: tuple[int, int]


@dataclass
class _Point:
    """A trial that is being judged."""

    number: int
    point: dict[str, Any]
    config: Config | None = None
    reached: list[Scores] = field(default_factory=list)
    result: TrialResult | None = None
    parameters: int | None = None
    flops: int | None = None

    def end(self, state: Any, reason: str = "") -> None:
        self.result = TrialResult(
            self.number, self.point, state, tuple(self.reached), reason, self.parameters, self.flops
        )


@dataclass
class _Search:
    """The work of one call.

    Attributes:
        plan: what is searched.
        runs: where stages are kept.
        study: its trials.
        changed: what to do about stages that other code computed.
        executor, jobs: where stages run.
        say: takes lines for a person.
        on_inner: told of progress within a stage.
        rung: that is judged now.
        computed: keys of the stages that this call computed.
    """

    plan: SearchPlan
    runs: Runs
    study: Study
    changed: Changed
    executor: Executor | None
    jobs: int
    say: Callable[[str], None] | None
    on_inner: Callable[[Any], None] | None = None
    rung: int = 0
    computed: set[str] = field(default_factory=set)

    def compute(self, stages: Sequence[Stage]) -> None:
        self.computed |= run_plan(
            stages, self.runs, self.plan.tasks.place, changed=self.changed, jobs=self.jobs, executor=self.executor,
            on_inner=self.on_inner, say=self.say,
        )  # fmt: skip

    def frozen(self) -> dict[str, dict[str, float]]:
        """Means of the frozen SAM, by task."""
        self.compute(list(self.plan.frozen.values()))
        tables = Tables(self.runs)
        return {task: tables.outcomes(stage).means() for task, stage in self.plan.frozen.items()}

    def batch(
        self,
        asked: Sequence[tuple[int, dict[str, Any]]],
        frozen: Mapping[str, Mapping[str, float]],
        on_rung: Callable[[int], None],
    ) -> list[TrialResult]:
        """Judges points that were suggested together, rung by rung."""
        points = [_Point(number, point) for number, point in asked]
        for each in points:
            try:
                each.config = self.plan.config(each.point)
            except OptionError as error:
                each.end("refused", error.message)
        for place, rung in enumerate(self.plan.rungs):
            alive = [each for each in points if each.result is None]
            if not alive:
                break
            self.rung = place
            on_rung(place)
            self._judge(alive, rung, frozen)
            judged = [each for each in alive if each.result is None]
            for each in judged:
                if place + 1 == len(self.plan.rungs):
                    each.end("complete")
                elif not goes_on(self._before(place, points, each), self.plan.objectives):
                    each.end("pruned")
        return [each.result for each in points if each.result is not None]

    def _judge(self, points: Sequence[_Point], rung: Rung, frozen: Mapping[str, Mapping[str, float]]) -> None:
        stages = {each.number: self.plan.stages(_config(each), rung) for each in points}
        try:
            self.compute(each_once(stage for own in stages.values() for stage in own.wanted))
        except DivergedError:
            for each in points:  # whose was it? What is finished is found again
                try:
                    self.compute(stages[each.number].wanted)
                except DivergedError as error:
                    each.end("diverged", error.message)
        tables = Tables(self.runs)
        for each in points:
            if each.result is None:
                self._read(each, stages[each.number], tables, frozen)

    def _read(
        self, point: _Point, stages: PointStages, tables: Tables, frozen: Mapping[str, Mapping[str, float]]
    ) -> None:
        means = {task: tables.outcomes(stage).means() for task, stage in stages.scored.items()}
        first = next(iter(stages.fits.values()))
        point.parameters = int(self.runs.recorded(first)["parameters"])
        if stages.cost is not None:
            backbone = self.plan.tasks.place.backbone(first.task)
            point.flops = int(self.runs.recorded(stages.cost)["flops"] - stages.cost.cached_flops(backbone))
        metrics = list(next(iter(means.values())))
        average = {name: _mean([each[name] for each in means.values()]) for name in metrics}
        gains = {name: _mean([means[task][name] - frozen[task][name] for task in means]) for name in metrics}
        known: dict[str, Any] = {**average, "parameters": point.parameters, "flops": point.flops}
        values = tuple(float(known[name]) for name in self.plan.objectives)
        tasks = {task: each["iou"] for task, each in means.items()}
        point.reached.append(Scores(values, average, gains, tasks))

    def _before(self, place: int, batch: Sequence[_Point], last: _Point) -> list[tuple[float, ...]]:
        """What every trial up to `last` reached at a rung; later ones of its batch decide nothing about it."""
        start = batch[0].number
        earlier = [trial.rungs for trial in self.study.trials[:start]]
        beside = [tuple(each.reached) for each in batch if each.number < last.number]
        others = [rungs[place].values for rungs in [*earlier, *beside] if len(rungs) > place]
        return [*others, last.reached[place].values]


def search(
    head: str,
    store: Path | str = "casam_store",
    runs: Path | str = "casam_runs",
    *,
    trials: int | None = None,
    budget: float | None = None,
    jobs: int = 1,
    executor: str = "processes",
    changed: Changed = "stop",
    on_progress: Callable[[SearchProgress], None] | None = None,
    say: Callable[[str], None] | None = None,
    **asked: Any,
) -> SearchReport:
    """Tries points of a space of options, judged on validation groups, and writes what came out beside the study.

    The same call goes on where one was interrupted, and comes to the same: with the same `jobs`, trial by trial.

    Args:
        head: a method of one task by name, or FILE.py:CLASS.
        store: folder of stores.
        runs: folder of runs; the study lies in runs/search/KEY.
        trials: how many in all.
        budget: seconds of the study, in all its calls, after which no trial begins.
        jobs: processes; points are suggested one by one with 1, and so many times two at once with more.
        executor: `processes`, `dask` or `dask:ADDRESS`.
        changed: what to do about finished stages that other code computed: `stop`, `recompute`, which goes through all
            trials anew, or `keep`.
        on_progress: called as trials reach rungs and finish.
        say: takes lines for a person.
        asked: `space` (`builtin` or a YAML file), `tasks` (names; all by default), `objectives` (`iou,flops`),
            `options` (`key=value` that do not vary), `recipe`, `seed`, `prompts`, `model`, `device` and `pruning`.

    Raises:
        OptionError: as of `SearchPlan.make`, or neither trials nor a budget.
        ChangedCodeError: stages of other code would be reused, with `stop`.
        HeldError: another search works on the study.
        CasamError: Optuna is not installed, or a stage failed; what is finished stays.
    """
    require_optuna()
    if trials is None and budget is None:
        raise OptionError("a search without an end", "--trials 50, or --budget 2h")
    if (trials is not None and trials < 1) or (budget is not None and budget <= 0):
        raise OptionError("a search needs one trial at least, or time", "--trials 50, or --budget 2h")
    plan = SearchPlan.make(head, store, **asked)
    told = say or (lambda line: None)
    for each in plan.judged:
        told(each.told)
    folder = Runs(Path(runs))
    where = folder.root / FOLDER / plan.key
    with ExitStack() as open_now:
        with folder.disk_errors():
            where.mkdir(parents=True, exist_ok=True)
            made = Study.open(where, plan.space, plan.objectives, plan.seed, anew=changed == "recompute")
            study = open_now.enter_context(made)
        pool, width = open_now.enter_context(_places(executor, jobs))
        work = _Search(plan, folder, study, changed, pool, width, say)
        began = len(study.trials)
        if changed == "stop":
            look(_stages(plan, study), folder).refuse_outdated()
        _go_on(work, trials, budget, batch_size(width), on_progress)
        place = plan.tasks.place
        keep_backbone(Path(place.stores), place.weights(plan.judged[0].task), folder.root)
        used = _stages(plan, study)
        note_use(folder, f"search-{plan.key}", f"search: {plan.made.name} on {len(plan.judged)} tasks", used)
        mixtures = Tables(folder).mixtures(used)
        calls = (len(study.trials) - began, len(work.computed))
        report = report_of(plan, study, where, work.frozen(), mixtures, *calls)
        with folder.disk_errors():
            write_report(report, plan)
        return report


def _go_on(
    work: _Search,
    trials: int | None,
    budget: float | None,
    size: int,
    on_progress: Callable[[SearchProgress], None] | None,
) -> None:
    study, plan = work.study, work.plan
    frozen = work.frozen()
    since_when = (len(study.trials), math.fsum(trial.seconds for trial in study.trials))

    def show(rung: int) -> None:
        if on_progress is not None:
            spent = math.fsum(trial.seconds for trial in study.trials)
            best = study.best.rungs[-1].values[0] if study.best else None
            at = (rung, len(plan.rungs))
            on_progress(SearchProgress(len(study.trials), trials, spent, budget, since_when, best, at))

    begun = _begun(study, size)
    while True:
        done = len(study.trials)
        spent = math.fsum(trial.seconds for trial in study.trials)
        if trials is not None and done >= trials:
            break
        if budget is not None and spent >= budget and begun == done:  # what was cut short is made whole
            break
        show(0)
        work.on_inner = lambda _: show(work.rung)
        since = time.monotonic()
        asked = study.ask(size if trials is None else min(size, trials - begun), begun)
        if len(asked) <= done - begun:
            if work.say:
                work.say(f"every point of the space was tried: {done} trials")
            break
        results = work.batch(asked, frozen, show)
        share = round((time.monotonic() - since) / len(results), 3)
        for result in results[done - begun :]:
            with work.runs.disk_errors():
                study.add(replace(result, batch=begun, size=size, seconds=share))
        begun = len(study.trials)
    show(0)


def _begun(study: Study, size: int) -> int:
    """The first trial of the batch that is to be done: of one that was cut short, if it was of this size."""
    if not study.trials:
        return 0
    last = study.trials[-1]
    left = last.batch + last.size > len(study.trials)
    return last.batch if left and last.size == size else len(study.trials)


def _stages(plan: SearchPlan, study: Study) -> tuple[Stage, ...]:
    """Everything that the trials were judged by, and the frozen SAM's scores."""
    found: list[Stage] = list(plan.frozen.values())
    for trial in study.trials:
        for rung in plan.rungs[: len(trial.rungs)]:
            own = plan.stages(plan.config(trial.point), rung)
            found += [*own.fits.values(), *own.wanted]
    return each_once(found)


@contextmanager
def _places(spec: str, jobs: int) -> Iterator[tuple[Executor | None, int]]:
    """One pool for all trials: a process that starts anew imports for seconds."""
    with open_executor(spec, jobs) as (pool, width):
        if pool is not None or width == 1:
            yield pool, width
            return
        with own_processes(width) as processes:
            yield processes, width


def _config(point: _Point) -> Config:
    assert point.config is not None
    return point.config


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
