"""Figure 7: which masks stand for a bench, that they are predicted as they were scored, and its files."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from bench_sets import TASKS, Reference
from conftest import Casam

from casam_cache.bench.tables import Tables
from casam_cache.bench.tasks import Place
from casam_cache.engine.runs import Runs
from casam_cache.errors import CasamError
from casam_cache.metrics.overlap import iou
from casam_cache.report.bench_report import pages
from casam_cache.report.example_figure import figure_7, figure_7_values
from casam_cache.report.examples import FILE, FROZEN, Examples, _Predicting, bench_examples, choose, shown


def test_the_rule() -> None:
    gains = [float(value) for value in np.random.default_rng(0).permutation(100)]
    chosen = [(kind, gains[place]) for kind, place in choose(gains)]
    assert chosen == [
        ("worst tenth", 4), ("worst tenth", 5), ("median", 49), ("median", 50), ("best tenth", 94), ("best tenth", 95),
    ]  # fmt: skip
    nan = float("nan")
    assert choose([nan, 0.5, nan, 0.1]) == [("worst tenth", 3), ("worst tenth", 1)]
    assert choose([nan]) == choose([]) == []
    assert [place for _, place in choose([0.0] * 7)] == [0, 1, 2, 3, 5, 6], "each once, equal ones by place"


def test_ca_sam_is_shown_however_long_the_table() -> None:
    baselines = {name: name for name in ("joint", "naive", "lwf", "ewc", "emr", "er", "der")}
    assert shown({**baselines, "ca-sam": "ca-sam", "ca-sam, knn": "ca-sam"}) == [
        *list(baselines)[:5],
        "ca-sam",
    ]
    assert shown({"ca-sam": "ca-sam", **baselines}) == ["ca-sam", *list(baselines)[:5]]
    assert shown(baselines) == list(baselines)[:6]
    routed = {"joint": "joint", "emr": "emr", "emr, router": "emr", **baselines, "ca-sam": "ca-sam"}
    assert shown(routed) == ["joint", "emr", "naive", "lwf", "ewc", "ca-sam"], "one of each method first"
    few = {"naive": "naive", "ours": "ca-sam"}
    assert shown(few) == list(few)


def place_of(reference: Reference) -> tuple[Place, Runs]:
    return reference.results.entries[0].tasks.place, Runs(reference.runs)


def test_masks_are_predicted_as_they_were_scored_whatever_the_method(reference: Reference) -> None:
    place, runs = place_of(reference)
    tables, predicting = Tables(runs), _Predicting(place, runs)
    families = {entry.config.method.name: entry for entry in reversed(reference.results.entries)}
    assert {"frozen", "alignment", "naive", "emr", "ca-sam", "joint"} <= families.keys()
    for name, entry in families.items():
        for task in TASKS:
            scored = entry.matrix(tables)[-1][entry.course.order.index(task)]
            outcomes = entry.frozen[task].read(runs)
            stages = entry.last_scorings(tables, task)
            assert stages.keys() == set(entry.splits[task].images)
            for row, item in enumerate(outcomes.item):
                owner = (outcomes.class_id[row], outcomes.instance[row])
                truth, found = predicting.mask(stages[item], item, owner)
                expected = scored.scores["iou"][row]
                assert iou(found.bitmap, truth.bitmap) == pytest.approx(expected, abs=1e-6), (
                    name,
                    task,
                    item,
                )


def test_the_figure_is_the_same_each_time_and_says_what_it_shows(
    reference: Reference, tmp_path: Path
) -> None:
    place, runs = place_of(reference)
    found = bench_examples(reference.results, place, runs)
    assert list(found.methods) == [FROZEN, "alignment", "joint", "naive", "er", "emr", "ca-sam"]
    assert not found.said
    assert found.images.std() > 10
    gains = [row.gain for row in found.rows]
    assert gains == sorted(gains)
    for row in found.rows:
        others = [score for label, score in row.scores.items() if label != FROZEN]
        assert row.gain == pytest.approx(np.mean(others) - row.scores[FROZEN])
    assert "middle of the worst tenth" in found.rule
    found.write(tmp_path)
    first = (tmp_path / FILE).read_bytes()
    bench_examples(reference.results, place, runs).write(tmp_path)
    assert (tmp_path / FILE).read_bytes() == first
    read = Examples.read(tmp_path)
    assert read is not None
    assert (read.rows, read.methods, read.rule) == (found.rows, found.methods, found.rule)
    assert (read.masks == found.masks).all()
    assert figure_7(read, "svg") == figure_7(found, "svg")
    assert figure_7(found, "png", "slides").startswith(b"\x89PNG")
    values = list(csv.DictReader(io.StringIO(figure_7_values(read))))
    assert float(values[0]["ca-sam"]) == pytest.approx(100 * found.rows[0].scores["ca-sam"], abs=1e-3)
    (tmp_path / FILE).write_bytes(first[:500])
    assert Examples.read(tmp_path) is None
    assert Examples.read(tmp_path / "nowhere") is None


def test_a_bench_ends_with_it_and_open_shows_the_report(
    reference: Reference, casam: Casam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", opened.append)
    shutil.copytree(reference.stores, casam.folder / "casam_store")
    asked = (
        "bench",
        "--methods",
        "alignment",
        "--tasks",
        "amber",
        "--unseen",
        "none",
        "--epochs",
        1,
        "--set",
        "blocks=1",
    )
    asked = (*asked, "--device", "cpu", "--jobs", 1)
    casam(*asked)
    assert casam.code == 0, casam.err
    [picture] = (casam.folder / "casam_runs" / "pictures").glob("bench-*.png")
    assert f"casam_runs/pictures/{picture.name}" in casam.err
    assert "outlines alone" not in casam.err
    key = picture.stem.removeprefix("bench-")
    assert f"casam report casam_runs/bench/{key} --html DIR" in casam.err
    [page] = pages(casam.folder / "casam_runs")
    assert {f"bench_figure7.{form}" for form in ("svg", "png", "csv")} <= page.files().keys()
    found = casam.json(*asked, "--open")
    assert opened == [str((casam.folder / found["report"]).resolve())]
    assert "bench_figure7.svg" in Path(opened[0]).read_text()
    casam.json(*asked, "--open")
    assert len(opened) == 2, "the report is replaced"
    found = casam.json("bench", "--methods", "frozen", *asked[3:7], "--device", "cpu", "--jobs", 1)
    assert found["pictures"] is None
    assert "no picture: no method beside the frozen SAM" in casam.err
    casam(*asked, "--open", "--dry-run")
    assert casam.code == 1


def test_no_gain_no_example(reference: Reference) -> None:
    place, runs = place_of(reference)
    frozen = [entry for entry in reference.results.entries if entry.config.method.name == "frozen"]
    with pytest.raises(CasamError, match="no method beside"):
        bench_examples(dataclasses.replace(reference.results, entries=frozen), place, runs)
