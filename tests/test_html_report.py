"""The report for a browser: well-formed pages that run nothing, whatever names hold, the same bytes each time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_sets import Reference
from conftest import Casam, draw_dataset
from html_pages import check_safe

from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import digest
from casam_cache.report.configurations import gather
from casam_cache.report.html.heat import confusion_matrix, order_matrices
from casam_cache.report.html.writing import INDEX, write_report

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'$x^${{ 7 * 7 }}"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_bench_with_its_matrices_routers_and_circumstances(reference: Reference, tmp_path: Path) -> None:
    written = write_report(reference.runs, tmp_path / "report")
    page = check_safe(written.index)
    assert written.benches == 1
    for told in ("ca-sam", "paired tests", "Thresholds", "device", "this release's", "amber → cobalt → moss"):
        assert told in page.text, told
    assert "one seed" in page.text
    sortable = [each for each in page.all("table") if each.get("class") == "sortable"]
    heat = [each for each in page.all("table") if each.get("class") == "heat"]
    assert len(sortable) >= 3
    sequences = [run for run in gather(reference.results.rows) if order_matrices(run)]
    routed = [run for run in gather(reference.results.rows) if confusion_matrix(run)]
    assert len(heat) == 2 * len(sequences) + len(routed)
    assert routed


def test_the_same_runs_give_the_same_bytes(reference: Reference, tmp_path: Path) -> None:
    write_report(reference.runs, tmp_path / "one")
    write_report(reference.runs, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_matrix_is_the_mean_over_seeds_of_one_order() -> None:
    def row(seed: int, order: list[str], values: Any) -> dict[str, Any]:
        matrix = {"tasks": order, "iou": values}
        return {"label": "er", "method": "er", "seed": seed, "order": order, "matrix": matrix}

    rows = [
        row(0, ["a", "b"], [[0.2, None], [0.4, 0.6]]),
        row(1, ["a", "b"], [[0.4, None], [0.6, 0.8]]),
        row(0, ["b", "a"], [[1.0, 0.0], [0.5, 0.5]]),
    ]
    [run] = gather(rows)
    first, second = order_matrices(run)
    assert [[cell.text for cell in cells] for _, cells in first.lines] == [["30.0", "-"], ["50.0", "70.0"]]
    assert [[cell.kind for cell in cells] for _, cells in first.lines] == [["own", "ahead"], ["", "own"]]
    assert [cell.shade for cell in second.lines[0][1]] == [10, 0]
    assert second.columns == ("b", "a")


def test_where_images_went_is_summed_over_runs() -> None:
    row = {"label": "r", "method": "r", "order": ["a", "b"], "thresholds": {"a": 1.5, "b": None}}
    sent = {"a": {"a": 3, "frozen": 1}, "b": {"b": 4}, "new": {"a": 1, "frozen": 3}}
    [run] = gather([{**row, "seed": 0, "confusion": sent}, {**row, "seed": 1, "confusion": sent}])
    matrix = confusion_matrix(run)
    assert matrix is not None
    assert matrix.columns == ("a", "b", "frozen")
    assert [[cell.text for cell in cells] for _, cells in matrix.lines] == [
        ["75", "·", "25"],
        ["·", "100", "·"],
        ["25", "·", "75"],
    ]
    assert [name for name, _ in matrix.lines] == ["a (8)", "b (8)", "new (8), unseen"]


def test_names_can_hold_anything(reference: Reference, tmp_path: Path) -> None:
    [path] = reference.runs.glob("bench/*/results.json")
    text = path.read_text()
    data = json.loads(text.replace("amber", json.dumps(HOSTILE)[1:-1]))
    data.pop("digest")
    data["title"] = HOSTILE
    for row in data["results"]:
        row["label"] = f"{HOSTILE} {row['label']}"
    changed = tmp_path / "runs" / "bench" / path.parent.name
    changed.mkdir(parents=True)
    (changed / path.name).write_text(json.dumps({**data, "digest": digest(data)}))
    written = write_report(tmp_path / "runs", tmp_path / "report")
    page = check_safe(written.index)
    assert HOSTILE in page.text
    assert "49" not in page.text.split(HOSTILE)[0]
    assert not [each for each in page.all("img") if each.get("src") == "x"]


def test_fits_with_their_curves_and_warnings(
    casam: Casam, encode: Callable[..., Any], tmp_path: Path
) -> None:
    data = draw_dataset(tmp_path / "data" / "discs & $x^$ 'n' {{ 7+7 }}")
    encode(data)
    ways = (["--set", "held_out=0"], ["--set", "held_out=0", "--seed", 1, "--set", "batch_size=3"])
    for way in ways:
        casam("fit", "--task", data.name, "--epochs", 1, *way)
        assert casam.code == 0, casam.err
    printed = casam("report", "casam_runs", "--html", "report").strip()
    assert casam.code == 0, casam.err
    page = check_safe(casam.folder / printed)
    assert data.name in page.text
    assert "masks.html" in page.files()
    assert "alignment batch_size=3 seed=1" in page.text
    assert "too few groups" in page.text
    assert "one seed" not in page.text
    assert len([file for file in page.files() if file.endswith("_curves.svg")]) == 2
    first = casam.json("fit", "--task", data.name, "--epochs", 1, *ways[0])["run"]
    casam("report", first, "--html", "alone")
    assert casam.code == 0, casam.err
    alone = check_safe(casam.folder / "alone" / INDEX)
    assert len(alone.files() & {f"fits/{Path(first).name}_curves.svg"}) == 1
    assert "batch_size=3 seed=1" not in alone.text


def test_what_is_no_runs_folder_and_what_may_be_replaced(reference: Reference, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CasamError, match="no finished bench and no scored fit"):
        write_report(tmp_path / "empty", tmp_path / "report")
    with pytest.raises(CasamError, match="there is no folder"):
        write_report(tmp_path / "missing", tmp_path / "report")
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="no report"):
        write_report(reference.runs, other, overwrite=True)
    assert (other / "mine.txt").read_text() == "mine"
    write_report(reference.runs, tmp_path / "report")
    with pytest.raises(OptionError, match="holds a report"):
        write_report(reference.runs, tmp_path / "report")
    (tmp_path / "report" / "left.txt").write_text("of an earlier one")
    write_report(reference.runs, tmp_path / "report", overwrite=True)
    assert not (tmp_path / "report" / "left.txt").exists()


def test_damaged_results_are_left_out_with_a_line(reference: Reference, tmp_path: Path) -> None:
    runs = reference.copy(tmp_path / "runs")
    [path] = runs.glob("bench/*/results.json")
    shutil.copytree(path.parent, runs / "bench" / "damaged")
    (runs / "bench" / "damaged" / path.name).write_text("{}")
    told: list[str] = []
    written = write_report(runs, tmp_path / "report", say=told.append)
    assert written.benches == 1
    assert any("damaged" in line for line in told)
    assert "damaged" in check_safe(written.index).text
