"""`casam evaluate`, and --prompts of `casam fit` and `casam bench`, on the tiny SAM."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_sets import finished, plan, row_of
from conftest import Casam

from casam_cache.report.bench_table import bench_table
from casam_cache.report.formats import to_text
from casam_cache.training.clicks import read_clicks
from casam_cache.training.outcomes import read_outcomes

Encode = Callable[..., Any]
SHORT = ("--task", "discs", "--epochs", 1, "--set", "blocks=1")
PROMPTS = ("--prompts", "box,jitter:0.2,point,clicks:2")


@pytest.fixture
def fitted(casam: Casam, encode: Encode, discs: Path) -> dict[str, Any]:
    """The report of a fit to `discs`, which has two test images with a mask each."""
    encode(discs)
    return casam.json("fit", *SHORT)


def test_a_fit_is_scored_from_other_prompts_and_fitted_once(casam: Casam, fitted: dict[str, Any]) -> None:
    assert fitted["prompt"] == "oracle box"
    before = finished(casam.folder / "casam_runs")
    point = casam.json("fit", *SHORT, "--prompts", "point")
    assert (point["prompt"], point["run"], point["computed"]) == ("point", fitted["run"], False)
    assert point["outcomes"] != fitted["outcomes"]
    assert point["frozen"] != fitted["frozen"]
    after = finished(casam.folder / "casam_runs")
    assert before.items() <= after.items(), "nothing that was there was computed again"
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"evaluate"}
    assert casam.json("fit", *SHORT)["outcomes"] == fitted["outcomes"]
    table = casam("fit", *SHORT, "--prompts", "jitter:0.20")
    assert "jitter:0.2 prompts" in table
    assert "each side moved by up to 20 % of its length" in table
    casam("fit", *SHORT, "--prompts", "box,point")
    assert casam.code == 1
    assert "unknown prompt 'box,point'" in casam.err


def test_a_run_is_evaluated_from_its_folder_and_from_the_same_options(
    casam: Casam, fitted: dict[str, Any]
) -> None:
    report = casam.json("evaluate", fitted["run"], *PROMPTS)
    assert [each["prompt"] for each in report["prompts"]] == ["oracle box", "jitter:0.2", "point", "clicks:2"]
    assert report["computed"] == 6, (
        "the scores from the true box were there, of the head and of the frozen SAM"
    )
    for key in ("task", "method", "model", "evaluate", "parameters", "mask_mode", "seed"):
        assert report[key] == fitted[key]
    box, _, point, clicks = report["prompts"]
    assert (box["fitted"], box["frozen"], box["gain"]) == (fitted["test"], fitted["frozen"], fitted["gain"])
    assert point["clicks"] == []
    assert [each["click"] for each in clicks["clicks"]] == [1, 2]
    for side in ("fitted", "frozen"):
        assert clicks["clicks"][0][side]["mean"] == point[side]["iou"], "the first click is the point"
        assert clicks["clicks"][1][side]["mean"] == clicks[side]["iou"]
    last = clicks["clicks"][1]
    assert last["gain"]["mean"] == pytest.approx(last["fitted"]["mean"] - last["frozen"]["mean"])
    rows = read_clicks(Path(clicks["outcomes"]))
    outcomes = read_outcomes(Path(clicks["outcomes"]))
    assert rows.item == ["p004", "p004", "p005", "p005"]
    assert rows.after(2) == outcomes.scores["iou"]
    assert np.mean(rows.after(1)) == pytest.approx(clicks["clicks"][0]["fitted"]["mean"])

    again = casam.json("evaluate", *SHORT, *PROMPTS)
    assert again["computed"] == 0
    assert [each["fitted"] for each in again["prompts"]] == [each["fitted"] for each in report["prompts"]]
    casam("evaluate", fitted["run"], *PROMPTS)
    assert "nothing recomputed" in casam.err


def test_a_missing_fit_is_computed(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs)
    report = casam.json("evaluate", *SHORT, "--prompts", "point")
    assert report["computed"] == 3
    assert report["run"] == casam.json("fit", *SHORT)["run"]


def test_a_person_gets_a_table_and_a_curve(casam: Casam, fitted: dict[str, Any]) -> None:
    table = casam("evaluate", fitted["run"], *PROMPTS)
    assert "6 stages computed" in casam.err
    for words in (
        "frozen SAM",
        "oracle box",
        "jitter:0.2",
        "clicks:2, after each click",
        "click 1",
        "click 2",
        "binary",
    ):
        assert words in table
    out = casam.folder / "casam_evaluation" / "discs-alignment-tiny"
    assert {path.name for path in out.iterdir()} == {
        f"prompts.{suffix}" for suffix in ("txt", "md", "csv", "tex", "json", "png", "svg")
    }
    lines = list(csv.DictReader((out / "prompts.csv").read_text().splitlines()))
    assert [line["prompt"] for line in lines] == [
        "oracle box",
        "jitter:0.2",
        "point",
        "clicks:2",
        "click 1",
        "click 2",
    ]
    assert float(lines[0]["fitted"]) == pytest.approx(100 * fitted["test"]["iou"], abs=1e-5)
    assert (out / "prompts.png").read_bytes().startswith(b"\x89PNG")
    drawn = (out / "prompts.svg").read_text()
    assert all(words in drawn for words in ("frozen SAM", "jitter:0.2", "clicks (clicks:2)"))
    kept = json.loads((out / "prompts.json").read_text())
    assert kept["run"] == "/".join(Path(fitted["run"]).parts[-2:])
    assert kept["prompts"][0]["fitted"] == fitted["test"]

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    casam("evaluate", *SHORT, *PROMPTS)
    assert casam.code == 0, "the same results again are no other files"
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    assert "replaced" not in casam.err
    casam("evaluate", fitted["run"], "--prompts", "box")
    assert casam.code == 0
    assert "replaced, since they held other results: 7 files in casam_evaluation" in casam.err
    assert "after each click" not in (out / "prompts.txt").read_text()
    casam("evaluate", fitted["run"], "--prompts", "clicks:1", "--out", "chosen")
    assert (casam.folder / "chosen" / "prompts.svg").is_file()
    casam("evaluate", fitted["run"], "--prompts", "box", "--out", "chosen")
    assert casam.code == 1
    assert "prompts.txt exists, and holds other results" in casam.err
    assert "clicks:1" in (casam.folder / "chosen" / "prompts.txt").read_text()
    casam("evaluate", fitted["run"], "--prompts", "box", "--out", "chosen", "--overwrite")
    assert "clicks:1" not in (casam.folder / "chosen" / "prompts.txt").read_text()


def test_a_run_is_scored_after_its_store_was_moved_and_its_train_split_has_changed(
    casam: Casam, encode: Encode, discs: Path, fitted: dict[str, Any]
) -> None:
    for folder in ("images", "masks"):
        shutil.copy(discs / folder / "p002.png", discs / folder / "new.png")
    with (discs / "split.csv").open("a") as file:
        file.write("new,train,another\n")
    encode(discs)
    assert casam.json("evaluate", fitted["run"], *PROMPTS)["run"].endswith(fitted["run"])
    shutil.move(casam.folder / "casam_store", casam.folder / "moved")
    casam("evaluate", fitted["run"], "--prompts", "box", "--out", "o")
    assert casam.code == 1
    assert "the store that" in casam.err
    assert "--store DIR" in casam.err
    assert casam.json("evaluate", fitted["run"], *PROMPTS, "--store", "moved")["computed"] == 0


def test_a_wrong_command_says_what_is_right(casam: Casam, fitted: dict[str, Any]) -> None:
    run, outcomes = fitted["run"], fitted["outcomes"]
    for arguments, words in (
        ((), ("give a run or a task", "casam evaluate RUN")),
        ((run, "--seed", 1), ("--seed beside a run",)),
        ((run, "--epochs", 2, "--model", "tiny"), ("--set/--epochs, --model beside a run",)),
        ((run, "--task", "discs"), ("a run says itself what task it is of",)),
        ((run, "--runs", "other"), ("does not lie in the runs folder other",)),
        ((run, "--prompts", "box,boxes"), ("unknown prompt 'boxes'", "available: box")),
        ((run, "--prompts", "box,box"), ("given twice",)),
        ((run, "--evaluate", "train"), ("unknown split 'train'",)),
        ((outcomes,), ("stage of kind 'evaluate'", "casam bench --prompts")),
        ((f"{run}/..",), ("record.json is missing", "RUNS/fit/KEY")),
    ):
        casam("evaluate", *arguments)
        assert casam.code == 1
        assert not casam.out
        for word in words:
            assert word in casam.err


def test_a_bench_scores_every_method_from_the_same_prompts(bench_stores: Path, tmp_path: Path) -> None:
    """Routed, sequential and frozen ones; the fits are those of a bench from true boxes."""
    runs, methods = tmp_path / "runs", ("frozen", "naive", "ca-sam")
    boxes = plan(bench_stores, runs, methods, unseen=["ghost"]).run().to_json()
    before = finished(runs)
    results = plan(bench_stores, runs, methods, unseen=["ghost"], prompts="clicks:2").run()
    data = results.to_json()
    assert {row["prompt"] for row in boxes["results"]} == {"oracle box"}
    assert {row["prompt"] for row in data["results"]} == {"clicks:2"}
    assert (data["recipe"]["prompts"], "prompts" in boxes["recipe"]) == ("clicks:2", False)
    assert data["metrics"] == boxes["metrics"]
    assert [row.keys() for row in data["results"]] == [row.keys() for row in boxes["results"]]
    assert not {row["key"] for row in data["results"]} & {row["key"] for row in boxes["results"]}
    new = finished(runs).keys() - before.keys()
    assert before.items() <= finished(runs).items()
    assert {name.partition("/")[0] for name in new} == {"evaluate"}
    frozen = row_of(results, "frozen")
    assert frozen["matrix"]["iou"][-1] == frozen["matrix"]["frozen_iou"]
    assert frozen["matrix"]["iou"] != boxes["results"][0]["matrix"]["iou"]
    table = to_text(bench_table(data))
    assert "test split, clicks:2;" in table
    assert "clicks:2: 2 clicks, scored after the last" in table
