"""Frozen against fitted in whole images, as a section of the tables of tiles."""

from __future__ import annotations

from casam_cache.bench.whole_images import WholeScore
from casam_cache.report.interval_cells import interval_cell
from casam_cache.report.layout import Cell, Column, Line, Section
from casam_cache.training.whole_images import WHOLE_METRICS

COLUMNS = (
    Column("masks", "objects"),
    Column("metric", "metric", left=True),
    Column("frozen", "frozen SAM", left=True),
    Column("fitted", "fitted", left=True),
    Column("gain", "gain", left=True),
)
CONVENTION = (
    "Whole images are put together from their tiles: each pixel counts from the one tile in whose core it lies, "
    "overlaps being cut in the middle; an object that several tiles hold is one. Each tile was prompted for its piece."
)


def whole_image_section(one: WholeScore, title: str = "whole images") -> Section:
    """A line a metric."""
    lines = [
        Line(
            f"{one.images} image{'' if one.images == 1 else 's'}",
            {
                "masks": Cell(str(one.fitted.masks), one.fitted.masks),
                "metric": Cell(metric.label),
                "frozen": interval_cell(one.frozen[metric.name], metric),
                "fitted": interval_cell(one.fitted[metric.name], metric),
                "gain": interval_cell(one.gain[metric.name], metric, "+"),
            },
        )
        for metric in WHOLE_METRICS
    ]
    return Section(title, COLUMNS, tuple(lines))
