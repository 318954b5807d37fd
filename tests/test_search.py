"""A search: the same in one go and in pieces, nothing computed twice, no test image read, fronts that are fronts."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_sets import kinds, one_thread
from conftest import Casam
from html_pages import check_safe

from casam_cache import fit_task
from casam_cache.bench.bench import Bench
from casam_cache.bench.recipe import load_recipe
from casam_cache.bench.search import search as module
from casam_cache.bench.search.outcome import SearchReport, read_reports
from casam_cache.bench.search.search import search
from casam_cache.bench.search.space import read_space
from casam_cache.bench.search.study import JOURNAL, Study
from casam_cache.bench.stages.fit import Fit
from casam_cache.engine.schedule import ChangedCodeError
from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import digest
from casam_cache.methods.registry import METHODS
from casam_cache.report.search_table import search_table
from casam_cache.store import EmbeddingStore
from casam_cache.store.annotations import Annotations

FEW = ("min_steps=4", "max_steps=4", "held_out=0")
SPACE = {
    "kind": ["affine", "depthwise", "bottleneck"],
    "blocks": {"values": [1, 2], "when": {"kind": ["depthwise", "bottleneck"]}},
    "learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def space(tmp_path: Path) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE, sort_keys=False))
    return str(path)


def run(stores: Path, runs: Path, space: str, **given: Any) -> SearchReport:
    """A search of few steps."""
    asked: dict[str, Any] = {
        "tasks": ["amber", "moss"],
        "trials": 6,
        "options": FEW,
        "model": "tiny",
        "device": "cpu",
    }
    return search("alignment", stores, runs, space=space, **{**asked, **given})


def outcome(report: SearchReport) -> Any:
    """What a search came to, without when, where and how fast."""
    data = report.to_json()
    for trial in data["trials"]:
        del trial["timing"]
    for name in ("folder", "recipes", "new", "computed"):
        del data[name]
    return json.loads(json.dumps(data))


class Stopped(BaseException):
    """As a kill, between any two lines."""


def stop_after(monkeypatch: pytest.MonkeyPatch, cls: type, method: str, calls: int) -> None:
    """The call after so many ends everything."""
    real, left = getattr(cls, method), [calls]

    def counted(*arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return real(*arguments, **options)

    monkeypatch.setattr(cls, method, counted)


def test_killed_and_continued_is_one_in_one_go_and_computes_nothing_twice(
    bench_stores: Path, tmp_path: Path, space: str
) -> None:
    whole = run(bench_stores, tmp_path / "whole", space)
    assert [trial.number for trial in whole.trials] == list(range(6))
    assert {trial.state for trial in whole.trials} == {"complete", "pruned"}
    assert whole.new == 6
    pieces, computed = tmp_path / "pieces", list[str]()
    real = Fit.compute

    def counted(stage: Fit, work: Any) -> Any:
        found = real(stage, work)
        computed.append(stage.key)
        return found

    for cls, method, calls in ((Fit, "compute", 3), (Study, "add", 2), (Fit, "compute", 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Fit, "compute", counted)
            stop_after(patch, cls, method, calls)
            with pytest.raises(Stopped):
                run(bench_stores, pieces, space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "compute", counted)
        last = run(bench_stores, pieces, space)
    assert outcome(last) == outcome(whole)
    assert 0 < last.new < 6
    assert len(computed) == len(set(computed))
    again = run(bench_stores, pieces, space)
    assert (again.new, again.computed, outcome(again)) == (0, 0, outcome(whole))
    (Path(whole.folder) / JOURNAL).unlink()
    anew = run(bench_stores, tmp_path / "whole", space)
    assert (anew.new, anew.computed, outcome(anew)) == (6, 0, outcome(whole))


def test_points_that_are_suggested_together_are_so_again(
    bench_stores: Path, tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "batch_size", lambda processes: 4)
    whole = run(bench_stores, tmp_path / "whole", space, trials=7, objectives="iou,flops")
    run(bench_stores, tmp_path / "pieces", space, trials=5, objectives="iou,flops")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, Study, "add", 1)
        with pytest.raises(Stopped):
            run(bench_stores, tmp_path / "pieces", space, trials=7, objectives="iou,flops")
    pieces = run(bench_stores, tmp_path / "pieces", space, trials=7, objectives="iou,flops")
    assert (pieces.new, outcome(pieces)) == (1, outcome(whole))


@pytest.mark.slow
def test_processes_come_to_the_same(bench_stores: Path, tmp_path: Path, space: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "batch_size", lambda processes: 4)
        here = run(bench_stores, tmp_path / "here", space)
    there = run(bench_stores, tmp_path / "there", space, jobs=2)
    assert outcome(there) == outcome(here)


@pytest.mark.slow
def test_a_killed_program_goes_on(bench_stores: Path, tmp_path: Path, space: str) -> None:
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[4])\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; import test_search\n"
        "test_search.run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])\n"
    )
    whole = run(bench_stores, tmp_path / "whole", space)
    arguments = [bench_stores, tmp_path / "killed", space, Path(__file__).parent]
    for stages in (1, 3, 6):  # another moment each time: in a first trial, between trials, ...
        process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)])
        while process.poll() is None and len(list((tmp_path / "killed").glob("fit/*/record.json"))) < stages:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert outcome(run(bench_stores, tmp_path / "killed", space)) == outcome(whole)


def test_points_that_another_search_tried_are_found(bench_stores: Path, tmp_path: Path, space: str) -> None:
    first = run(bench_stores, tmp_path / "runs", space, trials=3, pruning=False)
    other = run(bench_stores, tmp_path / "runs", space, trials=3, pruning=False, objectives="dice,flops")
    assert other.key != first.key
    assert [trial.point for trial in other.trials] == [trial.point for trial in first.trials]
    assert other.computed == 0


def test_no_test_image_is_read(
    bench_stores: Path, tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, masks_of, seen = EmbeddingStore.read, Annotations.masks_of, set[str]()

    def checked_read(store: EmbeddingStore, index: int, *rest: Any) -> Any:
        row = list(store.annotations.item).index(index)
        assert row not in set(store.annotations.rows("test"))
        seen.add(store.path.parent.name)
        return read(store, index, *rest)

    def checked_masks(annotations: Annotations, row: int) -> Any:
        assert row not in set(annotations.rows("test"))
        return masks_of(annotations, row)

    monkeypatch.setattr(EmbeddingStore, "read", checked_read)
    monkeypatch.setattr(Annotations, "masks_of", checked_masks)
    run(bench_stores, tmp_path / "runs", space, trials=2, pruning=False)
    assert seen == {"amber", "moss"}
    with pytest.raises(AssertionError):  # the poison works
        fit_task("amber", bench_stores, tmp_path / "runs", options=FEW, model="tiny", device="cpu")


def test_without_a_validation_split_training_groups_are_set_apart(
    casam: Casam, encode: Any, discs: Path, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(discs)
    annotations = EmbeddingStore.open(Path("casam_store/discs/tiny.zarr")).annotations
    train, masks_of = {int(row) for row in annotations.rows("train")}, Annotations.masks_of

    def checked(own: Annotations, row: int) -> Any:
        assert int(row) in train
        return masks_of(own, row)

    monkeypatch.setattr(Annotations, "masks_of", checked)
    report = run(Path("casam_store"), Path("casam_runs"), space, tasks=["discs"], trials=2)
    judged = report.tasks["discs"]
    assert (judged["train"], judged["scored"]) == ("rest 1/4 of train", "fold 1/4 of train")
    assert judged["groups"] == 1


def test_the_recipe_is_the_fit_that_was_judged(
    bench_stores: Path, tmp_path: Path, space: str, casam: Casam
) -> None:
    runs = tmp_path / "runs"
    report = run(bench_stores, runs, space, trials=4, objectives="iou,parameters")
    assert report.best is not None
    recipe = report.recipes[report.best]
    assert set(report.recipes) == {report.best, *report.front}
    fitted = fit_task(
        "amber", bench_stores, runs, recipe=recipe, split="val", model="tiny", device="cpu", seed=report.seed
    )
    assert not fitted.computed
    best = report.trials[report.best]
    assert fitted.test["iou"].mean == pytest.approx(best.rungs[-1].tasks["amber"])
    assert (fitted.parameters, fitted.flops) == (best.parameters, best.flops)
    summary = Bench.plan(load_recipe(Path(recipe)), bench_stores, runs, model="tiny", device="cpu").summary()
    assert summary.kinds["fit"]["missing"] == 0
    shared = ("--store", bench_stores, "--runs", runs, "--model", "tiny", "--recipe", recipe)
    told = casam.json("fit", "--task", "amber", *shared)
    assert (told["computed"], told["method"]) == (False, "alignment")
    changed = casam.json("fit", "--task", "amber", *shared, "--set", "learning_rate=0.5")
    assert changed["computed"]
    casam("fit", "--task", "amber", *shared, "--method", "decoder")
    assert "has no method 'decoder'" in casam.err


def test_a_recipe_file_of_several_fits_is_refused(bench_stores: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    for methods, words in (
        (["alignment", "decoder"], "2 entries"),
        ([{"method": "alignment", "set": {"blocks": [1, 2]}}], "several values of 'blocks'"),
        ([{"method": "alignment", "set": {"blokcs": 1}}], "no option 'blokcs'"),
    ):
        path.write_text(yaml.safe_dump({"title": "Many", "methods": methods}))
        with pytest.raises(OptionError, match=words):
            fit_task("amber", bench_stores, tmp_path / "runs", recipe=str(path), model="tiny", device="cpu")
    with pytest.raises(OptionError, match="unknown recipe 'papier'"):
        fit_task("amber", bench_stores, tmp_path / "runs", recipe="papier", model="tiny", device="cpu")


OWN = """
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from casam_cache.heads.base import Head
from casam_cache.methods.base import Method


class ShiftOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    scaled: bool = True
    start: float = Field(default=0.0, ge=-1, le=1)


class ShiftHead(Head):
    name = "shift-head"
    Options = ShiftOptions

    def __init__(self, options, backbone, seed):
        super().__init__(options)
        self.shift = nn.Parameter(torch.full((backbone.channels, 1, 1), options.start))
        self.scale = nn.Parameter(torch.ones(backbone.channels, 1, 1)) if options.scaled else None

    def forward(self, embedding):
        return (embedding if self.scale is None else self.scale * embedding) + self.shift


class Shift(Method):
    name = "shift"
    Options = ShiftOptions

    def build(self, backbone, seed):
        return ShiftHead(self.options, backbone, seed)
"""


def test_a_head_of_a_users_own_on_the_command_line(bench_stores: Path, casam: Casam) -> None:
    Path("own.py").write_text(OWN)
    Path("own.yaml").write_text("scaled: [true, false]\nstart: {low: -0.5, high: 0.5, step: 0.25}\n")
    few = [part for option in FEW for part in ("--set", option)]
    asked = (
        "search",
        "--head",
        "own.py:Shift",
        "--tasks",
        "amber,moss",
        "--store",
        bench_stores,
        "--model",
        "tiny",
    )
    run_ = (*asked, *few, "--trials", 4, "--objective", "iou,parameters", "--jobs", 1, "--device", "cpu")
    report = casam.json(*run_, "--space", "own.yaml")
    assert casam.code == 0, casam.err
    assert (report["name"], len(report["trials"]), report["new"]) == ("shift", 4, 4)
    assert {trial["parameters"] for trial in report["trials"]} == {16, 32}
    names = {Path(path).name for path in report["files"]}
    assert names >= {
        "search.json",
        "search.txt",
        "search.csv",
        "search.md",
        "search.tex",
        "front.svg",
        "front.png",
    }
    assert all(Path(path).stat().st_size for path in report["files"])
    written = json.loads(Path(report["folder"], "search.json").read_text())
    assert written.pop("digest") == digest(written)
    assert written == {name: report[name] for name in report if name not in ("new", "computed", "files")}
    shown = casam(*run_, "--space", "own.yaml")
    assert "Best trials" in shown
    assert "Front" in shown
    assert "0 new trials, 0 stages computed" in casam.err
    recipe = report["recipes"][str(report["best"])]
    assert (
        casam.json("fit", "--task", "amber", "--store", bench_stores, "--recipe", recipe)["method"] == "shift"
    )
    built_in = read_space("builtin", METHODS.get("own.py:Shift"), {})
    assert built_in.names == ("scaled", "learning_rate")


def test_a_space_that_is_used_up_ends_the_search(bench_stores: Path, tmp_path: Path) -> None:
    path, lines = tmp_path / "small.yaml", list[str]()
    path.write_text("kind: [affine, depthwise]\nblocks: {values: [1, 2], when: {kind: depthwise}}\n")
    report = run(bench_stores, tmp_path / "runs", str(path), trials=50, tasks=["amber"], say=lines.append)
    assert sorted(str(trial.point) for trial in report.trials) == [
        "{'kind': 'affine'}", "{'kind': 'depthwise', 'blocks': 1}", "{'kind': 'depthwise', 'blocks': 2}",
    ]  # fmt: skip
    assert lines[-1] == "every point of the space was tried: 3 trials"


def test_points_that_cannot_be_fitted_are_said_and_cost_nothing_else(
    bench_stores: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("learning_rate: [1.0e-3, 1.0e+30]\nmin_steps: [4, 30]\n")
    report = run(
        bench_stores, tmp_path / "runs", str(path), trials=4, tasks=["amber"], pruning=False,
        options=["max_steps=4", "held_out=0", "kind=full", "blocks=1"],
    )  # fmt: skip
    states = {(trial.point["learning_rate"], trial.point["min_steps"]): trial for trial in report.trials}
    assert states[1e-3, 4].state == "complete"
    assert states[1e30, 4].state == "diverged"
    assert "no longer finite" in states[1e30, 4].reason
    assert {states[rate, 30].state for rate in (1e-3, 1e30)} == {"refused"}
    assert "min_steps=30 is more than max_steps=4" in states[1e-3, 30].reason
    assert report.best == states[1e-3, 4].number


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trials": None}, "without an end"),
        ({"objectives": "iou,speed"}, "unknown objective 'speed'"),
        ({"objectives": "flops"}, "one score"),
        ({"objectives": "iou,dice"}, "one score"),
        ({"tasks": ["nowhere"]}, "unknown task"),
        ({"options": ["blocks=1,2"]}, "blocks=1,2"),
        ({"options": ["widht=1"]}, "no option 'widht'"),
        ({"space": "nowhere.yaml"}, "cannot be read"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(
    bench_stores: Path, tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(CasamError, match=words):
        run(bench_stores, tmp_path / "runs", **{"space": "builtin", **given})
    assert not (tmp_path / "runs").exists()
    with pytest.raises(OptionError, match="not a head of one task"):
        search("ca-sam", bench_stores, tmp_path / "runs", trials=1)


def test_a_study_is_held_by_one_search_and_survives_a_torn_line(
    bench_stores: Path, tmp_path: Path, space: str
) -> None:
    first = run(bench_stores, tmp_path / "runs", space, trials=2)
    journal = Path(first.folder) / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert run(bench_stores, tmp_path / "runs", space, trials=3).new == 1
    described = read_space(space, METHODS.get("alignment"), {})
    with Study.open(Path(first.folder), described, ("iou",), 0) as study:
        assert len(study.trials) == 3
        with pytest.raises(CasamError, match="searches in"):
            run(bench_stores, tmp_path / "runs", space, trials=4)
    journal.write_bytes(b"nonsense\n")
    with pytest.raises(CasamError, match="damaged"):
        run(bench_stores, tmp_path / "runs", space, trials=3)


def test_trials_of_other_code_are_never_taken_in_silence(
    bench_stores: Path, tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(bench_stores, tmp_path / "runs", space, trials=2, pruning=False)
    for place in ("engine.schedule", "engine.runs", "bench.tables"):
        monkeypatch.setattr(
            f"casam_cache.{place}.other_modules",
            lambda code: [name for name in code if name == "casam_cache.training.losses"],
        )
    with pytest.raises(ChangedCodeError, match=r"training\.losses"):
        run(bench_stores, tmp_path / "runs", space, trials=2, pruning=False)
    kept = run(bench_stores, tmp_path / "runs", space, trials=2, pruning=False, changed="keep")
    assert (kept.new, kept.computed) == (0, 0)
    assert "training.losses has changed" in kept.mixtures["code"][0]
    assert "other code" in " ".join(search_table(kept).notes)
    again = run(bench_stores, tmp_path / "runs", space, trials=2, pruning=False, changed="recompute")
    assert again.new == 2
    assert again.computed >= 4
    assert again.trials[1].rungs == first.trials[1].rungs


def test_a_budget_counts_all_calls_together(bench_stores: Path, tmp_path: Path, space: str) -> None:
    told: list[Any] = []
    asked: dict[str, Any] = {"trials": None, "tasks": ["amber"], "on_progress": told.append}
    first = run(bench_stores, tmp_path / "runs", space, budget=1e-4, **asked)
    assert (first.new, len(first.trials)) == (1, 1)
    assert (told[-1].trials, told[-1].budget) == (1, 1e-4)
    assert run(bench_stores, tmp_path / "runs", space, budget=1e-4, **asked).new == 0
    spent = first.trials[0].seconds
    assert run(bench_stores, tmp_path / "runs", space, budget=spent + 1e-4, **asked).new == 1


def test_unused_stages_do_not_include_those_of_a_search(
    bench_stores: Path, tmp_path: Path, space: str, casam: Casam
) -> None:
    runs = tmp_path / "runs"
    report = run(bench_stores, runs, space, trials=2)
    casam("runs", "remove", runs, "--unused")
    assert run(bench_stores, runs, space, trials=2).computed == 0
    assert casam.json("runs", "verify", runs)["damaged"] == []
    listed = casam.json("runs", "list", runs)
    assert [entry["name"] for entry in listed["results"]] == [f"search-{report.key}"]
    assert kinds({f"{path.parent.name}/x" for path in runs.glob("*/*") if path.is_dir()}).keys() >= {"search"}


def test_report_draws_the_front(bench_stores: Path, tmp_path: Path, space: str, casam: Casam) -> None:
    runs = tmp_path / "runs"
    casam("report", runs, "--table", "search")
    assert "no search" in casam.err
    report = run(bench_stores, runs, space, trials=3, pruning=False, objectives="iou,flops")
    assert read_reports(runs, print) == [dataclasses.replace(report, new=0, computed=0)]
    assert (
        casam("report", runs) == casam("report", report.folder) == casam("report", runs, "--table", "search")
    )
    assert f"{100 * report.trials[report.best or 0].rungs[-1].means['iou']:.2f}" in casam.out
    casam("report", runs, "--out", "tables")
    name = f"tables/search_{report.key}"
    assert all(Path(name + end).stat().st_size for end in (".txt", ".csv", "_front.svg", "_front.png"))
    drawn = Path(name + "_front.svg").read_text()
    assert "mathdefault" not in drawn, "ticks are read as text"
    assert ">FLOPs of head and decoder a sample and step</text>" in drawn
    for what in (runs, report.folder):
        written = casam.json("report", what, "--html", "html", "--overwrite")
        assert (written["searches"], written["benches"], written["fits"]) == (1, 0, 0), casam.err
        page = check_safe(casam.folder / written["index"])
        assert f"{100 * report.trials[report.best or 0].rungs[-1].means['iou']:.2f}" in page.text
        assert {
            f"search-1/search_{report.key}{end}" for end in (".csv", "_front.svg", "_front.png")
        } <= page.files()
    file = Path(report.folder) / "search.json"
    file.write_text(file.read_text().replace('"state": "complete"', '"state": "pruned"', 1))
    casam("report", runs, "--table", "search")
    assert "search.json is damaged and left out" in casam.err


def test_without_optuna_it_is_said_how_to_install_it(casam: Casam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    casam("search", "--trials", 1)
    assert casam.code == 1
    assert "pip install 'casam-cache[search]'" in casam.err
