"""The tables of `casam bench`: what it ends with, and what a dry run plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casam_cache.metrics.columns import recorded_facts, result_columns
from casam_cache.report.conditions import spread_of
from casam_cache.report.configurations import at, gather, number_cell, present
from casam_cache.report.layout import Cell, Column, Line, Section, Table, ranked
from casam_cache.report.paired import brief_paired_table
from casam_cache.report.prompt_words import explained_prompts

BENCH = "bench"
PLANNED = {"requested": "requested", "distinct": "distinct", "existing": "exist", "missing": "to do"}


def bench_tables(results: Mapping[str, Any]) -> list[Table]:
    """What `casam bench` ends with: its table, and the paired tests in brief where there are some."""
    tests = results["summary"]["tests"]
    paired = [brief_paired_table(tests, recorded_facts(results))] if tests else []
    return [bench_table(results), *paired]


def bench_table(results: Mapping[str, Any]) -> Table:
    """A line a configuration: means over orders and seeds, with half widths of intervals where there are several.

    Args:
        results: as in results.json.
    """
    rows = results["results"]
    shown = [
        column
        for column in result_columns(recorded_facts(results))
        if column.brief and any(row.get(column.key) is not None for row in rows)
    ]
    columns = tuple(Column(column.key, column.label, column.group, column.better) for column in shown)
    lines = tuple(
        Line(
            each.label,
            present(
                {
                    column.key: number_cell(each.estimate(at(column.key)), 2, 100 if column.percent else 1)
                    for column in shown
                }
            ),
            ranked=each.ranked,
        )
        for each in gather(rows)
    )
    sections = (ranked(Section("", columns, lines)),)
    return Table(BENCH, results["title"], "method", sections, tuple(_notes(results)))


def _notes(results: Mapping[str, Any]) -> list[str]:
    rows = results["results"]
    first = rows[0]
    notes = [
        f"{len(first['order'])} tasks; {spread_of(rows)}; percent on"
        f" the {first['evaluate']} split, {first['prompt']}; tasks weighted by {first['weight']},"
        f" forgetting: {first['forgetting']}; model {first['model']}"
    ]
    if first.get("stand_in"):
        notes.append(f"{first['model']}: {first['stand_in']}")
    notes += explained_prompts([str(row["prompt"]) for row in rows])
    plain = [metric.label for metric in recorded_facts(results) if not metric.percent]
    if plain:
        notes.append(f"not in percent: {', '.join(plain)}")
    if results.get("selection"):
        told = results["selection"]
        notes.append(f"chosen by {told['metric']} on the validation split:")
        notes += [f"  {label}: {entry['chosen']}" for label, entry in told["groups"].items()]
    infinite = sorted(
        {
            row["label"]
            for row in rows
            if row.get("thresholds")
            and None in row["thresholds"].values()
            and row["options"].get("threshold") != "none"
        }
    )
    if infinite:
        notes.append(
            f"a threshold is infinite (too few held-out scores to calibrate it): {', '.join(infinite)}"
        )
    return [*notes, *mixed(results)]


def mixed(results: Mapping[str, Any]) -> list[str]:
    """What stands below a table whose stages were computed by other code, or under several devices or versions."""
    several = dict(results.get("mixtures") or {})
    code = several.pop("code", [])
    notes = (
        [f"some stages were computed by other code than that which made this table: {'; '.join(code)}"]
        if code
        else []
    )
    if several:
        told = "; ".join(f"{name}: {', '.join(values)}" for name, values in several.items())
        notes.append(f"stages were computed under several of: {told}")
    return notes


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Stages by kind.

    Args:
        plan: `PlanSummary.to_json`.
    """
    columns = tuple(Column(key, label) for key, label in PLANNED.items())
    lines = tuple(
        Line(kind, {key: Cell(str(counts[key]), counts[key]) for key in PLANNED})
        for kind, counts in {**plan["kinds"], "all": plan["stages"]}.items()
    )
    return Table("plan", "", "stage", (Section("", columns, lines),))
