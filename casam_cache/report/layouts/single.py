"""Tables 3 and 7: every task fitted and scored on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from casam_cache.bench.paper_sets import TASKS, paper_name
from casam_cache.report.configurations import (
    Configuration,
    Row,
    at,
    gather,
    gflops_cell,
    parameter_cell,
    percent_cell,
    present,
)
from casam_cache.report.layout import Cell, Column, Section, ranked
from casam_cache.report.layouts.continual import same_method
from casam_cache.report.layouts.paper_lines import OursCells, columns_of, paper_line, side_by_side
from casam_cache.report.paper import REPORTED, PaperRow, paper_figures


def table_3(rows: Sequence[Row]) -> list[Section]:
    """Averages over the tasks, trained parameters and cost."""

    def cells(each: Configuration) -> dict[str, Cell]:
        return present(
            {
                "parameters": parameter_cell(each.rows[0]),
                "gflops": gflops_cell(each.rows[0]),
                **{name: percent_cell(each.estimate(at(f"last_{name}"))) for name in REPORTED},
            }
        )

    paper = paper_figures("3")
    lines = side_by_side(paper.rows, gather(rows), same_method, cells)
    return [ranked(Section("Table 3: averages over the tasks", columns_of(paper.columns), lines))]


def flops_notes(rows: Sequence[Row]) -> list[str]:
    """In which unit the two sides count, and which methods' order is another one than in the paper."""
    paper = {row.label: row for row in paper_figures("3").rows if row.values.get("gflops")}
    ours: dict[str, float] = {}
    for each in gather(rows):
        gflops = each.rows[0].get("gflops")
        matching = [label for label, row in paper.items() if same_method(each, row)]
        if gflops is not None and matching:
            ours.setdefault(matching[0], float(gflops))
    turned = [
        f"{cheap} costs less than {dear} in ours and more in the paper"
        for cheap in ours
        for dear in ours
        if ours[cheap] < ours[dear] and _printed(paper[cheap]) > _printed(paper[dear])
    ]
    unit = (
        "GFLOPs: ours count a multiplication and an addition as two; in brackets as one, as the paper's figures do "
        "(its 514.3 are multiply-adds: ViT-B's encoder alone is 471 of them at 1024 x 1024). Matrix products and "
        "convolutions of one training pass, encoder included."
    )
    return [unit, *([f"The order differs: {'; '.join(turned)}."] if turned else [])]


def _printed(row: PaperRow) -> float:
    return float(str(row.values["gflops"]))


def table_7(rows: Sequence[Row]) -> list[Section]:
    """Each task, IoU above BIoU; sets that are not the paper's have columns of their own."""
    paper, runs = paper_figures("7"), gather(rows)
    tasks = _in_paper_order({task for row in rows for task in row.get("order") or ()})
    theirs = {column.label: column.key for column in paper.columns if column.key.startswith("task:")}
    keys = {task: theirs.get(paper_name(task) or "", f"task:{task}") for task in tasks}
    columns = (
        Column("parameters", "Parameters"),
        *(Column(keys[task], task, better="high") for task in tasks),
        Column("average", "Average", better="high"),
    )
    shared = set(keys.values()) & set(theirs.values())
    complete = shared == set(theirs.values())
    sections = []
    for metric, name in REPORTED.items():
        beside = [_shared(row, shared, complete) for row in paper.rows_of(metric=metric)] if shared else []
        lines = side_by_side(beside, runs, same_method, _cells(metric, keys))
        sections.append(ranked(Section(f"Table 7: {name} of each task", columns, lines)))
    if not complete:
        title = "Table 7 of the paper, on its own datasets: {}"
        sections += [
            Section(
                title.format(name),
                columns_of(paper.columns),
                tuple(map(paper_line, paper.rows_of(metric=metric))),
            )
            for metric, name in REPORTED.items()
        ]
    return sections if runs else sections[-2:]


def task_score(metric: str, task: str) -> Callable[[Row], Any]:
    """Reads a task's score from the last row of R."""

    def read(row: Row) -> Any:
        matrix = row.get("matrix") or {}
        if task not in matrix.get("tasks", ()) or not matrix.get(metric):
            return None
        return matrix[metric][-1][matrix["tasks"].index(task)]

    return read


def _cells(metric: str, keys: dict[str, str]) -> OursCells:
    def cells(each: Configuration) -> dict[str, Cell]:
        scores = {key: percent_cell(each.estimate(task_score(metric, task))) for task, key in keys.items()}
        average = percent_cell(each.estimate(at(f"last_{metric}")))
        return present({"parameters": parameter_cell(each.rows[0]), **scores, "average": average})

    return cells


def _shared(row: PaperRow, keys: set[str], complete: bool) -> PaperRow:
    """The paper's values of tasks that are ours too; its average only where all are."""
    kept = {"parameters", *keys, *(["average"] if complete else [])}
    values = {key: value for key, value in row.values.items() if key in kept}
    return PaperRow(row.label, row.section, row.match, values)


def _in_paper_order(tasks: set[str]) -> list[str]:
    rank = {name: place for place, name in enumerate(TASKS)}
    return sorted(tasks, key=lambda task: (rank.get(paper_name(task) or "", len(rank)), task))
