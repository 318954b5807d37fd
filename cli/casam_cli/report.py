"""`casam report`: the paper's tables from finished benches, with the paper's own figures beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from casam_cache.errors import OptionError
from casam_cli import console


def report(
    runs: Path = typer.Argument(..., help="Folder of runs, or one of its bench/ folders."),
    table: str | None = typer.Option(
        None,
        help="The table: table1 ... table11, figure6, routers, bench or search. The default is the one each recipe"
        " names, and every search.",
    ),
    format_: str = typer.Option("text", "--format", help="How to print: text, markdown, csv or latex."),
    out: Path | None = typer.Option(
        None, help="The folder to write every table to, in every format, instead of printing it."
    ),
    html: Path | None = typer.Option(
        None,
        help="The folder to write a report for a browser to, of every bench, fit and search; RUNS may be one fit too.",
    ),
    masks: bool = typer.Option(
        True, "--masks/--no-masks", help="With --html, predict and show every test mask of the fits."
    ),
    data: Path | None = typer.Option(
        None, help="With --html, the folder of the datasets, if they are not where they were when encoded."
    ),
    open_: bool = typer.Option(False, "--open", help="With --html, open the report in the browser."),
    style: str = typer.Option(
        "paper", help="What the figures that --out and --html write are for: paper, thesis or slides."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files that exist."),
    claims: bool = typer.Option(
        False, "--claims", help="The paper's claims instead: its figure, ours, what holds."
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Print finished benches in the shape of the paper's tables."""
    if html is not None:
        if claims or table is not None or out is not None:
            raise OptionError(
                "--html shows every table, and goes with neither --table, --claims nor --out",
                "leave them out",
            )
        _write_html(
            runs, html, open_, json_, {"style": style, "overwrite": overwrite, "masks": masks, "data": data}
        )
        return
    if open_ or data is not None or not masks:
        raise OptionError(
            "--open, --data and --no-masks are about a report for a browser", "give --html DIR too"
        )
    from casam_cache.report.bench_report import claims_pages, write_pages
    from casam_cache.report.formats import FORMATS
    from casam_cache.report.search_pages import all_pages

    if format_ not in FORMATS:
        raise OptionError(f"unknown format '{format_}'", f"available: {', '.join(FORMATS)}")
    if claims and table is not None:
        raise OptionError("--claims and --table exclude each other", "give one of the two")
    found = claims_pages(runs, console.show_line) if claims else all_pages(runs, table, console.show_line)
    if out is not None:
        written = write_pages(found, out, overwrite=overwrite, style=style)
        if json_:
            console.print_json({"files": [str(path) for path in written]})
            return
        for path in written:
            console.show_result(str(path))
        return
    if json_:
        console.print_json(
            {
                "tables": [
                    {"name": page.table.name, "title": page.table.title, "text": page.show("text")}
                    for page in found
                ]
            }
        )
        return
    for place, page in enumerate(found):
        if place:
            console.show_result("")
        for line in page.show(format_).rstrip("\n").split("\n"):
            console.show_result(line)


def _write_html(runs: Path, out: Path, open_: bool, json_: bool, asked: dict[str, Any]) -> None:
    from casam_cache.report.html.writing import write_report

    with console.bar("report", unit="masks") as bar:
        written = write_report(
            runs,
            out,
            **asked,
            say=console.show_line,
            progress=lambda done, total: bar.update(done, total, "masks"),
        )
    counts = {
        "benches": written.benches, "fits": written.fits, "searches": written.searches, "masks": written.masks
    }  # fmt: skip
    if json_:
        console.print_json({"index": str(written.index), **counts})
    else:
        console.show_result(str(written.index))
    if open_:
        typer.launch(str(written.index.resolve()))


def open_report(what: Path) -> str:
    """Writes RUNS/reports/KIND-KEY of RUNS/KIND/KEY, a fit or results of a bench, or replaces it, and opens it."""
    from casam_cache.report.html.writing import write_report

    out = what.parent.parent / "reports" / f"{what.parent.name}-{what.name}"
    with console.bar("report", unit="masks") as bar:
        index = write_report(
            what, out, overwrite=True, say=console.show_line,
            progress=lambda done, total: bar.update(done, total, "masks"),
        ).index  # fmt: skip
    console.show_line(f"report: {index}")
    typer.launch(str(index.resolve()))
    return str(index)
