"""A mean with its interval, as a cell of a table."""

from __future__ import annotations

import math

from casam_cache.metrics.base import MetricFacts
from casam_cache.metrics.intervals import Interval
from casam_cache.report.layout import Cell


def interval_cell(interval: Interval, metric: MetricFacts, sign: str = "") -> Cell:
    """`71.2 [68.0, 74.1]`; only the mean where there is no interval, a dash where that is undefined."""
    if math.isnan(interval.mean):
        return Cell("-")
    factor = 100 if metric.percent else 1
    mean, low, high = (factor * value for value in (interval.mean, interval.low, interval.high))
    edges = "" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return Cell(f"{mean:{sign}.1f}{edges}", mean)
