"""A head without prompts: Dice and IoU of every class, with what decides the numbers below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from casam_cache.bench.segmentation import SegmentationReport
from casam_cache.metrics.columns import facts_of
from casam_cache.report.interval_cells import interval_cell
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.training.held_out import FEWEST_GROUPS
from casam_cache.training.segmentation_scores import ClassScore

WHOLE_IMAGES = (
    "Whole images are put together from their tiles: each pixel counts from the one tile in whose core it lies, "
    "overlaps being cut in the middle. Tiles that were left out, since they hold no mask, are not among them: --tiles "
    "all of casam encode keeps them."
)


def segmentation_table(report: SegmentationReport) -> Table:
    """A line a class and their mean, of tiles and of the whole images; no frozen SAM, which needs a prompt."""
    sections = [_section("", report.scores, report)]
    if report.whole_images:
        sections.append(_section("whole images", report.whole_images, report))
    return Table("segmentation", report.task, "class", tuple(sections), tuple(_notes(report)))


def _section(title: str, scores: Sequence[ClassScore], report: SegmentationReport) -> Section:
    metrics = facts_of(scores[0].metrics)
    columns = (
        Column("images", "images"),
        *(Column(metric.name, metric.label, left=True) for metric in metrics),
    )
    whole, *classes = scores
    shown = classes if len(classes) == 1 else [*classes, whole]
    lines = tuple(
        Line(
            name_of(each.class_id, report.class_names),
            {
                "images": Cell(str(each.images), each.images),
                **{metric.name: interval_cell(each[metric.name], metric) for metric in metrics},
            },
        )
        for each in shown
    )
    return Section(title, columns, lines)


def name_of(class_id: int | None, names: Mapping[int, str]) -> str:
    """What a line is called: of a class, or None of all of them."""
    if class_id is None:
        return "mean of classes"
    return names.get(class_id) or f"class {class_id}"


def fit_notes(fit: Mapping[str, Any], best: str) -> str:
    """Which state was kept; `best` says how good it is on the held-out images."""
    chosen = fit["chosen"]
    if chosen is None:
        few = f"Fewer than {FEWEST_GROUPS} groups to train on, or none were to be held out"
        return f"{few}: the last state is kept, after step {fit['steps']}."
    return (
        f"Kept the state after step {chosen['step']} of {fit['steps']}: {best} on {fit['images']} held-out images of "
        f"{fit['groups']} groups."
    )


def _notes(report: SegmentationReport) -> list[str]:
    whole, fit = report.scores[0], report.fit
    dice = whole["dice"]
    notes = [f"{report.model}: {report.stand_in}."] if report.stand_in else []
    notes.append(
        f"{report.model}, {report.head}, {report.parameters:,} trained parameters, no prompts, seed {report.seed}; "
        f"{report.evaluate} split of {whole.images} images, percent, means over images at original resolution; 95 % "
        "intervals by groups."
    )
    notes.append(
        "images: those that have the class. One without it counts as 0 where it is predicted, and not at all where it "
        f"is not ({dice.undefined} times)."
    )
    if report.whole_images:
        notes.append(WHOLE_IMAGES)
    if not report.background:
        notes.append("Images without masks may be unlabelled (--unlabelled): they are left out.")
    if math.isnan(dice.low):
        notes.append(f"Too few groups (patients, slides) for an interval: {dice.groups}.")
    chosen = fit["chosen"]
    notes.append(fit_notes(fit, "" if chosen is None else f"{100 * chosen['dice']:.1f} Dice"))
    if report.untrained:
        numbers = ", ".join(map(str, report.untrained))
        notes.append(f"No training image has class {numbers}: it is never predicted, and scored as missed.")
    notes.append(
        f"Masks read as {report.mask_mode}; objects of one class are one region, and where classes overlap the smaller "
        "mask has the pixel."
    )
    return notes
