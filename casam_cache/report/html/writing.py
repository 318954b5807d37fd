"""Writes the report of a runs folder: pages, tables, figures, and what a browser needs to show them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from casam_cache import __version__
from casam_cache.bench.results import FOLDER, read_results
from casam_cache.bench.search.outcome import FILE as SEARCH_FILE
from casam_cache.bench.search.outcome import FOLDER as SEARCHES
from casam_cache.bench.search.outcome import read_reports
from casam_cache.engine.runs import RECORD
from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import digest
from casam_cache.report.answers import MOST, read_answers
from casam_cache.report.bench_report import page_of
from casam_cache.report.examples import FILE as EXAMPLES
from casam_cache.report.examples import Examples
from casam_cache.report.formats import to_csv
from casam_cache.report.html.benches import BenchSection, bench_section
from casam_cache.report.html.circumstances import circumstances
from casam_cache.report.html.curves import curves
from casam_cache.report.html.fits import ScoredFit, fit_warnings, fits_table, scored_fits
from casam_cache.report.html.gallery import write_gallery
from casam_cache.report.html.rejected import RejectedImages
from casam_cache.report.html.scored import Scored, scored_in_bench
from casam_cache.report.layout import Column
from casam_cache.report.routing import FILE as ROUTING
from casam_cache.report.routing import read_routing
from casam_cache.report.search_pages import SearchPage
from casam_cache.store.files import make_directory, write_all

INDEX = "index.html"
MARK = "casam-report.txt"
_STATIC = ("report.css", "report.js")
_MARKED = "written by `casam report --html`, which replaces this folder with --overwrite\n"


@dataclass
class Written:
    """What was written.

    Attributes:
        index: the page to open.
        benches, fits, searches, masks: how many of each.
        files: content by name below the folder, but for pictures of masks.
        warnings: as the overview shows them, with what they are about.
    """

    index: Path
    benches: int = 0
    fits: int = 0
    searches: int = 0
    masks: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """What a report is of.

    Attributes:
        root: the runs folder.
        bench: results to read: the runs folder, or one folder of its `bench/`; None: no bench.
        fit: KIND/KEY of the only fit; None: all.
        fits: whether fits are shown.
        search: where searches are read: the runs folder, or one folder of its `search/`; None: no search.
    """

    root: Path
    bench: Path | None
    fit: str | None = None
    fits: bool = True
    search: Path | None = None


def source_of(runs: Path) -> Source:
    """A runs folder, RUNS/bench/NAME, RUNS/search/KEY or RUNS/fit/KEY.

    Raises:
        CasamError: it is none of them.
    """
    runs = runs.resolve()
    if not runs.is_dir():
        raise CasamError(f"there is no folder {runs}", "name a folder of runs, casam_runs by default")
    if runs.parent.name == FOLDER and (runs / "results.json").is_file():
        return Source(runs.parent.parent, runs, fits=False)
    if runs.parent.name == SEARCHES and (runs / SEARCH_FILE).is_file():
        return Source(runs.parent.parent, None, fits=False, search=runs)
    if (runs / RECORD).is_file():
        if runs.parent.name != "fit":
            raise CasamError(
                f"{runs} is a stage of kind '{runs.parent.name}'",
                "name the folder of runs, one of its bench/ or search/ folders, or a fit as `casam fit` printed it",
            )
        return Source(runs.parent.parent, None, f"fit/{runs.name}")
    return Source(runs, runs, search=runs)


def write_report(
    runs: Path,
    out: Path,
    *,
    style: str = "paper",
    overwrite: bool = False,
    masks: bool = True,
    data: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Written:
    """Writes the report; the same runs give the same bytes.

    Args:
        runs: a runs folder, one of its `bench/` or `search/` folders, or one fit.
        out: the folder to write.
        style: of the figures, one of `STYLES`.
        overwrite: replace a report that is there; any other folder that holds something is refused all the same.
        masks: whether the masks of fits are predicted again and shown.
        data: folder of the datasets, or of the only one; None: where each was when it was encoded.
        device: where masks are predicted: `auto`, `cpu`, `cuda`, ...
        progress: of the masks, called with (masks done, masks).
        say: takes a line for each thing that is left out.

    Raises:
        CasamError: there is neither a bench nor a search nor a fit.
        OptionError: the folder holds something, or there is no such style.
        StoreError: the folder cannot be written.
    """
    check_out(out, overwrite)
    source = source_of(runs)
    warnings: list[tuple[str, str]] = []

    def left_out(line: str) -> None:
        warnings.append(("runs folder", line))
        say(line)

    benches = _benches(source, left_out)
    fits = scored_fits(source.root, source.fit, left_out) if source.fits else []
    searches = _searches(source, left_out)
    if not benches and not fits and not searches:
        raise CasamError(
            f"no finished bench and no scored fit in {runs}", "casam fit and casam bench make them"
        )
    written = Written(out / INDEX, len(benches), len(fits), len(searches), warnings=warnings)
    for bench in benches:
        warnings += [(bench.title, line) for line in bench.warnings]
    warnings += [("fits", line) for line in fit_warnings(fits)]
    sections = [_bench_view(bench, written, style, masks, data) for bench in benches]
    tried = [_search_view(page, number, written, style) for number, page in enumerate(searches, 1)]
    fit_view = _fit_view(fits, written, style) if fits else None
    replace_folder(out)
    gallery = None
    scored = _scored(source.root, benches, fits, warnings, say) if masks else []
    if scored:
        gallery = write_gallery(scored, out, data=data, device=device, progress=progress)
        for about, line in gallery.warnings:
            say(f"{about}: {line}")
        warnings += gallery.warnings
        gallery = gallery if gallery.count else None
    environment = _environment()
    page = environment.get_template("index.html").render(
        title=source.root.name, runs=str(runs.resolve()), version=__version__, benches=sections, fits=fit_view,
        searches=tried, warnings=warnings, masks=gallery,
    )  # fmt: skip
    written.files[INDEX] = page.encode()
    if gallery is not None:
        written.masks = gallery.count
        written.files |= gallery.files
        shown = environment.get_template("masks.html").render(title=source.root.name, masks=gallery)
        written.files["masks.html"] = shown.encode()
    for name in (*_STATIC, *(["masks.js"] if gallery is not None else [])):
        written.files[name] = resources.files(__package__).joinpath("templates", name).read_bytes()
    written.files[MARK] = _MARKED.encode()
    for folder in sorted({(out / name).parent for name in written.files}):
        make_directory(folder)
    write_all([(out / name, [data]) for name, data in written.files.items()])
    return written


def _scored(
    root: Path,
    benches: Sequence[BenchSection],
    fits: Sequence[ScoredFit],
    warnings: list[tuple[str, str]],
    say: Callable[[str], None],
) -> list[Scored]:
    """Of fits and of benches; what a bench does not show is said, and a warning."""
    found = [fit.scored for fit in fits]
    for bench in benches:
        folder = Path(str(bench.page.results["folder"]))
        answers = read_answers(folder)
        line = ""
        if answers is None:
            line = "its masks are not shown: the same bench notes which heads they are from, and computes nothing"
        else:
            if answers.left_out:
                line = f"masks of {answers.left_out} configurations, beyond the first {MOST}, are not shown"
            try:
                found += scored_in_bench(root, bench.title, answers)
            except CasamError as error:
                line = f"its masks are not shown: {error.message}"
        if line:
            say(f"{bench.title}: {line}")
            warnings.append((bench.title, line))
    return found


def check_out(out: Path, overwrite: bool) -> None:
    """Only an empty folder, or a report to overwrite, is written to.

    Raises:
        OptionError: the folder holds something else, or a report without `overwrite`.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / MARK).is_file():
        raise OptionError(f"{out} holds something that is no report", "choose another folder for --html")
    if not overwrite:
        raise OptionError(
            f"{out} holds a report", "choose another folder for --html, or give --overwrite to replace it"
        )


def replace_folder(out: Path) -> None:
    """Removes what an earlier report wrote, so that nothing of it is left between the new pages."""
    for path in out.iterdir() if (out / MARK).is_file() else ():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _benches(source: Source, say: Callable[[str], None]) -> list[BenchSection]:
    if source.bench is None:
        return []
    if source.bench == source.root and not any((source.root / FOLDER).glob("*/results.json")):
        return []
    # By content, not by time: a copied runs folder gives the same report.
    found = sorted(
        read_results(source.bench, say), key=lambda each: (str(each["title"]), Path(each["folder"]).name)
    )
    sections = [bench_section(page_of(results), number) for number, results in enumerate(found, 1)]
    titles = Counter(each.title for each in sections)
    return [
        replace(each, title=f"{each.title}, {each.key[:6]}") if titles[each.title] > 1 else each
        for each in sections
    ]


def _searches(source: Source, say: Callable[[str], None]) -> list[SearchPage]:
    if source.search is None:
        return []
    found = [SearchPage.of(report) for report in read_reports(source.search, say)]
    return sorted(found, key=lambda page: (page.report.name, page.report.key))


def _search_view(page: SearchPage, number: int, written: Written, style: str) -> dict[str, Any]:
    """The section of a search as the template takes it; its files go into `written`."""
    anchor = f"search-{number}"
    files = page.files(style)
    written.files |= {f"{anchor}/{name}": data for name, data in files.items()}
    pictures = [name for name in sorted(files) if name.endswith(("front.svg", "front.png"))]
    return {
        "anchor": anchor,
        "page": page,
        "facts": [("results", str(page.report.folder)), ("backbone", page.report.model)],
        "pictures": [f"{anchor}/{name}" for name in reversed(pictures)],  # the one that is shown first
        "tables": [f"{anchor}/{name}" for name in sorted(files) if name not in pictures],
    }


def _bench_view(
    bench: BenchSection, written: Written, style: str, images: bool, data: Path | None
) -> dict[str, Any]:
    """The section as the template takes it; its files go into `written`."""
    files = bench.page.files(style)
    written.files |= {f"{bench.anchor}/{name}": data for name, data in files.items()}
    figures = []
    for name in sorted(files):
        stem, _, form = name.rpartition(".")
        if form == "svg" and "_routing" not in stem:
            others = [f"{stem}.{other}" for other in ("svg", "png", "csv") if f"{stem}.{other}" in files]
            figures.append(
                {
                    "file": f"{bench.anchor}/{name}",
                    "name": stem,
                    "others": [f"{bench.anchor}/{each}" for each in others],
                }
            )
    tables = [
        f"{bench.anchor}/{name}"
        for name in sorted(files)
        if name.rpartition(".")[0] in (bench.page.table.name, getattr(bench.page.tests, "name", ""))
        and not name.endswith(".svg")
    ]
    routing = _routing_view(bench, written, images, data)
    return {"bench": bench, "figures": figures, "tables": tables, "routing": routing}


def _routing_view(
    bench: BenchSection, written: Written, images: bool, data: Path | None
) -> list[dict[str, Any]]:
    """Of each configuration with densities its histograms, and the images that it rejected."""
    folder = Path(str(bench.page.results["folder"]))
    found = read_routing(folder)
    for name, whole in ((ROUTING, found is not None), (EXAMPLES, Examples.read(folder) is not None)):
        if not whole and (folder / name).exists():
            line = f"{name} is damaged and left out: the same bench writes it again, and computes nothing"
            written.warnings.append((bench.title, line))
    if found is None:
        return []
    rejected = RejectedImages(found[0], found[1], bench.anchor, data)
    shown = []
    for number, routing in enumerate(found[2], 1):
        stem = f"{bench.anchor}/{bench.page.table.name}_routing{number}"
        files = [f"{stem}.{form}" for form in ("svg", "png", "csv")]
        shown.append({"of": routing, "files": files, "rejected": rejected.of(routing) if images else []})
    written.files |= rejected.files
    for name, line in sorted(rejected.said.items()):
        written.warnings.append((bench.title, f"rejected images of {name} are not shown: {line}"))
    return shown


def _fit_view(fits: list[ScoredFit], written: Written, style: str) -> dict[str, Any]:
    table = fits_table(fits)
    written.files["fits/fits.csv"] = to_csv(table).encode()
    shown: dict[Path, dict[str, Any]] = {}
    for each in fits:
        if each.folder in shown:
            continue
        facts = each.record.recorded
        svg = curves(facts.get("fit") or {}, str(facts.get("method", "")), "svg", style)
        file = None
        if svg is not None:
            file = f"fits/{each.folder.name}_curves.svg"
            written.files[file] = svg
        options = {**each.record.inputs["method"]["options"], **each.record.inputs["training"]}
        shown[each.folder] = {
            "name": f"{each.task}, {each.label}",
            "facts": [
                ("run", str(each.folder)),
                ("store", str(each.store)),
                ("backbone", f"{each.store.stem}, {_weights(facts)}"),
                ("masks read as", str(facts.get("mask_mode", ""))),
                ("trained parameters", f"{int(facts.get('parameters') or 0):,}"),
                ("seed", str(each.record.inputs["seed"])),
                ("options", ", ".join(f"{name}={value}" for name, value in sorted(options.items()))),
                *circumstances([each.folder]).facts,
            ],
            "curves": file,
            "key": digest([each.task, each.folder.name])[:12],
        }
    return {"table": table, "runs": list(shown.values())}


def _weights(facts: dict[str, Any]) -> str:
    return f"weights {str(((facts.get('identity') or {}).get('backbone') or {}).get('weights', '?'))[:20]}"


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("casam_cache.report.html", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["spans"] = _spans
    return made


def _spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Headers over neighbours of one group, with how many columns each spans."""
    return [(name, len(list(found))) for name, found in groupby(columns, key=lambda column: column.group)]
