"""Frozen against fitted in volumes, as sections of the tables of slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from casam_cache.bench.volumes import VolumeScore
from casam_cache.metrics.base import MetricFacts
from casam_cache.metrics.volumes import VOLUME_METRICS
from casam_cache.report.interval_cells import interval_cell
from casam_cache.report.layout import Cell, Column, Line, Section

COLUMNS = (
    Column("values", "values"),
    Column("metric", "metric", left=True),
    Column("frozen", "frozen SAM", left=True),
    Column("fitted", "fitted", left=True),
    Column("gain", "gain", left=True),
)
CONVENTION = (
    "Volumes are put together from the slices of the split; slices that were not encoded or do not have the class are "
    "not prompted and count as empty. 3D Dice and IoU in percent; ASSD and HD95 are distances of surfaces in mm, low "
    "is better. A class that a volume does not have is left out; where nothing was predicted for one that it has, Dice "
    "and IoU are 0 and distances are left out."
)


def volume_section(scores: Sequence[VolumeScore], title: str = "volumes") -> Section:
    """A line a metric for all volumes and classes, then for each class."""
    lines = [
        Line("all" if one.class_id is None else f"class {one.class_id}", _cells(one, metric))
        for one in scores
        for metric in VOLUME_METRICS
    ]
    return Section(title, COLUMNS, tuple(lines))


def volume_notes(scores: Sequence[VolumeScore]) -> list[str]:
    """What the figures of `volume_section` mean; nothing where there are none."""
    if not scores:
        return []
    whole = scores[0]
    notes = [CONVENTION]
    if not whole.fitted["assd"].values and not whole.frozen["assd"].values:
        return [*notes, "No distances: the store knows no spacing of the volumes, or nothing was predicted."]
    left = {"frozen": whole.frozen["assd"].undefined, "fitted": whole.fitted["assd"].undefined}
    if any(left.values()):
        told = ", ".join(f"{side} {count}" for side, count in left.items())
        notes.append(f"Without distances, of {whole.fitted['dice'].values} volumes and classes: {told}.")
    return notes


def _cells(one: VolumeScore, metric: MetricFacts) -> dict[str, Cell]:
    interval = one.fitted[metric.name]
    cells = {
        "metric": Cell(metric.label),
        "frozen": interval_cell(one.frozen[metric.name], metric),
        "fitted": interval_cell(interval, metric),
        "gain": interval_cell(one.gain[metric.name], metric, "+"),
    }
    return (
        cells
        if math.isnan(interval.mean)
        else {"values": Cell(str(interval.values), interval.values), **cells}
    )
