"""Tables of the benches in a runs folder, printed or written in every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from casam_cache.bench.results import read_results
from casam_cache.errors import CasamError, OptionError
from casam_cache.report.figures import draw_figure_6
from casam_cache.report.layout import Table
from casam_cache.report.paper_tables import paper_table

FORMATS: Mapping[str, Callable[[Table], str]] = {
    "txt": Table.text,
    "md": Table.markdown,
    "csv": Table.csv,
    "tex": Table.latex,
}

Tables = Sequence[tuple[Table, Mapping[str, Any]]]


def bench_tables(runs: Path, table: str | None = None) -> list[tuple[Table, Mapping[str, Any]]]:
    """One table for every kind of result in a runs folder, the newest results of each kind, with those results.

    Args:
        runs: a runs folder, or one folder of its `bench/`.
        table: its name, for the newest results of any kind; None: the table that each recipe names.

    Raises:
        CasamError: there are no results, or no such table.
    """
    newest: dict[str, dict[str, Any]] = {}
    for results in read_results(runs):
        newest[table or results["table"]] = results
    return [
        (
            paper_table(results["results"], name, title=results["title"], recipe=results["recipe"]),
            results,
        )
        for name, results in newest.items()
    ]


def write_tables(tables: Tables, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Every table as NAME.txt, .md, .csv and .tex, and Figure 6 as a picture.

    Raises:
        OptionError: a file exists and `overwrite` is not given.
        CasamError: the folder cannot be made.
    """
    planned = [out / f"{table.name}.{suffix}" for table, _ in tables for suffix in FORMATS]
    planned += [out / "figure6.svg" for table, _ in tables if table.name == "figure6"]
    for path in planned:
        if path.exists() and not overwrite:
            raise OptionError(f"{path} exists", "choose another --out, or give --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CasamError(f"cannot make the folder {out}: {error.strerror}", "choose another --out") from None
    for table, results in tables:
        for suffix, shown in FORMATS.items():
            (out / f"{table.name}.{suffix}").write_text(shown(table))
        if table.name == "figure6":
            draw_figure_6(results["results"], out / "figure6.svg", title=table.title)
    return planned
