"""Finished searches of a runs folder among the pages of `casam report`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from casam_cache.bench.results import FOLDER as BENCHES
from casam_cache.bench.search.outcome import SearchReport, read_reports
from casam_cache.errors import CasamError
from casam_cache.report.bench_report import Page, pages
from casam_cache.report.formats import FORMATS
from casam_cache.report.search_picture import search_picture
from casam_cache.report.search_table import search_table
from casam_cache.report.style import FORMS

SEARCH = "search"


@dataclass(frozen=True)
class SearchPage(Page):
    """The table of a search, and the picture of its front.

    Attributes:
        report: the search.
    """

    report: SearchReport

    @classmethod
    def of(cls, report: SearchReport) -> SearchPage:
        """Named by the study, since a folder may hold several."""
        return cls(replace(search_table(report), name=f"{SEARCH}_{report.key}"), None, {}, report)

    def files(self, style: str = "paper") -> dict[str, bytes]:
        name = self.table.name
        found = {f"{name}.{suffix}": self.show(form).encode() for form, (suffix, _) in FORMATS.items()}
        if self.report.complete:
            found |= {
                f"{name}_front.{form}": search_picture(self.report, form, style=style) for form in FORMS
            }
        return found


def all_pages(
    runs: Path, table: str | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Page]:
    """Benches, as `pages` has them, and then every search; `table="search"` is searches alone.

    Args:
        runs: a runs folder, or one folder of its `bench/` or `search/`.
        table: as of `pages`, or `search`.
        say: takes a line for each result that is damaged, and is left out.

    Raises:
        OptionError, CasamError: as of `pages`; there is no search where searches are asked for.
    """
    searches: list[Page] = []
    if table in (None, SEARCH):
        searches = [SearchPage.of(report) for report in read_reports(runs, say)]
        if table == SEARCH and not searches:
            raise CasamError(f"there is no search in {runs}", "casam search --runs RUNS makes one")
    if searches and (table == SEARCH or not (runs / BENCHES).is_dir()):
        return searches
    return [*pages(runs, table, say), *searches]
