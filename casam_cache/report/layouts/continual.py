"""Tables 1 and 8: methods by Last, Avg and FF, over all orders or order by order."""

from __future__ import annotations

from collections.abc import Sequence

from casam_cache.bench.paper_sets import TABLE_8, paper_name
from casam_cache.report.configurations import Configuration, Row, gather
from casam_cache.report.layout import Section, ranked
from casam_cache.report.layouts.paper_lines import columns_of, figure_cells, paper_line, side_by_side
from casam_cache.report.paper import PaperRow, paper_figures


def same_method(each: Configuration, row: PaperRow) -> bool:
    return each.method == row.match.get("method")


def table_1(rows: Sequence[Row]) -> list[Section]:
    """Every method, means over seeds and orders."""
    paper = paper_figures("1")
    lines = side_by_side(paper.rows, gather(rows), same_method, figure_cells(paper.columns))
    return [ranked(Section("", columns_of(paper.columns), lines))]


def table_8(rows: Sequence[Row]) -> list[Section]:
    """A section an order; the paper's three are beside ours where they are the same, else in sections of their own."""
    paper = paper_figures("8")
    columns = columns_of(paper.columns)
    orders = list(dict.fromkeys(tuple(row.get("order") or ()) for row in rows))
    of_paper = {order: _number(order) for order in orders}
    sections = []
    for place, order in enumerate(orders, 1):
        runs = gather([row for row in rows if tuple(row.get("order") or ()) == order])
        number = of_paper[order]
        beside = paper.rows_of(order=number) if number else []
        title = (
            f"order {place}" + (f" (Table 8's order {number})" if number else "") + f": {' → '.join(order)}"
        )
        sections.append(
            ranked(
                Section(title, columns, side_by_side(beside, runs, same_method, figure_cells(paper.columns)))
            )
        )
    for number, order in enumerate(TABLE_8, 1):
        if number not in of_paper.values():
            title = f"the paper's order {number}: {' → '.join(order)}"
            sections.append(Section(title, columns, tuple(map(paper_line, paper.rows_of(order=number)))))
    return sections


def _number(order: Sequence[str]) -> int | None:
    """1, 2 or 3 for an order of the paper's Table 8."""
    names = tuple(paper_name(task) for task in order)
    return TABLE_8.index(names) + 1 if names in TABLE_8 else None
