"""`casam report`: the paper's tables from finished benches, with the paper's own figures beside ours."""

from __future__ import annotations

from pathlib import Path

import typer

from casam_cache.errors import OptionError
from casam_cli import console

SUFFIXES = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}


def report(
    runs: Path = typer.Argument(..., help="Folder of runs, or one of its bench/ folders."),
    table: str | None = typer.Option(
        None, help="table1 ... table11, figure6, routers; that of each recipe unless given."
    ),
    format_: str = typer.Option("text", "--format", help="text | markdown | csv | latex"),
    out: Path | None = typer.Option(None, help="Folder to write every table to, in every format."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files that exist."),
    json_: bool = console.JsonOption,
) -> None:
    """Print finished benches in the shape of the paper's tables."""
    if format_ not in SUFFIXES:
        raise OptionError(f"unknown format '{format_}'", f"available: {', '.join(SUFFIXES)}")
    from casam_cache.report.bench_report import bench_tables, write_tables

    found = bench_tables(runs, table)
    if out is not None:
        written = write_tables(found, out, overwrite=overwrite)
        if json_:
            console.print_json({"files": [str(path) for path in written]})
            return
        for path in written:
            console.show_result(str(path))
        return
    if json_:
        console.print_json(
            {"tables": [{"name": one.name, "title": one.title, "text": one.text()} for one, _ in found]}
        )
        return
    for place, (one, _) in enumerate(found):
        if place:
            console.show_result("")
        shown = {"text": one.text, "markdown": one.markdown, "csv": one.csv, "latex": one.latex}[format_]()
        for line in shown.rstrip("\n").split("\n"):
            console.show_result(line)
