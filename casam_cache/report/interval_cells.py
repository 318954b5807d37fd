"""A mean with its interval, as a cell of a table."""

from __future__ import annotations

import math

from casam_cache.metrics.base import MetricFacts
from casam_cache.metrics.intervals import Interval
from casam_cache.report.layout import Cell


def interval_cell(interval: Interval, metric: MetricFacts, sign: str = "") -> Cell:
    """As `Interval.text`, with the mean as what columns are sorted by."""
    mean = None if math.isnan(interval.mean) else (100 if metric.percent else 1) * interval.mean
    return Cell(interval.text(metric.percent, sign), mean)
