"""Tables 5, 6, 9, 10 and 11: one option of CA-SAM's router varied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from casam_cache.bench.paper_sets import paper_name
from casam_cache.report.configurations import Configuration, Row, at, gather, number_cell, present
from casam_cache.report.layout import Cell, Column, Section, ranked
from casam_cache.report.layouts.paper_lines import (
    OursCells,
    columns_of,
    figure_cells,
    paper_line,
    side_by_side,
)
from casam_cache.report.paper import PaperRow, paper_figures


def same_option(name: str) -> Callable[[Configuration, PaperRow], bool]:
    """Whether a row of the paper has the same value of an option."""

    def matches(each: Configuration, row: PaperRow) -> bool:
        ours, theirs = each.options.get(name), row.match[name]
        if ours is None or isinstance(ours, str) or isinstance(theirs, str):
            return bool(ours == theirs)
        return math.isclose(ours, theirs)

    return matches


def table_5(rows: Sequence[Row]) -> list[Section]:
    figures = figure_cells(paper_figures("5").columns)

    def cells(each: Configuration) -> dict[str, Cell]:
        return {"hyper": Cell(_hyper(each.options)), **figures(each)}

    return _ablation("5", "pooling", rows, cells)


def table_6(rows: Sequence[Row]) -> list[Section]:
    return _ablation("6", "threshold", rows, figure_cells(paper_figures("6").columns))


def table_10(rows: Sequence[Row]) -> list[Section]:
    return _numeric_ablation("10", "temperature", "T", rows)


def table_11(rows: Sequence[Row]) -> list[Section]:
    return _numeric_ablation("11", "beta", "β", rows)


def table_9(rows: Sequence[Row]) -> list[Section]:
    """Thresholds of each task; sets that are not the paper's have columns of their own."""
    paper = paper_figures("9")
    runs = [each for each in gather(rows) if any(row.get("thresholds") for row in each.rows)]
    tasks = list(
        dict.fromkeys(task for each in runs for row in each.rows for task in row.get("thresholds") or {})
    )
    theirs = {column.label: column.key for column in paper.columns}
    keys = {task: theirs.get(paper_name(task) or "", f"task:{task}") for task in tasks}
    columns = tuple(Column(keys[task], task) for task in tasks)

    def cells(each: Configuration) -> dict[str, Cell]:
        return present({keys[task]: _threshold(each, task) for task in tasks})

    matched = set(keys.values()) & set(theirs.values())
    beside = paper.rows if matched else ()
    lines = side_by_side(beside, runs, same_option("threshold"), cells)
    sections = [Section("Table 9: calibrated thresholds τ_t", columns, lines)] if runs else []
    if matched != set(theirs.values()):
        title = "Table 9 of the paper, on its own datasets"
        sections.append(Section(title, columns_of(paper.columns), tuple(map(paper_line, paper.rows))))
    return sections


def _ablation(number: str, option: str, rows: Sequence[Row], cells: OursCells) -> list[Section]:
    paper = paper_figures(number)
    lines = side_by_side(paper.rows, gather(rows), same_option(option), cells)
    title = "Table 6: threshold rules" if number == "6" else ""
    return [ranked(Section(title, columns_of(paper.columns), lines))]


def _numeric_ablation(number: str, option: str, symbol: str, rows: Sequence[Row]) -> list[Section]:
    """As `_ablation`, with values that the paper does not have in their numeric place."""
    paper = paper_figures(number)
    runs = gather(rows)
    known = [row.match[option] for row in paper.rows]
    ours = {each.options[option] for each in runs if each.options.get(option) is not None}
    further = [value for value in ours if not any(math.isclose(value, theirs) for theirs in known)]
    blank = [PaperRow(f"{symbol}={value:g}", "", {option: value}, {}) for value in further]
    places = sorted([*paper.rows, *blank], key=lambda row: row.match[option])
    lines = side_by_side(places, runs, same_option(option), figure_cells(paper.columns))
    shown = tuple(line for line in lines if line.source == "ours" or line.cells)
    return [ranked(Section("", columns_of(paper.columns), shown))]


def _threshold(each: Configuration, task: str) -> Cell | None:
    """The mean over seeds with four decimals as in the paper; infinite if it is in any run."""
    reported = [row["thresholds"] for row in each.rows if task in (row.get("thresholds") or {})]
    if not reported:
        return None
    if any(thresholds[task] is None for thresholds in reported):
        return Cell("∞")
    return number_cell(each.estimate(at("thresholds", task)), 4)


def _hyper(options: Mapping[str, Any]) -> str:
    parts = [f"β={options['beta']:g}"] if options.get("beta") is not None else []
    if options.get("pooling") in ("attention", "learned") and options.get("temperature") is not None:
        parts.append(f"temp = {options['temperature']:g}")
    return ", ".join(parts)
