"""Paired tests between configurations as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casam_cache.report.layout import Cell, Column, Line, Section, Table

NOTES = (
    "Difference: mean over all masks of the first's score minus the second's, in points, after the last task; each "
    "mask's score is averaged over the runs of a configuration first. Interval: 95 %, from resampling groups "
    "(patients, slides).",
    "p: two-sided sign-flip permutation test on the groups' mean differences; Holm: corrected for all pairs here.",
)


def paired_table(tests: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """A line a pair.

    Args:
        tests: `summary.tests` of results.json: first, second, metric, difference, low, high, p_sign_flip, p_holm,
            groups; null where undefined.
        title: over the table.
    """
    columns = [Column("difference", "difference"), Column("low", "low"), Column("high", "high")]
    columns += [Column("p_sign_flip", "p"), Column("p_holm", "p (Holm)"), Column("groups", "groups")]
    metrics = list(dict.fromkeys(test["metric"] for test in tests))
    sections = tuple(
        Section(
            {"iou": "IoU", "biou": "BIoU"}.get(metric, metric),
            tuple(columns),
            tuple(_line(test) for test in tests if test["metric"] == metric),
        )
        for metric in metrics
    )
    return Table("tests", title, "Configurations", sections, NOTES)


def _line(test: Mapping[str, Any]) -> Line:
    cells = {key: _cell(test.get(key), 100, "+.2f") for key in ("difference", "low", "high")}
    cells |= {key: _cell(test.get(key), 1, ".4f") for key in ("p_sign_flip", "p_holm")}
    cells["groups"] = _cell(test.get("groups"), 1, ".0f")
    label = f"{test['first']} - {test['second']}"
    return Line(label, "ours", {key: cell for key, cell in cells.items() if cell is not None}, ranked=False)


def _cell(value: float | None, factor: float, form: str) -> Cell | None:
    return None if value is None else Cell(format(factor * value, form), factor * value)
