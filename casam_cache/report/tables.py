"""Tables in plain text, with intervals, and with every convention that decides the numbers stated below."""

from __future__ import annotations

import math
from collections.abc import Sequence

from casam_cache.bench.fit import FitReport
from casam_cache.bench.stages.evaluate import PROMPT
from casam_cache.metrics.intervals import Interval

METRICS = {"iou": "IoU", "biou": "BIoU", "dice": "Dice"}


def percent(value: float) -> str:
    """A metric in [0, 1] as a percentage with one decimal; a dash where undefined."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def with_interval(interval: Interval, sign: bool = False) -> str:
    """`71.2 [68.0, 74.1]`, in percent; only the mean where there is no interval."""
    mean = percent(interval.mean)
    if sign and not math.isnan(interval.mean):
        mean = f"{100 * interval.mean:+.1f}"
    return mean if math.isnan(interval.low) else f"{mean} [{percent(interval.low)}, {percent(interval.high)}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table padded so that it also reads as plain text."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def fit_lines(reports: Sequence[FitReport]) -> list[str]:
    """Frozen against fitted, one row a task and metric, then what the numbers mean."""
    rows = [
        [
            report.task if metric == "iou" else "",
            str(report.test.masks) if metric == "iou" else "",
            name,
            with_interval(getattr(report.frozen, metric)),
            with_interval(getattr(report.test, metric)),
            with_interval(report.gain[metric], sign=True),
        ]
        for report in reports
        for metric, name in METRICS.items()
    ]
    if len(reports) > 1:
        rows += [_mean_row(reports, metric, name) for metric, name in METRICS.items()]
    first = reports[0]
    methods = ", ".join(sorted({report.method for report in reports}))
    modes = ", ".join(sorted({f"{report.task}: {report.mask_mode}" for report in reports}))
    undefined = sum(report.test.undefined for report in reports)
    notes = [
        f"{first.model}, {methods}, {first.parameters:,} trained parameters, seed {first.seed}; {first.evaluate} "
        f"split, {PROMPT} prompts, percent, means over masks at original resolution; 95 % intervals from "
        "resampling groups.",
        f"Masks read as {modes}." + (f" {undefined} empty masks left out." if undefined else ""),
    ]
    return [*markdown_table(["task", "masks", "metric", "frozen SAM", "fitted", "gain"], rows), *notes]


def _mean_row(reports: Sequence[FitReport], metric: str, name: str) -> list[str]:
    """Unweighted means over the tasks, without intervals."""
    frozen, fitted = (
        sum(getattr(getattr(report, side), metric).mean for report in reports) / len(reports)
        for side in ("frozen", "test")
    )
    masks = sum(report.test.masks for report in reports)
    label = ["mean of tasks", str(masks)] if metric == "iou" else ["", ""]
    return [*label, name, percent(frozen), percent(fitted), f"{100 * (fitted - frozen):+.1f}"]
