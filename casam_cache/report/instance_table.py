"""A head of proposals: AP and mSA of every class, with what decides the numbers below."""

from __future__ import annotations

import math

from casam_cache.bench.instances import InstanceReport
from casam_cache.metrics.base import MetricFacts
from casam_cache.report.interval_cells import interval_cell
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.report.segmentation_table import fit_notes, name_of

COLUMNS = tuple(
    MetricFacts(name, label, "high", True)
    for name, label in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75"), ("msa", "mSA"))
)


def instance_table(report: InstanceReport) -> Table:
    """A line a class and their mean; no frozen SAM beside it, which can do nothing without a prompt."""
    columns = (
        Column("images", "images"),
        Column("objects", "objects"),
        Column("found", "found"),
        *(Column(metric.name, metric.label, left=True) for metric in COLUMNS),
    )
    whole, *classes = report.scores
    shown = classes if len(classes) == 1 else [*classes, whole]
    lines = tuple(
        Line(
            name_of(each.class_id, report.class_names),
            {
                "images": Cell(str(each.images), each.images),
                "objects": Cell(str(each.objects), each.objects),
                "found": Cell(str(each.found), each.found),
                **{metric.name: interval_cell(each[metric.name], metric) for metric in COLUMNS},
            },
        )
        for each in shown
    )
    return Table("instances", report.task, "class", (Section("", columns, lines),), tuple(_notes(report)))


def _notes(report: InstanceReport) -> list[str]:
    whole, fit = report.scores[0], report.fit
    msa = whole["msa"]
    notes = [f"{report.model}: {report.stand_in}."] if report.stand_in else []
    notes.append(
        f"{report.model}, {report.head}, {report.parameters:,} trained parameters, no prompts, seed {report.seed}; "
        f"{report.evaluate} split of {whole.images} images, percent, masks at original resolution; 95 % intervals by "
        "groups."
    )
    notes.append(
        "AP: COCO's, over all objects found in the split together, mean over IoU 0.50 to 0.95; its interval is a "
        "jackknife."
    )
    notes.append(
        f"found, mSA: of objects with a score of {report.threshold:.2f} or more. mSA: TP / (TP + FP + FN), mean over "
        "the same IoU and over images; an image without an object counts as 0 where one is found, and not at all "
        f"where none is ({msa.undefined} times)."
    )
    if report.tiles:
        notes.append("Images are tiles of larger ones: an object on a border is one in each.")
    if not report.background:
        notes.append("Images without masks may be unlabelled (--unlabelled): they are left out.")
    if math.isnan(msa.low):
        notes.append(f"Too few groups (patients, slides) for an interval: {msa.groups}.")
    chosen = fit["chosen"]
    best = "" if chosen is None else f"{100 * chosen['box_ap']:.1f} AP of boxes"
    notes.append(fit_notes(fit, best))
    if report.untrained:
        numbers = ", ".join(map(str, report.untrained))
        notes.append(f"No training image has class {numbers}: it is never found, and scored as missed.")
    notes.append(f"Masks read as {report.mask_mode}: each is one object.")
    return notes
