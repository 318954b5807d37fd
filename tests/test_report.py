"""The table that a bench ends with, paired tests below tables, and files that are whole or absent."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from casam_cache.errors import CasamError, OptionError, StoreError
from casam_cache.fingerprint import digest
from casam_cache.metrics.base import MetricFacts
from casam_cache.metrics.columns import facts_of, result_columns
from casam_cache.metrics.registry import STANDARD
from casam_cache.report.bench_report import pages, write_pages
from casam_cache.report.bench_table import bench_table, bench_tables, plan_table
from casam_cache.report.formats import FORMATS, to_csv, to_text
from casam_cache.report.layout import facts_table
from casam_cache.report.paired import BRIEFLY, brief_paired_table
from casam_cache.store import files

HD95 = MetricFacts("hd95", "HD95 (px)", "low", percent=False)


def row(label: str, last: float, **further: Any) -> dict[str, Any]:
    figures = {f"{part}_{name}": last for part in ("last", "avg", "ff", "ood") for name in STANDARD}
    return {
        "label": label, "method": label, "model": "small", "router": None, "options": {}, "weight": "images",
        "forgetting": "paper", "evaluate": "test", "prompt": "oracle box", "order": ["a", "b"], "seed": 0,
        "routing_accuracy": None, "ood_accuracy": None, "bwt": 0.1, "fwt": 0.1, "unseen": {},
        "matrix": {"tasks": ["a", "b"], "iou": [[last, last]], "biou": [[last, last]]}, **figures, **further,
    }  # fmt: skip


def paired(first: str, second: str, p: float | None = 0.03) -> dict[str, Any]:
    return {
        "first": first, "second": second, "metric": "iou", "difference": 0.1, "low": 0.05, "high": 0.2,
        "p": p, "p_holm": p, "groups": 9,
    }  # fmt: skip


def results(rows: list[dict[str, Any]], *, tests: bool = True, **further: Any) -> dict[str, Any]:
    labels = [each["label"] for each in rows]
    found = [paired(a, b) for place, a in enumerate(labels) for b in labels[place + 1 :]] if tests else []
    return {
        "title": "Three methods", "table": "table1", "results": rows, "summary": {"tests": found}, "recipe": {},
        **further,
    }  # fmt: skip


def write(path: Path, made: dict[str, Any]) -> None:
    """As a bench writes it, with the digest over all of it."""
    data = json.loads(json.dumps(made))
    path.write_text(json.dumps({**data, "digest": digest(data)}))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "bench" / "one"
    folder.mkdir(parents=True)
    made = results([row("er", 0.5), row("naive", 0.3), row("ca-sam", 0.7)])
    write(folder / "results.json", made)
    return tmp_path / "runs"


def test_a_further_metric_is_three_more_columns_in_its_own_unit() -> None:
    rows = [
        row(label, 0.5, last_hd95=pixels, avg_hd95=pixels, ff_hd95=1.25, ood_hd95=None)
        for label, pixels in (("er", 7.5), ("der", 9.0))
    ]
    metrics = [vars(metric) for metric in (*facts_of(STANDARD), HD95)]
    table = bench_table(results(rows, metrics=metrics))
    (section,) = table.sections
    assert [column.label for column in section.columns if column.group == "HD95 (px)"] == [
        "Last",
        "Avg",
        "FF",
    ]
    er, der = section.lines
    assert (er.cells["last_hd95"].text, er.cells["ff_hd95"].text) == ("7.50", "1.25"), "not times 100"
    assert (er.cells["last_hd95"].mark, der.cells["last_hd95"].mark) == ("best", "second"), "low is better"
    assert er.cells["last_iou"].text == "50.00"
    assert "not in percent: HD95 (px)" in to_text(table)
    keys = {column.key for column in section.columns}
    assert "ood_hd95" not in keys, "nothing in any row"
    assert "bwt" not in keys
    assert not any("hd95" in column.key for column in bench_table(results(rows)).sections[0].columns)


def test_every_column_of_a_result_has_a_key_of_its_own() -> None:
    columns = result_columns([*facts_of(STANDARD), HD95])
    assert len({column.key for column in columns}) == len(columns)
    better = {column.key: column.better for column in columns}
    assert {key for key in better if better[key] == "low"} == {
        "last_hd95", "avg_hd95", "ood_hd95", "ff_hd95", "ff_iou", "ff_biou", "ff_dice",
    }  # fmt: skip


def test_headers_that_span_are_never_cut() -> None:
    named = [{**vars(HD95), "label": "a very long name indeed"}]
    lines = to_text(bench_table(results([row("er", 0.5, last_hd95=1.0)], metrics=named))).splitlines()
    assert lines[2].strip() == "a very long name indeed"
    assert len(lines[3]) == len(lines[2])


@pytest.mark.parametrize("form", FORMATS)
def test_paired_tests_stand_below_the_table(runs: Path, form: str) -> None:
    (page,) = pages(runs)
    shown = page.show(form)
    assert shown.index("er - naive") > shown.index("SAM + AL(naive)")
    assert all(pair in shown for pair in ("er - naive", "er - ca-sam", "naive - ca-sam"))
    assert "Holm" in shown


def test_files_of_a_page(runs: Path, tmp_path: Path) -> None:
    written = write_pages(pages(runs), tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "table1.csv", "table1.md", "table1.tex", "table1.txt", "table1_tests.csv",
    ]  # fmt: skip
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    found = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table1_tests.csv").read_text())))
    assert [float(line["difference"]) for line in found] == [10.0] * 3
    assert "from" not in found[0]
    assert "er - naive" in (tmp_path / "out" / "table1.md").read_text()
    assert "er - naive" not in (tmp_path / "out" / "table1.csv").read_text()
    with pytest.raises(OptionError, match="exists"):
        write_pages(pages(runs), tmp_path / "out")


def test_a_full_disk_leaves_the_files_that_were_there(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_pages(pages(runs), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    write, calls = files._write_synced, []

    def full(path: Path, parts: Any) -> None:
        calls.append(path)
        write(path, [part[: len(part) // 2] for part in parts] if len(calls) == 3 else parts)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_synced", full)
    with pytest.raises(StoreError, match="No space left"):
        write_pages(pages(runs, "bench"), out)
    with pytest.raises(OptionError):
        write_pages(pages(runs), out)
    calls.clear()
    with pytest.raises(StoreError):
        write_pages(pages(runs), out, overwrite=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_results_without_tests_or_of_an_unknown_table(runs: Path, tmp_path: Path) -> None:
    write(runs / "bench" / "one" / "results.json", results([row("er", 0.5)]))
    (page,) = pages(runs, "bench")
    assert page.tests is None
    assert "Paired" not in page.show("text")
    assert len(bench_tables(results([row("er", 0.5)]))) == 1
    with pytest.raises(OptionError, match="table12"):
        pages(runs, "table12")


def test_a_table_is_of_the_newest_bench_that_was_made_for_it(runs: Path) -> None:
    """Not of whatever ran last; a bench without a recipe stands in where no recipe's is there."""
    for number, (name, table, label) in enumerate(
        [("routers", "routers", "emr"), ("older", "table1", "naive"), ("adhoc", "bench", "ewc")]
    ):
        folder = runs / "bench" / name
        folder.mkdir()
        write(folder / "results.json", {**results([row(label, 0.5)]), "table": table, "title": name})
        os.utime(folder / "results.json", ns=(number, number))
    told: list[str] = []
    (page,) = pages(runs, "table1", told.append)
    assert page.results["title"] == "Three methods"
    assert told == [f"table1 of Three methods: {runs / 'bench' / 'one'}"]
    assert pages(runs, "routers")[0].results["title"] == "routers"
    assert pages(runs, "table2")[0].results["title"] == "adhoc"
    assert pages(runs / "bench" / "routers", "table2")[0].results["title"] == "routers", "one that is named"
    assert pages(runs, "bench")[0].results["title"] == "Three methods", "the newest of any kind"
    assert {page.table.name for page in pages(runs)} == {"table1", "routers", "bench"}
    shutil.rmtree(runs / "bench" / "adhoc")
    with pytest.raises(OptionError, match=r"no bench .* was made for table2: there are routers, table1"):
        pages(runs, "table2")


def test_a_damaged_result_is_named_and_the_others_are_shown(runs: Path) -> None:
    other = runs / "bench" / "two"
    other.mkdir()
    write(other / "results.json", results([row("er", 0.5)]))
    damaged = runs / "bench" / "one" / "results.json"
    damaged.write_text(damaged.read_text().replace("0.5", "0.6", 1))
    said: list[str] = []
    (page,) = pages(runs, say=said.append)
    assert page.tests is None, "of the whole one"
    assert len(said) == 1
    assert str(damaged) in said[0]
    (other / "results.json").unlink()
    with pytest.raises(CasamError, match="cannot be read"):
        pages(runs)


@pytest.mark.parametrize("table", ["bench", None])
def test_a_table_over_other_code_says_so(runs: Path, table: str | None) -> None:
    made = results([row("er", 0.5)])
    mixtures = {"code": ["casam_cache.training.losses has changed since (3 stages)"], "threads": ["1", "2"]}
    write(runs / "bench" / "one" / "results.json", {**made, "mixtures": mixtures})
    (page,) = pages(runs, table)
    for form in FORMATS:
        if form != "csv":
            assert "training.losses has changed since (3 stages)" in page.show(form).replace("\\_", "_")


def test_many_pairs_are_told_in_brief() -> None:
    tests = [paired("a", str(place), p=None if place == 3 else 1 - place / 100) for place in range(45)]
    table = brief_paired_table(tests, facts_of(STANDARD))
    assert [line.label for line in table.sections[0].lines] == [f"a - {place}" for place in range(44, 34, -1)]
    assert table.notes == (*BRIEFLY, "the 10 pairs with the smallest p of 45; casam report shows all")
    few = brief_paired_table(tests[:3], facts_of(STANDARD))
    assert [line.label for line in few.sections[0].lines] == ["a - 0", "a - 1", "a - 2"]


def test_plain_tables_line_up() -> None:
    counts = {"requested": 1234, "distinct": 2, "existing": 1, "missing": 1}
    lines = to_text(plan_table({"kinds": {"fit": counts}, "stages": counts})).splitlines()
    assert lines[0].split() == ["stage", "requested", "distinct", "exist", "to", "do"]
    assert len({len(line) for line in lines}) == 1
    assert to_text(facts_table([("size", "3 MiB"), ("embedding", "x")])) == "size       3 MiB\nembedding  x\n"
    assert to_csv(plan_table({"kinds": {}, "stages": counts})).splitlines()[1] == ",all,1234,2,1,1"
