"""Routers side by side: how often they are right, what being wrong costs, and what they do with unseen sets."""

from __future__ import annotations

from collections.abc import Sequence

from casam_cache.report.configurations import Configuration, Row, at, gather, percent_cell, present
from casam_cache.report.layout import Cell, Column, Line, Section, ranked

COLUMNS = (
    Column("routing_accuracy", "routing accuracy", "tasks learnt", "high"),
    Column("last_iou", "Last-IoU", "tasks learnt", "high"),
    Column("oracle_last_iou", "Last-IoU, task told", "tasks learnt"),
    Column("ff_iou", "FF-IoU", "tasks learnt", "low"),
    Column("oracle_ff_iou", "FF-IoU, task told", "tasks learnt"),
    Column("ood_accuracy", "OOD accuracy", "unseen sets", "high"),
    Column("ood_iou", "IoU", "unseen sets", "high"),
    Column("ood_biou", "BIoU", "unseen sets", "high"),
)


def routers(rows: Sequence[Row]) -> list[Section]:
    """A line a routed configuration; the paper has no such table."""
    runs = [
        each for each in gather(rows) if any(row.get("routing_accuracy") is not None for row in each.rows)
    ]
    lines = tuple(Line(each.label, _cells(each), "ours", each.ranked) for each in runs)
    return [ranked(Section("", COLUMNS, lines))]


def _cells(each: Configuration) -> dict[str, Cell]:
    return present({column.key: percent_cell(each.estimate(at(column.key))) for column in COLUMNS})
