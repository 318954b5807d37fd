"""Fit one method to every fold of one task, each scored on the images that it was not trained on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.bench.fit import FitPlan, FitReport, fit_task
from casam_cache.engine.runs import Runs
from casam_cache.engine.schedule import run_plan
from casam_cache.errors import OptionError
from casam_cache.training.folds import Fold

_OF_RUNNING = (
    "changed",
    "on_fit",
    "on_evaluate",
    "on_stages",
    "say",
    "trackers",
)  # the other options decide stages


@dataclass(frozen=True)
class FoldsReport:
    """The fits of all folds.

    Attributes:
        folds: one report a fold, in order.
    """

    folds: tuple[FitReport, ...]

    def mean(self, side: str, metric: str) -> float:
        """Unweighted mean over the folds of a metric of `test`, `frozen` or `gain`."""
        return math.fsum(self._values(side, metric)) / len(self.folds)

    def deviation(self, side: str, metric: str) -> float:
        """Standard deviation between the folds (n - 1)."""
        return statistics.stdev(self._values(side, metric))

    def to_json(self) -> dict[str, Any]:
        """`{"task", "method", "model", "folds": [...], "mean", "deviation"}`; the last two by side and metric."""
        first = self.folds[0]
        metrics = list(first.test.metrics)
        found: dict[str, Any] = {"task": first.task, "method": first.method, "model": first.model}
        found["folds"] = [report.to_json() for report in self.folds]
        for name, value in (("mean", self.mean), ("deviation", self.deviation)):
            found[name] = {
                side: {metric: _number(value(side, metric)) for metric in metrics}
                for side in ("test", "frozen", "gain")
            }
        return found

    def _values(self, side: str, metric: str) -> list[float]:
        return [getattr(report, side)[metric].mean for report in self.folds]


def fit_folds(
    task: str,
    store: Path | str = "casam_store",
    runs: Path | str = "casam_runs",
    *,
    folds: int,
    on_fold: Callable[[Fold], None] | None = None,
    executor: Executor | None = None,
    jobs: int = 1,
    **options: Any,
) -> FoldsReport:
    """Trains on all folds but one and scores on that one, for each of them; found again where they are finished.

    Groups are never parted. A test split of the dataset's own is in no fold.

    Args:
        task: name of the dataset, a folder of `store`.
        store: folder of stores.
        runs: folder of runs.
        folds: how many, at least 2.
        on_fold: called as each begins.
        executor: where stages run, those of all folds at once; see `fit_task`.
        jobs: stages that the executor takes at once.
        options: of `fit_task`, except for its `fold` and `split`.

    Raises:
        OptionError: fewer than two folds.
        CasamError: as of `fit_task`; there are fewer groups than folds.
    """
    if folds < 2:
        raise OptionError(f"{folds} folds", "give 2 or more; casam fit without --folds scores the test split")
    every = [Fold(number, folds) for number in range(1, folds + 1)]
    if executor is not None:
        _run_together(task, store, Path(runs), every, executor, jobs, options)
    reports = []
    for fold in every:
        if on_fold:
            on_fold(fold)
        reports.append(fit_task(task, store, runs, fold=fold, **options))
    return FoldsReport(tuple(reports))


def _run_together(
    task: str,
    store: Path | str,
    runs: Path,
    folds: Sequence[Fold],
    executor: Executor,
    jobs: int,
    options: Mapping[str, Any],
) -> None:
    """Computes the stages of all folds."""
    asked = {name: value for name, value in options.items() if name not in _OF_RUNNING}
    plans = [FitPlan.make(task, store, fold=fold, **asked) for fold in folds]
    run_plan(
        [stage for plan in plans for stage in plan.wanted], Runs(runs), plans[0].tasks.place, jobs=jobs,
        executor=executor, changed=options.get("changed", "stop"), on_progress=options.get("on_stages"),
        say=options.get("say"),
    )  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
