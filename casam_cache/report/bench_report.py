"""Tables of the benches in a runs folder, printed or written in every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casam_cache.bench.results import read_results
from casam_cache.errors import OptionError, unknown_name
from casam_cache.metrics.columns import recorded_facts
from casam_cache.report.bench_table import BENCH, bench_table, mixed
from casam_cache.report.claims import claims_table
from casam_cache.report.comparison_figures import (
    figure_1,
    figure_1_values,
    figure_4,
    figure_4_values,
)
from casam_cache.report.cost_figure import figure_2, figure_2_values
from casam_cache.report.example_figure import figure_7, figure_7_values
from casam_cache.report.examples import Examples
from casam_cache.report.feature_map import (
    NEEDS,
    can_draw,
    figure_5,
    figure_5_values,
    has_features,
    laid_out,
)
from casam_cache.report.figures import figure_6_picture
from casam_cache.report.formats import FORMATS
from casam_cache.report.layout import Table
from casam_cache.report.paired import paired_table
from casam_cache.report.paper_tables import SHAPES, paper_table
from casam_cache.report.routing import Routing, read_routing, routing_picture, routing_values
from casam_cache.report.shots_figure import shots_figure, shots_values
from casam_cache.report.style import FORMS
from casam_cache.store.files import make_directory, write_all

_FIGURES = (
    ("figure1", figure_1, figure_1_values), ("figure2", figure_2, figure_2_values),
    ("figure4", figure_4, figure_4_values), ("shots", shots_figure, shots_values),
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A table, and below it the paired tests of what is in it.

    Attributes:
        table: of the results.
        tests: None where the results have none.
        results: as in results.json.
    """

    table: Table
    tests: Table | None
    results: Mapping[str, Any]

    @property
    def routing(self) -> list[Routing]:
        """What routers did, where the bench kept it."""
        folder = self.results.get("folder")
        found = None if folder is None else read_routing(Path(str(folder)))
        return [] if found is None else found[2]

    def show(self, form: str) -> str:
        _, made = FORMATS[form]
        return "\n".join(made(table) for table in (self.table, self.tests) if table is not None)

    def files(self, style: str = "paper") -> dict[str, bytes]:
        """What is written, by name: every format, and the figures that its results make, with their values.

        The tests stand under the table, but in a file of their own as CSV, where one header has to do.

        Args:
            style: of the figures, one of `STYLES`.

        Raises:
            OptionError: no such style.
        """
        name = self.table.name
        found = {
            f"{name}.{suffix}": self.show(form) for form, (suffix, _) in FORMATS.items() if form != "csv"
        }
        _, csv = FORMATS["csv"]
        found[f"{name}.csv"] = csv(self.table)
        if self.tests is not None:
            found[f"{self.tests.name}.csv"] = csv(self.tests)
        files = {name: text.encode() for name, text in found.items()}
        if name == "figure6":
            files["figure6.svg"] = figure_6_picture(self.results["results"], "svg", title=self.table.title)
        rows = self.results.get("results", ())
        for figure, drawn, values in _FIGURES:
            pictures = {form: drawn(rows, form, style) for form in FORMS}
            if all(pictures.values()):
                files |= {f"{name}_{figure}.{form}": data for form, data in pictures.items() if data}
                files[f"{name}_{figure}.csv"] = values(rows).encode()
        sets = laid_out(self.results) if has_features(self.results) and can_draw() else []
        if sets:
            files |= {f"{name}_figure5.{form}": figure_5(sets, form, style) for form in FORMS}
            files[f"{name}_figure5.csv"] = figure_5_values(sets).encode()
        folder = self.results.get("folder")
        if folder is not None and (examples := Examples.read(Path(str(folder)))) is not None:
            files |= {f"{name}_figure7.{form}": figure_7(examples, form, style) for form in FORMS}
            files[f"{name}_figure7.csv"] = figure_7_values(examples).encode()
        for number, routing in enumerate(self.routing, 1):
            files |= {
                f"{name}_routing{number}.{form}": routing_picture(routing, form, style) for form in FORMS
            }
            files[f"{name}_routing{number}.csv"] = routing_values(routing).encode()
        return files


def pages(runs: Path, table: str | None = None, say: Callable[[str], None] = lambda line: None) -> list[Page]:
    """One page for every kind of result in a runs folder, of the newest results of each kind.

    Args:
        runs: a runs folder, or one folder of its `bench/`.
        table: its name. Of a runs folder the newest results are laid out whose recipe names that table, or, where there
            are none, the newest of a bench without a recipe; `bench` lays out the newest of any kind. None: the table
            that each recipe names.
        say: takes a line for each results.json that is damaged, and is left out, and for what was chosen.

    Raises:
        OptionError: no such table, or no results that were made for it.
        CasamError: there are no results, or none is whole.
    """
    if table is not None and table not in (BENCH, *SHAPES):
        raise unknown_name("table", table, [BENCH, *SHAPES])
    found = read_results(runs, say)
    newest = {results["table"]: results for results in found}
    if table is None:
        return [_page(name, results) for name, results in newest.items()]
    if len(found) == 1 or table == BENCH:
        chosen = found[-1]
    elif table in newest or BENCH in newest:
        chosen = newest.get(table) or newest[BENCH]
    else:
        raise OptionError(
            f"no bench in {runs} was made for {table}: there are {', '.join(sorted(newest))}",
            f"casam report {runs}/bench/NAME --table {table} lays out one of them all the same",
        )
    if len(found) > 1:
        say(f"{table} of {chosen['title']}: {chosen['folder']}")
    return [_page(table, chosen)]


def claims_pages(runs: Path, say: Callable[[str], None] = lambda line: None) -> list[Page]:
    """The claims of the paper as a page; arguments and errors as of `claims_table`."""
    return [Page(claims_table(runs, say), None, {})]


def page_of(results: Mapping[str, Any]) -> Page:
    """Results as the table that their recipe names.

    Args:
        results: as `read_results` gives them.
    """
    return _page(results["table"], results)


def _page(name: str, results: Mapping[str, Any]) -> Page:
    if name == BENCH:
        made = bench_table(results)
    else:
        made = paper_table(results["results"], name, title=results["title"], recipe=results["recipe"])
        made = replace(made, notes=(*made.notes, *mixed(results)))
    if has_features(results) and not can_draw():
        made = replace(made, notes=(*made.notes, NEEDS))
    tests = (results.get("summary") or {}).get("tests")
    if not tests:
        return Page(made, None, results)
    title = f"{results['title']}: paired tests"
    return Page(
        made, paired_table(tests, recorded_facts(results), title=title, name=f"{name}_tests"), results
    )


def write_pages(
    shown: Sequence[Page], out: Path, *, overwrite: bool = False, style: str = "paper"
) -> list[Path]:
    """Every page's files: each is whole or absent.

    Raises:
        OptionError: a file exists and `overwrite` is not given, or there is no such style.
        StoreError: the folder or a file cannot be written.
    """
    files = {out / name: data for page in shown for name, data in page.files(style).items()}
    for path in files:
        if path.exists() and not overwrite:
            raise OptionError(f"{path} exists", "choose another --out, or give --overwrite")
    make_directory(out)
    write_all([(path, [data]) for path, data in files.items()])
    return list(files)
