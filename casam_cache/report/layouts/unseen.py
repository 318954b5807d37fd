"""Table 2: IoU and BIoU on each unseen set after the last task, with the difference to the frozen SAM."""

from __future__ import annotations

import math
from collections.abc import Sequence

from casam_cache.bench.paper_sets import UNSEEN, paper_name
from casam_cache.report.configurations import Configuration, Row, at, gather, present
from casam_cache.report.layout import Cell, Column, Section, ranked
from casam_cache.report.layouts.continual import same_method
from casam_cache.report.layouts.paper_lines import columns_of, paper_line, side_by_side
from casam_cache.report.paper import REPORTED, PaperColumn, PaperRow, paper_figures


def table_2(rows: Sequence[Row]) -> list[Section]:
    """Our sets; the paper's figures beside those of the same name, and all of them below where one is not ours."""
    paper = paper_figures("2")
    names = list(dict.fromkeys(name for row in rows for name in row.get("unseen") or {}))
    names.sort(
        key=lambda name: (UNSEEN.index(known) if (known := paper_name(name)) in UNSEEN else len(UNSEEN), name)
    )
    runs = [each for each in gather(rows) if any(row.get("unseen") for row in each.rows)]
    keys = {name: known if (known := paper_name(name)) in UNSEEN else name for name in names}
    columns = tuple(
        Column(f"{score}:{keys[name]}", label, name, "high")
        for name in names
        for score, label in REPORTED.items()
    )
    overall = (Column("ood_accuracy", "Acc", "all", "high"),)

    def cells(each: Configuration) -> dict[str, Cell]:
        found = {f"{s}:{keys[name]}": _with_change(each, name, s) for name in names for s in REPORTED}
        accuracy = each.estimate(at("ood_accuracy"))
        known = None if math.isnan(accuracy.mean) else Cell(f"{100 * accuracy.mean:.2f}", 100 * accuracy.mean)
        return present({**found, "ood_accuracy": known})

    covered = {column.key for column in columns}
    shared = [column for column in paper.columns if column.key in covered]
    sections = []
    if runs:
        beside = [_only(row, shared) for row in paper.rows] if shared else []
        lines = side_by_side(beside, runs, same_method, cells)
        sections.append(ranked(Section("", (*columns, *overall), lines)))
    if len(shared) < len(paper.columns):
        title = "Table 2 of the paper, on its own datasets"
        sections.append(Section(title, columns_of(paper.columns), tuple(map(paper_line, paper.rows))))
    return sections


def _only(row: PaperRow, columns: Sequence[PaperColumn]) -> PaperRow:
    values = {column.key: row.values[column.key] for column in columns if column.key in row.values}
    return PaperRow(row.label, row.section, row.match, values)


def _with_change(each: Configuration, name: str, score: str) -> Cell | None:
    """`77.62 (-0.46)`: the score and, signed, its difference to the frozen SAM on the same masks."""
    estimate = each.estimate(at("unseen", name, score))
    if math.isnan(estimate.mean):
        return None
    number = 100 * estimate.mean
    half = None if math.isnan(estimate.half) else 100 * estimate.half
    frozen = each.estimate(at("unseen", name, f"frozen_{score}"))
    text = f"{number:.2f}" + ("" if half is None else f" ± {half:.2f}")
    if each.method != "frozen" and not math.isnan(frozen.mean):
        text += f" ({100 * (estimate.mean - frozen.mean):+.2f})"
    return Cell(text, number, half)
