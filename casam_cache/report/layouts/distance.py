"""Table 4: distances of features before and after the Alignment Layer to adapter-tuned ones."""

from __future__ import annotations

from collections.abc import Sequence

from casam_cache.bench.paper_sets import paper_name
from casam_cache.report.configurations import Configuration, Row, at, gather, number_cell, present
from casam_cache.report.layout import Cell, Line, Section
from casam_cache.report.layouts.paper_lines import columns_of, paper_line
from casam_cache.report.paper import paper_figures

SIDES = {"before": "Before vs Adapter", "after": "After vs Adapter"}
SAME = 1e-3  # of TV: what rounding in a store leaves between equal features


def table_4(rows: Sequence[Row]) -> list[Section]:
    """A section a task: two rows, before and after; the closer of ours is marked."""
    paper = paper_figures("4")
    columns = columns_of(paper.columns)
    runs = [each for each in gather(rows) if any(row.get("distances") for row in each.rows)]
    tasks = list(
        dict.fromkeys(task for each in runs for row in each.rows for task in row.get("distances") or {})
    )
    names = list(dict.fromkeys(row.match["task"] for row in paper.rows))
    ours = {paper_name(task) or task: task for task in tasks}
    sections = []
    for name in dict.fromkeys([*names, *ours]):
        lines: list[Line] = []
        for side, label in SIDES.items():
            for each in runs if name in ours else []:
                shown = label if len(runs) == 1 else f"{label}, {each.label}"
                lines.append(Line(shown, _cells(each, ours[name], side), "ours", ranked=False))
            lines += map(paper_line, paper.rows_of(task=name, side=side))
        sections.append(Section(ours.get(name, name), columns, tuple(lines)))
    return sections


def untuned_tasks(rows: Sequence[Row]) -> list[str]:
    """Tasks whose tuned encoder gives the frozen one's features, to `SAME`: tuning kept the state it began with."""
    found = set()
    for each in gather(rows):
        tasks = {task for row in each.rows for task in row.get("distances") or {}}
        found |= {task for task in tasks if each.estimate(at("distances", task, "before", "tv")).mean <= SAME}
    return sorted(found)


def untuned_note(rows: Sequence[Row]) -> list[str]:
    """What the table says of them."""
    tasks = untuned_tasks(rows)
    return (
        [f"The tuned encoder is the frozen one, so there is nothing to come nearer to: {', '.join(tasks)}."]
        if tasks
        else []
    )


def _cells(each: Configuration, task: str, side: str) -> dict[str, Cell]:
    return present(
        {key: number_cell(each.estimate(at("distances", task, side, key)), 4) for key in ("tv", "js")}
    )
