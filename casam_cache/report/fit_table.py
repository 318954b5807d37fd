"""Fits beside the frozen SAM, with intervals and with every convention that decides the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from casam_cache.bench.fit import FitReport
from casam_cache.bench.fit_folds import FoldsReport
from casam_cache.metrics.base import MetricFacts
from casam_cache.metrics.columns import facts_of
from casam_cache.metrics.intervals import Interval
from casam_cache.report.interval_cells import interval_cell
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.report.prompt_words import explained_prompts
from casam_cache.report.volume_table import volume_notes, volume_section
from casam_cache.report.whole_image_table import CONVENTION as WHOLE_IMAGES
from casam_cache.report.whole_image_table import whole_image_section
from casam_cache.training.held_out import FEWEST_GROUPS

ROUNDING = 1e-6  # what it makes of an IoU
COLUMNS = (
    Column("masks", "masks"),
    Column("metric", "metric", left=True),
    Column("frozen", "frozen SAM", left=True),
    Column("fitted", "fitted", left=True),
    Column("gain", "gain", left=True),
)


def fit_table(reports: Sequence[FitReport], *, title: str = "") -> Table:
    """Frozen against fitted: a line a task and metric, volumes under the slices, and what the numbers mean below."""
    return _table(reports, "mean of tasks", f"{reports[0].evaluate} split", title)


def folds_table(report: FoldsReport) -> Table:
    """As `fit_table`, of the folds of one task with their mean; the deviation between them below."""
    first = report.folds[0]
    # Lines and notes name the fold where they would name the task.
    named = [replace(each, task=each.evaluate) for each in report.folds]
    table = _table(named, "mean of folds", "each fold scored by the fit of the others", first.task)
    told = []
    for metric in facts_of(first.test.metrics):
        scale = 100 if metric.percent else 1
        fitted, gained = (scale * report.deviation(side, metric.name) for side in ("test", "gain"))
        told.append(f"{metric.label} {fitted:.1f}, its gain {gained:.1f}")
    note = f"Standard deviation between the {len(named)} folds: {'; '.join(told)}."
    return replace(table, notes=(*table.notes, note))


def _table(reports: Sequence[FitReport], mean: str, scored: str, title: str) -> Table:
    metrics = facts_of(reports[0].test.metrics)
    lines = [
        Line(
            report.task,
            _cells(
                report.test.masks if metric is metrics[0] else None,
                metric,
                report.frozen[metric.name],
                report.test[metric.name],
                report.gain[metric.name],
            ),
        )
        for report in reports
        for metric in metrics
    ]
    if len(reports) > 1:
        lines += [Line(mean, _means(reports, metric, metric is metrics[0])) for metric in metrics]
    first = reports[0]
    methods = ", ".join(sorted({report.method for report in reports}))
    modes = ", ".join(sorted({f"{report.task}: {report.mask_mode}" for report in reports}))
    undefined = sum(report.test.undefined for report in reports)
    notes = (
        *([f"{first.model}: {first.stand_in}."] if first.stand_in else []),
        f"{first.model}, {methods}, {first.parameters:,} trained parameters, {first.flops / 1e9:,.1f} GFLOP a sample "
        f"and step ({first.flops / 2e9:,.1f} multiply-adds){_seconds(reports)}, seed {first.seed}; {scored}, "
        f"{first.prompt} prompts, percent, means over masks at original resolution; 95 % intervals by "
        "groups.",
        *_without_interval(reports),
        *_states(reports),
        f"Masks read as {modes}." + (f" {undefined} empty masks left out." if undefined else ""),
        *explained_prompts([first.prompt]),
        *dict.fromkeys(note for report in reports for note in volume_notes(report.volumes)),
        *([WHOLE_IMAGES] if any(report.whole_images is not None for report in reports) else []),
    )
    volumes = [
        volume_section(report.volumes, "volumes" if len(reports) == 1 else f"volumes of {report.task}")
        for report in reports
        if report.volumes
    ]
    whole = [
        whole_image_section(
            report.whole_images, "whole images" if len(reports) == 1 else f"whole images of {report.task}"
        )
        for report in reports
        if report.whole_images is not None
    ]
    return Table("fit", title, "task", (Section("", COLUMNS, tuple(lines)), *volumes, *whole), notes)


def _seconds(reports: Sequence[FitReport]) -> str:
    """What a step took, the mean over fits, where it was measured."""
    known = [report.step_seconds for report in reports if report.step_seconds]
    return f", {sum(known) / len(known):.3g} s a step" if known else ""


def _without_interval(reports: Sequence[FitReport]) -> list[str]:
    few = {report.task: report.gain["iou"].groups for report in reports if math.isnan(report.gain["iou"].low)}
    told = ", ".join(f"{task} ({groups})" for task, groups in few.items())
    return [f"Too few groups (patients, slides) for an interval: {told}."] if few else []


def _states(reports: Sequence[FitReport]) -> list[str]:
    """Which state each fit handed out."""
    notes = []
    if shots := [f"{each.shots} ({each.task})" for each in reports if each.shots]:
        apart = (
            ", the held-out ones among them" if any(each.shots and each.chosen for each in reports) else ""
        )
        notes.append(f"Images to train on, of as many groups as there are{apart}: {', '.join(shots)}.")
    last = [report for report in reports if report.chosen is None]
    few = [report for report in last if report.groups < FEWEST_GROUPS]
    if few:
        told = []
        if part := [f"{each.task} ({each.groups}; {100 * each.shrunk:.0f} %)" for each in few if each.shrunk]:
            told.append(
                f"what is kept is part of the way from the frozen SAM to the last state: {', '.join(part)}"
            )
        if whole := [f"{each.task} ({each.groups})" for each in few if not each.shrunk]:
            told.append(f"the last state is kept: {', '.join(whole)}")
        notes.append(
            f"Fewer than {FEWEST_GROUPS} groups to train on, so none is held out and {'; '.join(told)}."
        )
        if not any(each.evaluate.startswith("fold") for each in last):
            notes[-1] += (
                " With so few it may be worse than none on new images: --folds K, with K up to the groups, tells."
            )
    if len(last) > len(few):
        notes.append("No groups were held out: the last state is kept.")
    for report in reports:
        task, chosen = f"{report.task}: " if len(reports) > 1 else "", report.chosen
        if chosen is None:
            continue
        held = f"{chosen['masks']} held-out masks of {chosen['groups']} groups"
        frozen, best = 100 * chosen["frozen"], 100 * chosen["iou"]
        if changes_nothing(chosen, report.gain["iou"].mean):
            notes.append(
                f"{task}NO STATE WAS BETTER than the frozen SAM ({frozen:.1f} IoU on {held}): what is kept changes "
                "nothing."
            )
        elif chosen["iou"] < chosen["frozen"]:
            notes.append(
                f"{task}NO STATE WAS BETTER than the frozen SAM ({frozen:.1f} IoU on {held}); kept is the best of a "
                f"network that takes SAM's place, after step {chosen['step']} of {report.steps}: {best:.1f} IoU."
            )
        else:
            early = " (ended early)" if chosen["stopped"] else ""
            share = chosen.get("share", 1.0)
            between = f"{100 * share:.0f} % of the way from the start to " if share < 1 else ""
            notes.append(
                f"{task}kept {between}the state after step {chosen['step']} of {report.steps}{early}: "
                f"{best:.1f} IoU on {held}, frozen {frozen:.1f}."
            )
    return notes


def changes_nothing(chosen: Mapping[str, Any], gain: float) -> bool:
    """Whether the state that a fit chose gives the frozen SAM's masks.

    A layer that is worse than none is not kept; the state before the first step is the frozen SAM's where a head begins
    as that, and then both scored alike.

    Args:
        chosen: what the fit records of its choice.
        gain: of the mean IoU on the masks that were scored, over the frozen SAM's.
    """
    same = abs(chosen["iou"] - chosen["frozen"]) < ROUNDING
    return (chosen["step"] == 0 and same) or (chosen["iou"] < chosen["frozen"] and abs(gain) < ROUNDING)


def _means(reports: Sequence[FitReport], metric: MetricFacts, first: bool) -> dict[str, Cell]:
    """Unweighted means over the tasks, without intervals."""
    frozen, fitted = (
        sum(getattr(report, side)[metric.name].mean for report in reports) / len(reports)
        for side in ("frozen", "test")
    )
    masks = sum(report.test.masks for report in reports) if first else None
    return _cells(masks, metric, *map(_alone, (frozen, fitted, fitted - frozen)))


def _alone(mean: float) -> Interval:
    return Interval(mean, math.nan, math.nan, 0, 0, 0)


def _cells(
    masks: int | None, metric: MetricFacts, frozen: Interval, fitted: Interval, gain: Interval
) -> dict[str, Cell]:
    cells = {
        "metric": Cell(metric.label),
        "frozen": interval_cell(frozen, metric),
        "fitted": interval_cell(fitted, metric),
        "gain": interval_cell(gain, metric, "+"),
    }
    return cells if masks is None else {"masks": Cell(str(masks), masks), **cells}
