"""The fits of a runs folder that `casam fit` and `casam evaluate` scored, with their tables of masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casam_cache.bench.tasks import SplitRef
from casam_cache.engine.code import other_modules
from casam_cache.engine.runs import Record, Runs, read_record
from casam_cache.engine.uses import uses
from casam_cache.errors import CasamError
from casam_cache.metrics.columns import facts_of
from casam_cache.metrics.intervals import Interval
from casam_cache.report.fit_table import changes_nothing
from casam_cache.report.html.scored import Scored
from casam_cache.report.interval_cells import interval_cell
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.training.outcomes import Outcomes, gain, read_outcomes, score

COLUMNS = (
    Column("method", "method", left=True),
    Column("split", "split", left=True),
    Column("prompt", "prompt", left=True),
    Column("masks", "masks"),
    Column("groups", "groups"),
    Column("metric", "metric", left=True),
    Column("frozen", "frozen SAM"),
    Column("fitted", "fitted"),
    Column("gain", "gain"),
    Column("p", "p"),
)


@dataclass(frozen=True)
class ScoredFit:
    """A fit beside the frozen SAM on one split, from one kind of prompt.

    Attributes:
        label: of the method, with the options that tell it from other fits of the method on the task.
        folder: of the fit.
        record: of the fit.
        items: what was scored.
        prompt: `EvaluationPrompt.name`.
        fitted, frozen: its outcomes and the frozen SAM's, the same masks in the same order.
    """

    label: str
    folder: Path
    record: Record
    items: SplitRef
    prompt: str
    fitted: Outcomes
    frozen: Outcomes

    @property
    def task(self) -> str:
        return self.items.task

    @property
    def store(self) -> Path:
        """Where the store was when it was fitted."""
        return Path(str(self.record.recorded.get("store", "")))

    @property
    def scored(self) -> Scored:
        """What pictures of its masks are made from."""
        heads: dict[str, Path | None] = dict.fromkeys(self.fitted.item, self.folder)
        return Scored(self.label, self.items, self.prompt, self.fitted, self.frozen, self.store, heads)

    def gains(self) -> dict[str, Interval]:
        return gain(self.fitted, self.frozen)


def scored_fits(
    root: Path, only: str | None = None, say: Callable[[str], None] = lambda line: None
) -> list[ScoredFit]:
    """Every fit that a finished command of the runs folder scored, sorted by task, method and what was scored.

    Args:
        root: the runs folder.
        only: KIND/KEY of the one fit that is wanted; None: all.
        say: takes a line for each that is damaged or removed, and is left out.
    """
    found: dict[tuple[str, str], ScoredFit] = {}
    for use in uses(Runs(root)):
        fits = [name for name in use.stages if name.startswith("fit/")]
        if not use.name.startswith(("fit-", "evaluate-")) or len(fits) != 1 or only not in (None, fits[0]):
            continue
        try:
            for each, key in _scored(root, fits[0], sorted(use.stages)):
                found[fits[0], key] = each
        except CasamError as error:
            say(f"left out: {use.what}: {error.message}")
    ordered = sorted(
        found.values(),
        key=lambda each: (each.task, each.label, each.items.split, each.prompt, each.folder.name),
    )
    return _told_apart(ordered)


def _scored(root: Path, fit: str, stages: Sequence[str]) -> list[tuple[ScoredFit, str]]:
    record = read_record(root / fit)
    sides: dict[tuple[Any, ...], dict[bool, Path]] = {}
    for name in stages:
        if name.startswith("evaluate/"):
            inputs = read_record(root / name).inputs
            what = (*inputs["items"], inputs["prompt"])
            sides.setdefault(what, {})[inputs["head"] is None] = root / name
    found = []
    for (task, split, content, prompt), both in sides.items():
        if len(both) == 2:
            fitted, frozen = read_outcomes(both[False]), read_outcomes(both[True])
            method = str(record.recorded.get("method", record.inputs["method"]["name"]))
            items = SplitRef(task, split, content)
            each = ScoredFit(method, root / fit, record, items, prompt, fitted, frozen)
            found.append((each, both[False].name))
    return found


def _told_apart(fits: Sequence[ScoredFit]) -> list[ScoredFit]:
    """Fits of one method on one task are labelled with the options in which they differ."""
    groups: dict[tuple[str, str], dict[Path, Mapping[str, Any]]] = {}
    for each in fits:
        inputs = each.record.inputs
        options = {**inputs["method"]["options"], **inputs["training"], "seed": inputs["seed"]}
        groups.setdefault((each.task, each.label), {})[each.folder] = options
    labelled = []
    for each in fits:
        others = groups[each.task, each.label]
        names = sorted({name for options in others.values() for name in options})
        differ = [name for name in names if len({str(options.get(name)) for options in others.values()}) > 1]
        told = [f"{name}={_plain(others[each.folder].get(name))}" for name in differ]
        labelled.append(replace(each, label=" ".join([each.label, *told])))
    return labelled


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def fits_table(fits: Sequence[ScoredFit]) -> Table:
    """A line a fit and metric: frozen, fitted and their paired difference with its interval and p."""
    lines = []
    for each in fits:
        before, after, gained = score(each.frozen), score(each.fitted), each.gains()
        for metric in facts_of(after.metrics):
            difference = gained[metric.name]
            cells = {
                "method": Cell(each.label),
                "split": Cell(each.items.split),
                "prompt": Cell(each.prompt),
                "masks": Cell(str(difference.values), difference.values),
                "groups": Cell(str(difference.groups), difference.groups),
                "metric": Cell(metric.label),
                "frozen": interval_cell(before[metric.name], metric),
                "fitted": interval_cell(after[metric.name], metric),
                "gain": interval_cell(difference, metric, "+"),
            }
            if not math.isnan(difference.p):
                cells["p"] = Cell(f"{difference.p:.4f}", difference.p)
            lines.append(Line(each.task, cells))
    notes = (
        "Means over masks at original resolution, in percent where a metric is a share; 95 % intervals and two-sided p "
        "by groups (patients, slides), of the gain from the paired differences.",
    )
    return Table("fits", "Fits beside the frozen SAM", "task", (Section("", COLUMNS, tuple(lines)),), notes)


def fit_warnings(fits: Sequence[ScoredFit]) -> list[str]:
    """What a reader of the numbers should know of each fit."""
    told = []
    for each in fits:
        name = f"{each.task}, {each.label}"
        gained = each.gains()["iou"]
        if math.isnan(gained.low):
            told.append(f"{name}: too few groups ({gained.groups}) for an interval")
        if gained.undefined:
            told.append(f"{name}: {gained.undefined} masks have no score and are left out of the means")
        chosen = (each.record.recorded.get("fit") or {}).get("chosen")
        if chosen and changes_nothing(chosen, gained.mean):
            told.append(f"{name}: no state was better than the frozen SAM, so the fit changes nothing")
        if changed := other_modules(each.record.code):
            told.append(f"{name}: computed by other code than this ({len(changed)} modules have changed)")
    tasks = {each.task for each in fits}
    for task in sorted(tasks):
        seeds = {each.record.inputs["seed"] for each in fits if each.task == task}
        if len(seeds) == 1:
            told.append(f"{task}: one seed ({seeds.pop()}), so nothing says how much the seed decides")
    return list(dict.fromkeys(told))
