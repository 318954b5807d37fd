"""A finished bench as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.report.bench_report import Page
from casam_cache.report.configurations import Configuration, gather
from casam_cache.report.html.circumstances import Circumstances, circumstances, stages_of
from casam_cache.report.html.heat import Matrix, confusion_matrix, order_matrices, thresholds
from casam_cache.report.layout import Cell, Column, Line, Section, Table


@dataclass(frozen=True)
class BenchSection:
    """What the page shows of a bench.

    Attributes:
        title: of the bench.
        anchor: of the section.
        page: its table, tests and figures.
        facts: name and value.
        warnings: a line each.
        heat: of each configuration with a sequence, R over orders.
        confusion: of each configuration with a router.
        thresholds: of all routers, or None.
    """

    title: str
    anchor: str
    page: Page
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    heat: tuple[tuple[str, list[Matrix]], ...]
    confusion: tuple[Matrix, ...]
    thresholds: Table | None

    @property
    def key(self) -> str:
        """Of the results."""
        return Path(str(self.page.results["folder"])).name


def bench_section(page: Page, number: int) -> BenchSection:
    """The section of one results.json.

    Args:
        page: of its results.
        number: of the section, from 1.
    """
    results = page.results
    rows = results["results"]
    runs = gather(rows)
    folder = Path(str(results["folder"]))
    under = circumstances(stages_of(folder.parent.parent, folder.name))
    heat = tuple((run.label, matrices) for run in runs if (matrices := order_matrices(run)))
    confusion = tuple(matrix for run in runs if (matrix := confusion_matrix(run)))
    return BenchSection(
        str(results["title"]), f"bench-{number}", page, tuple(_facts(results, folder, under)),
        tuple(_warnings(results, under)), heat, confusion, _thresholds(runs),
    )  # fmt: skip


def _facts(results: Mapping[str, Any], folder: Path, under: Circumstances) -> list[tuple[str, str]]:
    rows = results["results"]
    first = rows[0]
    orders = results.get("orders") or {}
    seeds = sorted({row["seed"] for row in rows})
    told = [
        ("results", str(folder)),
        ("table", str(results.get("table", ""))),
        ("backbone", str(first.get("model", ""))),
        ("methods", ", ".join(dict.fromkeys(str(row["label"]) for row in rows))),
        ("tasks", ", ".join(map(str, first["order"]))),
        ("orders", str(max(1, len(orders)))),
        ("seeds", ", ".join(map(str, seeds))),
        ("unseen sets", ", ".join(map(str, results.get("unseen") or ())) or "none"),
        ("scored", f"{first['evaluate']} split, {first['prompt']}, tasks weighted by {first['weight']}"),
    ]
    return [*told, *under.facts]


def _warnings(results: Mapping[str, Any], under: Circumstances) -> list[str]:
    rows = results["results"]
    found = []
    if stand_in := rows[0].get("stand_in"):
        found.append(f"{rows[0]['model']}: {stand_in}")
    if len({row["seed"] for row in rows}) == 1:
        found.append("one seed, so nothing says how much the seed decides")
    if len({tuple(row["order"]) for row in rows}) == 1 and len(rows[0]["order"]) > 1:
        found.append("one order of tasks, so nothing says how much the order decides")
    tests = (results.get("summary") or {}).get("tests") or []
    if few := sorted({int(test.get("groups") or 0) for test in tests if test.get("low") is None}):
        found.append(
            f"too few groups (patients, slides) for the interval of some differences: {', '.join(map(str, few))}"
        )
    found += [f"left out: {each['method']}: {each['reason']}" for each in _skipped(results)]
    return [*found, *under.warnings]


def _skipped(results: Mapping[str, Any]) -> list[dict[str, str]]:
    told = []
    for each in results.get("skipped") or ():
        rest = [str(value) for name, value in each.items() if name not in ("method", "label")]
        told.append(
            {"method": str(each.get("method") or each.get("label") or "a method"), "reason": "; ".join(rest)}
        )
    return told


def _thresholds(runs: Sequence[Configuration]) -> Table | None:
    lines = []
    for run in runs:
        for task, found in thresholds(run):
            cells = {"task": Cell(task)}
            for name in ("lowest", "highest"):
                value = found[name]
                cells[name] = Cell("-") if value is None else Cell(f"{value:.6g}", value)
            cells["infinite"] = Cell(str(found["infinite"]), found["infinite"])
            lines.append(Line(run.label, cells))
    if not lines:
        return None
    columns = (
        Column("task", "task", left=True),
        Column("lowest", "lowest"),
        Column("highest", "highest"),
        Column("infinite", "runs without one"),
    )
    notes = (
        "An image whose nearest task gives it a higher score than the task's threshold goes to the frozen SAM. Where "
        "held-out scores are too few to calibrate a threshold, there is none and nothing is rejected.",
    )
    return Table(
        "thresholds",
        "Thresholds over orders and seeds",
        "method",
        (Section("", columns, tuple(lines)),),
        notes,
    )
