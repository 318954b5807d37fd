"""`casam runs`: what is listed, shown and found damaged, and that only what nothing needs is removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bench_sets import Reference, one_thread
from conftest import Casam

from casam_cache.bench.fit import fit_task
from casam_cache.engine.runs import Runs
from casam_cache.engine.uses import uses

OPTIONS = ("epochs=1", "batch_size=2", "blocks=2")


@pytest.fixture
def runs(reference: Reference, tmp_path: Path) -> Path:
    """A bench, and a fit that shares nothing with it but the frozen SAM's scores."""
    folder = reference.copy(tmp_path / "runs")
    with one_thread():
        fit_task("moss", reference.stores, folder, options=OPTIONS, device="cpu")
    return folder


def names(runs: Path) -> set[str]:
    return {f"{folder.parent.name}/{folder.name}" for folder in Runs(runs).stages()}


def noted(runs: Path, what: str) -> str:
    [name] = [use.name for use in uses(Runs(runs)) if use.what.startswith(what)]
    return name


def test_list_names_results_and_sizes(casam: Casam, runs: Path) -> None:
    found = casam.json("runs", "list", runs)
    assert [entry["what"] for entry in found["results"]] == ["bench: Tiny", "fit: alignment on moss, test"]
    assert found["unused"] == 0
    assert sum(kind["stages"] for kind in found["kinds"].values()) == len(names(runs))
    size = sum(path.stat().st_size for path in (runs / "fit").rglob("*") if path.is_file())
    assert found["kinds"]["fit"]["bytes"] == size
    told = casam("runs", "list", runs)
    assert "bench: Tiny" in told
    assert f"fit: {found['kinds']['fit']['stages']} stages" in told
    assert noted(runs, "fit") in told


def test_a_stage_that_nothing_needs_is_told(casam: Casam, runs: Path) -> None:
    (runs / "used" / f"{noted(runs, 'fit')}.json").unlink()
    assert casam.json("runs", "list", runs)["unused"] == 3
    casam("runs", "list", runs)
    assert "3 stages are needed by no result" in casam.err


def test_show_prints_what_a_stage_is(casam: Casam, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sorted((runs / "fit").iterdir())[0]
    found = casam.json("runs", "show", folder)
    assert (found["kind"], found["key"], found["changed_modules"]) == ("fit", folder.name, [])
    assert found["inputs"]["method"]["name"] == "alignment"
    assert "casam_cache.training.loop" in found["code"]
    assert "code: " in casam("runs", "show", folder)
    monkeypatch.chdir(folder)
    assert casam.json("runs", "show", ".") == found
    casam("runs", "show", "..")
    assert casam.code == 1
    assert "Traceback" not in casam.err


def test_verify_names_all_that_is_damaged(casam: Casam, runs: Path) -> None:
    assert casam.json("runs", "verify", runs) == {"stages": len(names(runs)), "damaged": []}
    assert casam.code == 0
    fits, scores = sorted((runs / "fit").iterdir()), sorted((runs / "evaluate").iterdir())
    weights = fits[0] / "head.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (fits[1] / "record.json").unlink()
    shutil.rmtree(scores[0])
    scores[1].rename(scores[0])
    results = next((runs / "bench").glob("*/results.json"))
    results.write_text(results.read_text().replace("0.", "1.", 1))
    note = runs / "used" / f"{noted(runs, 'fit')}.json"
    note.write_text(note.read_text().replace("fit/", "fit/0", 1))
    wrong = casam.json("runs", "verify", runs)["damaged"]
    assert casam.code == 1
    for path in (weights.parent, fits[1], scores[0], results, note):
        assert [line for line in wrong if str(path) in line], path
    assert len(wrong) == 5
    out = casam("runs", "verify", runs)
    assert casam.code == 1
    assert all(line in out for line in wrong)
    assert "5 damaged" in casam.err
    casam("runs", "list", runs)
    assert casam.code == 0, "a damaged folder can still be listed"


def test_remove_forgets_a_result_and_then_what_only_it_needed(
    casam: Casam, runs: Path, reference: Reference
) -> None:
    before, name = names(runs), noted(runs, "fit")
    needed = next(use.stages for use in uses(Runs(runs)) if use.name != name)
    would = casam.json("runs", "remove", runs, "--unused", "--name", name, "--dry-run")
    assert (would["dry_run"], names(runs)) == (True, before)
    assert noted(runs, "fit") == name
    done = casam.json("runs", "remove", runs, "--unused", "--name", name)
    assert done == {**would, "dry_run": False}
    assert done["bytes"] > 0
    assert names(runs) == needed
    assert len(before - needed) == 3, (
        "its fit, that fit's scores and its cost; the frozen SAM's are the bench's too"
    )
    casam("runs", "remove", runs, "--unused")
    assert "removed 0" in casam.err


def test_a_bench_is_forgotten_with_its_numbers(casam: Casam, runs: Path) -> None:
    name = noted(runs, "bench")
    assert (runs / "bench" / name).is_dir()
    before = names(runs)
    casam("runs", "remove", runs, "--name", name, "--name", name)
    assert casam.code == 0, casam.err
    assert not (runs / "bench" / name).exists()
    assert names(runs) == before, "its stages stay until they are removed as unused"
    casam("runs", "remove", runs, "--unused")
    assert names(runs) == set().union(*(use.stages for use in uses(Runs(runs))))
    assert casam.json("runs", "verify", runs)["damaged"] == []


@pytest.mark.parametrize("damage", ["half", "flipped", "renamed"])
def test_nothing_is_unused_while_a_note_cannot_be_read(casam: Casam, runs: Path, damage: str) -> None:
    note, before = runs / "used" / f"{noted(runs, 'fit')}.json", names(runs)
    text = note.read_text()
    if damage == "half":
        note.write_text(text[: len(text) // 2])
    elif damage == "flipped":
        key = json.loads(text)["stages"][-1].split("/")[1]
        note.write_text(text.replace(key, key[:-1] + ("0" if key[-1] != "0" else "1")))
    else:
        note.rename(note.with_name("another.json"))
    casam("runs", "remove", runs, "--unused")
    assert casam.code == 1
    assert "what it needs is not known" in casam.err
    assert names(runs) == before


def test_damaged_stages_that_nothing_needs_are_removed_too(casam: Casam, runs: Path) -> None:
    (runs / "fit" / ("0" * 20)).mkdir()
    (runs / "fit" / ("1" * 20)).write_text("a file")
    (runs / "fit" / "notes.txt").write_text("of a person's")
    casam("runs", "remove", runs, "--unused")
    assert casam.code == 0, casam.err
    assert not (runs / "fit" / ("0" * 20)).exists()
    assert not (runs / "fit" / ("1" * 20)).exists()
    assert (runs / "fit" / "notes.txt").exists()


def refusal(casam: Casam, *arguments: Any) -> str:
    casam("runs", *arguments)
    assert casam.code == 1
    assert "Traceback" not in casam.err
    return casam.err


def test_what_cannot_be_done_is_said(casam: Casam, runs: Path, tmp_path: Path) -> None:
    for command in ("list", "verify", "remove"):
        assert "there is no such folder" in refusal(casam, command, tmp_path / "nowhere")
    assert "--unused" in refusal(casam, "remove", runs)
    assert "no result is named 'other'" in refusal(casam, "remove", runs, "--name", "other")
    assert "no result is named" in refusal(casam, "remove", runs, "--name", "../fit")
    assert "not a finished stage" in refusal(casam, "show", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert casam.json("runs", "list", tmp_path / "empty") == {"results": [], "kinds": {}, "unused": 0}
    assert casam.json("runs", "verify", tmp_path / "empty") == {"stages": 0, "damaged": []}


def test_nothing_is_removed_while_something_is_computed(casam: Casam, runs: Path) -> None:
    """What a running command has computed is not noted yet: it would be taken for unused."""
    fcntl = pytest.importorskip("fcntl")
    (runs / "used" / f"{noted(runs, 'fit')}.json").unlink()
    before = names(runs)
    with (runs / "locks" / f"fit-{'0' * 20}").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is being computed" in refusal(casam, "remove", runs, "--unused")
        assert names(runs) == before
    casam("runs", "remove", runs, "--unused")
    assert casam.code == 0
    assert names(runs) < before
