"""Paired tests between configurations as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from casam_cache.metrics.base import MetricFacts
from casam_cache.report.configurations import present
from casam_cache.report.layout import Cell, Column, Line, Section, Table

COLUMNS = (
    Column("difference", "difference"),
    Column("low", "low"),
    Column("high", "high"),
    Column("p", "p"),
    Column("p_holm", "p (Holm)"),
    Column("groups", "groups"),
)
NOTES = (
    "Difference: Last of the first minus Last of the second, in points, tasks weighted as in the table; each mask's "
    "score is averaged over the runs of a configuration first. Interval (95 %) and two-sided p are of this difference, "
    "by groups (patients, slides): docs/benchmarks.md. Holm: p corrected for all pairs here, each metric on its own.",
)
BRIEFLY = ("difference of the first's Last to the second's in points, 95 % interval and p of it by group",)


def paired_table(
    tests: Sequence[Mapping[str, Any]],
    metrics: Sequence[MetricFacts],
    *,
    title: str = "Paired tests",
    name: str = "tests",
    notes: Sequence[str] = NOTES,
) -> Table:
    """A line a pair.

    Args:
        tests: `summary.tests` of results.json: first, second, metric, difference, low, high, p, p_holm,
            groups; null where undefined.
        metrics: what the results have.
        title: over the table.
        name: of the table.
        notes: under it.
    """
    tested = dict.fromkeys(test["metric"] for test in tests)
    known = {metric.name: metric for metric in metrics}
    sections = tuple(
        Section(
            metric.label,
            COLUMNS,
            tuple(_line(test, metric) for test in tests if test["metric"] == metric.name),
        )
        for metric in (known.get(each, MetricFacts(each, each)) for each in tested)
    )
    return Table(name, title, "Configurations", sections, tuple(notes))


def brief_paired_table(
    tests: Sequence[Mapping[str, Any]], metrics: Sequence[MetricFacts], *, most: int = 10
) -> Table:
    """As `paired_table`, with short notes and, where there are more than `most` pairs, those with the smallest p."""
    notes = [*BRIEFLY]
    shown = list(tests)
    if len(tests) > most:
        shown = sorted(tests, key=_p)[:most]
        notes.append(f"the {most} pairs with the smallest p of {len(tests)}; casam report shows all")
    return paired_table(shown, metrics, notes=notes)


def _p(test: Mapping[str, Any]) -> float:
    p = test.get("p")
    return math.inf if p is None else p


def _line(test: Mapping[str, Any], metric: MetricFacts) -> Line:
    factor = 100 if metric.percent else 1
    cells = {key: _cell(test.get(key), factor, "+.2f") for key in ("difference", "low", "high")}
    cells |= {key: _cell(test.get(key), 1, ".4f") for key in ("p", "p_holm")}
    cells["groups"] = _cell(test.get("groups"), 1, ".0f")
    return Line(f"{test['first']} - {test['second']}", present(cells), ranked=False)


def _cell(value: float | None, factor: float, form: str) -> Cell | None:
    return None if value is None else Cell(format(factor * value, form), factor * value)
