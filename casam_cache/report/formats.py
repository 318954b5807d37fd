"""A table as terminal text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from casam_cache.report.layout import Cell, Column, Section, Source, Table, flat_labels

BEST, SECOND = "*", "+"
LEGEND = f"{BEST} best, {SECOND} second best of ours."


def to_text(table: Table) -> str:
    """Aligned columns; spanning headers on a line of their own."""
    parts = [table.title, ""] if table.title else []
    for section in table.sections:
        parts += [*([section.title] if section.title else []), *_text_section(table, section), ""]
    notes = [*([LEGEND] if _marked(table) else []), *table.notes]
    return "\n".join([*parts, *notes]).rstrip() + "\n"


def _text_section(table: Table, section: Section) -> list[str]:
    columns = section.columns
    head = [*_headings(table), *(column.label + column.arrow for column in columns)]
    body = [
        [
            *_names(table, section, place),
            *(_text_cell(line.cells.get(column.key), column, section) for column in columns),
        ]
        for place, line in enumerate(section.lines)
    ]
    headed = any(head)
    grid = [head, *body] if headed else body
    widths = [max((len(row[i]) for row in grid), default=0) for i in range(len(head))]
    names = len(_headings(table))
    for group, start, stop in _groups(columns, names):
        widths[start] += max(0, len(group) - sum(widths[start:stop]) - 2 * (stop - start - 1))
    left = [*([True] * names), *(column.left for column in columns)]
    lines = [
        "  ".join(
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in grid
    ]
    if not headed:
        return lines
    if any(column.group for column in columns):
        lines.insert(0, _spanning(columns, widths))
    rule = "-" * max(map(len, lines))
    return [*lines[: len(lines) - len(body)], rule, *lines[len(lines) - len(body) :]]


def _headings(table: Table) -> list[str]:
    return [table.heading, *(["from"] if table.sourced else [])]


def _spanning(columns: Sequence[Column], widths: Sequence[int]) -> str:
    first = len(widths) - len(columns)
    cells = [" " * (sum(widths[:first]) + 2 * (first - 1))]
    cells += [
        group.center(sum(widths[start:stop]) + 2 * (stop - start - 1))
        for group, start, stop in _groups(columns, first)
    ]
    return "  ".join(cells).rstrip()


def _groups(columns: Sequence[Column], first: int) -> Iterator[tuple[str, int, int]]:
    """Each spanning header with the columns it is over: from, to before; counted from `first`."""
    for group, members in itertools.groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        yield group, first, first + count
        first += count


def _names(table: Table, section: Section, place: int) -> list[str]:
    """Label and, where the table says it, source; a label is not repeated under itself."""
    line = section.lines[place]
    before = section.lines[place - 1].label if place else None
    return ["" if line.label == before else line.label, *([line.source] if table.sourced else [])]


def _text_cell(cell: Cell | None, column: Column, section: Section) -> str:
    """The value with its mark, or with a blank where others of the column have one, so that digits stay aligned."""
    if cell is None:
        return ""
    marked = any(line.cells[column.key].mark for line in section.lines if column.key in line.cells)
    return cell.text + {"best": BEST, "second": SECOND, "": " " if marked else ""}[cell.mark]


def to_markdown(table: Table) -> str:
    """One Markdown table a section; best bold, second best in italics."""
    parts = [f"### {table.title}", ""] if table.title else []
    for section in table.sections:
        if section.title:
            parts += [f"**{section.title}**", ""]
        labels = flat_labels(section.columns)
        arrows = [column.arrow for column in section.columns]
        header = [*_headings(table), *(a + b for a, b in zip(labels, arrows, strict=True))]
        rows = [
            [
                _escaped(line.label),
                *([line.source] if table.sourced else []),
                *(_markdown_cell(line.cells.get(c.key)) for c in section.columns),
            ]
            for line in section.lines
        ]
        parts += [*_padded([[_escaped(name) for name in header], *rows]), ""]
    notes = [
        *(["**Best** and *second best* of ours."] if _marked(table) else []),
        *map(_escaped, table.notes),
    ]
    return "\n".join([*parts, *(f"- {note}" for note in notes)]).rstrip() + "\n"


def _padded(grid: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its header first, that also reads as plain text."""
    widths = [max(len(row[column]) for row in grid) for column in range(len(grid[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in grid
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    around = {"best": "**", "second": "*", "": ""}[cell.mark]
    return f"{around}{_escaped(cell.text)}{around}"


def _escaped(text: str) -> str:
    for character in "\\|*_<":
        text = text.replace(character, "\\" + character)
    return text


def to_csv(table: Table) -> str:
    """All sections under one header, with their titles in the first column.

    Numbers are unmarked, their intervals are in columns of their own, and there are no notes.
    """
    intervals: dict[str, bool] = {}
    for section in table.sections:
        for column, label in zip(section.columns, flat_labels(section.columns), strict=True):
            cells = [line.cells[column.key] for line in section.lines if column.key in line.cells]
            intervals[label] = intervals.get(label, False) or any(cell.half is not None for cell in cells)
    names = [name for label, has in intervals.items() for name in ([label, f"{label} ±"] if has else [label])]
    out = io.StringIO()
    writer = csv.DictWriter(out, ["section", *_headings(table), *names], lineterminator="\n")
    writer.writeheader()
    for section in table.sections:
        labels = flat_labels(section.columns)
        for line in section.lines:
            row = {"section": section.title, table.heading: line.label}
            row |= {"from": line.source} if table.sourced else {}
            for column, label in zip(section.columns, labels, strict=True):
                if column.key in line.cells:
                    row |= _csv_cells(label, line.cells[column.key], line.source)
            writer.writerow(row)
    return out.getvalue()


def _csv_cells(label: str, cell: Cell, source: Source) -> dict[str, str]:
    """A number alone: ours with six decimals, the paper's with the digits it prints."""
    printed = re.match(r"-?[\d.]+", cell.text)
    if cell.number is None or (source == "paper" and printed):
        return {label: printed.group() if printed and cell.number is not None else cell.text}
    found = {label: repr(round(cell.number, 6))}
    return found if cell.half is None else {**found, f"{label} ±": repr(round(cell.half, 6))}


def to_latex(table: Table) -> str:
    r"""A `table*` with one booktabs tabular a section; needs \usepackage{booktabs}."""
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_tex(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
    ]
    for section in table.sections:
        lines += _latex_section(table, section)
    notes = [
        *([r"\textbf{Best} and \underline{second best} of ours."] if _marked(table) else []),
        *map(_tex, table.notes),
    ]
    lines += [r"\par\medskip\begin{minipage}{\textwidth}\footnotesize", " ".join(notes), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _latex_section(table: Table, section: Section) -> list[str]:
    columns, names = section.columns, len(_headings(table))
    aligned = "".join("l" if column.left else "r" for column in columns)
    lines = [rf"\par\medskip {_tex(section.title)}\par"] if section.title else []
    lines += [rf"\begin{{tabular}}{{{'l' * names}{aligned}}}", r"\toprule"]
    if any(column.group for column in columns):
        groups = list(_groups(columns, names + 1))
        spans = [rf"\multicolumn{{{stop - start}}}{{c}}{{{_tex(group)}}}" for group, start, stop in groups]
        rules = [rf"\cmidrule(lr){{{start}-{stop - 1}}}" for group, start, stop in groups if group]
        lines += [f"{' &' * names} {' & '.join(spans)} \\\\", "".join(rules)]
    head = [*_headings(table), *(column.label + column.arrow for column in columns)]
    lines += [f"{' & '.join(map(_tex, head))} \\\\", r"\midrule"]
    for place, line in enumerate(section.lines):
        cells = [_latex_cell(line.cells.get(column.key)) for column in columns]
        lines.append(f"{' & '.join([*map(_tex, _names(table, section, place)), *cells])} \\\\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = _tex(cell.text)
    return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[cell.mark]


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$",
    "∞": r"$\infty$", "β": r"$\beta$", "τ": r"$\tau$", "μ": r"$\mu$", "σ": r"$\sigma$", "→": r"$\rightarrow$",
    "<": r"$<$", ">": r"$>$", "≤": r"$\le$", "×": r"$\times$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _marked(table: Table) -> bool:
    return any(
        cell.mark for section in table.sections for line in section.lines for cell in line.cells.values()
    )


FORMATS: Mapping[str, tuple[str, Callable[[Table], str]]] = {
    "text": ("txt", to_text),
    "markdown": ("md", to_markdown),
    "csv": ("csv", to_csv),
    "latex": ("tex", to_latex),
}  # by name: suffix of its files, and how it is made
