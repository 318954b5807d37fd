"""`casam fit` on the tiny SAM: what it reports, what makes it another run, and that it never sees other splits."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, draw_dataset

from casam_cache.heads.files import WEIGHTS
from casam_cache.store import Annotations, EmbeddingStore
from casam_cache.training import loop
from casam_cache.training.outcomes import read_outcomes

Encode = Callable[..., Any]
SHORT = ("--task", "discs", "--epochs", 2, "--set", "blocks=1")


@pytest.fixture
def encoded(encode: Encode, discs: Path) -> Path:
    """The dataset `discs`, encoded; six training images, of which one has no mask, and two of test."""
    encode(discs)
    return discs


def add(discs: Path, name: str, split: str, like: str = "p004") -> None:
    for folder in ("images", "masks"):
        shutil.copy(discs / folder / f"{like}.png", discs / folder / f"{name}.png")
    with (discs / "split.csv").open("a") as file:
        file.write(f"{name},{split},patient_of_{name}\n")


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def weights(casam: Casam, report: dict[str, Any]) -> bytes:
    return (casam.folder / report["run"] / WEIGHTS).read_bytes()


def test_the_report_compares_with_the_frozen_sam(casam: Casam, encoded: Path) -> None:
    report = casam.json("fit", *SHORT)
    assert (report["task"], report["method"], report["model"], report["seed"]) == (
        "discs",
        "alignment",
        "tiny",
        0,
    )
    assert (report["computed"], report["evaluate"], report["mask_mode"]) == (True, "test", "binary")
    for part in ("test", "frozen"):
        assert report[part]["masks"] == 2
        for metric in ("iou", "biou", "dice"):
            assert 0 <= report[part][metric] <= 1
    run = casam.folder / report["run"]
    assert {path.name for path in run.iterdir()} == {"head.safetensors", "head.json", "record.json"}
    from safetensors.torch import load_file

    assert sum(tensor.numel() for tensor in load_file(run / WEIGHTS).values()) == report["parameters"]
    outcomes = read_outcomes(casam.folder / report["outcomes"])
    assert outcomes.item == ["p004", "p005"]
    assert outcomes.group == ["patient2", "patient2"]
    assert np.mean(outcomes.scores["iou"]) == pytest.approx(report["test"]["iou"])
    assert report["gain"]["iou"]["mean"] == pytest.approx(report["test"]["iou"] - report["frozen"]["iou"])


def test_a_person_gets_a_table_that_states_its_conventions(casam: Casam, encoded: Path) -> None:
    table = casam("fit", *SHORT)
    for words in ("discs", "frozen SAM", "fitted", "BIoU", "binary", "test split", "oracle box", "seed 0"):
        assert words in table
    assert "computed: casam_runs/fit/" in casam.err


def test_the_same_command_again_recomputes_nothing(casam: Casam, encoded: Path) -> None:
    first = casam.json("fit", *SHORT)
    before = state(casam.folder)
    second = casam.json("fit", *SHORT)
    assert second == {**first, "computed": False}
    after = state(casam.folder)
    notes = {name for name in before if name.startswith("casam_runs/used/")}  # of when a result was last used
    assert len(notes) == 1
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in before.items()
    }
    assert {name: after[name] for name in after.keys() - notes} == {
        name: before[name] for name in before.keys() - notes
    }
    casam("fit", *SHORT)
    assert "nothing recomputed" in casam.err


def test_a_new_test_image_is_scored_by_the_same_fit(casam: Casam, encode: Encode, encoded: Path) -> None:
    first = casam.json("fit", *SHORT)
    add(encoded, "a_new", "test")
    encode(encoded)
    second = casam.json("fit", *SHORT)
    assert (second["run"], second["computed"]) == (first["run"], False)
    assert second["outcomes"] != first["outcomes"]
    assert (first["test"]["masks"], second["test"]["masks"]) == (2, 3)
    assert second["frozen"]["masks"] == 3


def test_a_new_training_image_is_another_fit(casam: Casam, encode: Encode, encoded: Path) -> None:
    first = casam.json("fit", *SHORT)
    add(encoded, "a_new", "train")
    encode(encoded)
    second = casam.json("fit", *SHORT)
    assert second["computed"]
    assert second["run"] != first["run"]


def test_whatever_decides_the_weights_names_the_run(casam: Casam, encoded: Path) -> None:
    base = ("--task", "discs", "--set", "blocks=1")
    runs = {
        name: casam.json("fit", *base, *options)["run"]
        for name, options in {
            "first": ("--epochs", 1),
            "seed": ("--epochs", 1, "--seed", 1),
            "epochs": ("--epochs", 2),
            "option of the method": ("--epochs", 1, "--set", "relu=post"),
            "option of the training": ("--epochs", 1, "--set", "learning_rate=2e-3"),
        }.items()
    }
    assert len(set(runs.values())) == len(runs)
    for same in (("--set", "epochs=1"), ("--epochs", 1, "--set", "relu=pre", "--model", "tiny")):
        report = casam.json("fit", *base, *same)
        assert (report["run"], report["computed"]) == (runs["first"], False)


def test_validation_is_carved_out_of_training(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs)
    casam("fit", *SHORT, "--evaluate", "val")
    assert casam.code == 1
    assert "--val-fraction" in casam.err
    encode(discs, "--val-fraction", "0.4")
    scored = casam.json("fit", *SHORT, "--evaluate", "val")
    assert scored["evaluate"] == "val"
    items = set(read_outcomes(casam.folder / scored["outcomes"]).item)
    assert items
    assert items <= {"p000", "p001", "p002", "p003", "p006", "p007", "p008", "p009"}
    final = casam.json("fit", *SHORT)
    assert (final["run"], final["computed"]) == (scored["run"], False), "choosing on val costs no second fit"
    assert final["test"]["masks"] == 2


def test_decoder_tuning_is_a_method_like_any_other(casam: Casam, encoded: Path) -> None:
    report = casam.json("fit", "--task", "discs", "--method", "decoder", "--epochs", 1)
    assert report["method"] == "decoder"
    assert report["computed"]
    assert report["parameters"] > 0
    assert json.loads((casam.folder / report["run"] / "head.json").read_text())["head"] == {"name": "decoder"}


def test_the_model_is_needed_only_where_there_are_several(
    casam: Casam, encoded: Path, tiny_checkpoint: Path
) -> None:
    casam(
        "encode",
        encoded,
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
        "--name",
        "other",
        "--resize",
        "stretch",
    )
    casam("fit", *SHORT)
    assert casam.code == 1
    assert "--model" in casam.err
    assert "other" in casam.err
    assert "tiny" in casam.err
    reports = [casam.json("fit", *SHORT, "--model", name) for name in ("tiny", "other")]
    assert [report["model"] for report in reports] == ["tiny", "other"]
    assert reports[0]["run"] != reports[1]["run"]


def test_weights_do_not_depend_on_what_is_tested(casam: Casam, encode: Encode, tmp_path: Path) -> None:
    """Two datasets of equal training images and utterly different test images and masks."""
    reports = []
    for number in range(2):
        discs = draw_dataset(tmp_path / str(number) / "discs")
        if number:
            other = draw_dataset(tmp_path / "other", seed=5, size=(60, 60))
            for name in ("p004", "p005"):
                for folder in ("images", "masks"):
                    shutil.copy(other / folder / f"{name}.png", discs / folder / f"{name}.png")
        encode(discs, "--store", f"store{number}")
        reports.append(casam.json("fit", *SHORT, "--store", f"store{number}", "--runs", f"runs{number}"))
    assert all(report["computed"] for report in reports)
    assert Path(reports[0]["run"]).name == Path(reports[1]["run"]).name
    assert weights(casam, reports[0]) == weights(casam, reports[1])
    assert reports[0]["frozen"]["iou"] != reports[1]["frozen"]["iou"]


def test_training_reads_features_and_masks_of_the_train_split_alone(
    casam: Casam, encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    scoring: list[bool] = []
    features, bitmap = EmbeddingStore.read, Annotations.mask

    def spy_features(store: EmbeddingStore, index: int, *rest: Any) -> np.ndarray:
        if not scoring:
            read.add(store.ids[index])
        return features(store, index, *rest)

    def spy_bitmap(annotations: Annotations, mask: int) -> np.ndarray:
        if not scoring:
            rows = [row for row in range(len(annotations)) if mask in annotations.masks_of(row)]
            read.update(f"p{int(annotations.item[row]):03d}" for row in rows)
        return bitmap(annotations, mask)

    from casam_cache.bench.stages import evaluate as scored

    evaluate = scored.evaluate
    monkeypatch.setattr(EmbeddingStore, "read", spy_features)
    monkeypatch.setattr(Annotations, "mask", spy_bitmap)
    monkeypatch.setattr(scored, "evaluate", lambda *a, **k: (scoring.append(True), evaluate(*a, **k))[1])
    assert casam.json("fit", *SHORT)["computed"]
    assert scoring
    assert read == {"p000", "p002", "p003", "p006", "p007", "p008", "p009"}, "p001 has no mask to train on"


def test_interrupted_and_run_again_gives_the_same_bytes(
    casam: Casam, encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ("fit", "--task", "discs", "--epochs", 4, "--set", "blocks=1")
    whole = casam.json(*fit, "--runs", "whole")
    write, written = loop.write_checkpoint, []

    def interrupt(*arguments: Any) -> None:
        write(*arguments)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_checkpoint", interrupt)
    casam(*fit)
    assert casam.code == 130
    assert "goes on" in casam.err
    assert not list((casam.folder / "casam_runs").glob("fit/*")), "an unfinished fit is not among the runs"
    again = casam.json(*fit)
    assert again["computed"]
    record = json.loads((casam.folder / again["run"] / "record.json").read_text())
    assert record["recorded"]["fit"]["resumed_from"] == 2
    assert weights(casam, again) == weights(casam, whole)
    assert not list((casam.folder / "casam_runs" / "partial").iterdir())


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """`casam ARGUMENTS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from casam_cli.main import run; run()", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed_in_mid_training_and_run_again_gives_the_same_bytes(casam: Casam, encoded: Path) -> None:
    fit = ("fit", "--task", "discs", "--epochs", 100, "--set", "blocks=1", "--set", "batch_size=1")
    process = start(casam.folder, *fit)
    partial = casam.folder / "casam_runs" / "partial"
    deadline = time.monotonic() + 120
    while not list(partial.glob("*/checkpoints/checkpoint.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not list((casam.folder / "casam_runs").glob("fit/*")), "it was over before it could be killed"
    again = casam.json(*fit)
    record = json.loads((casam.folder / again["run"] / "record.json").read_text())
    assert 0 < record["recorded"]["fit"]["resumed_from"] < 100
    whole = casam.json(*fit, "--runs", "whole")
    assert weights(casam, again) == weights(casam, whole)


@pytest.mark.slow
def test_two_processes_fit_a_stage_once(casam: Casam, encoded: Path) -> None:
    fit = ("fit", "--task", "discs", "--epochs", 60, "--set", "blocks=1", "--json")
    reports = []
    for process in [start(casam.folder, *fit) for _ in range(2)]:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        reports.append(json.loads(out))
    assert sorted(report["computed"] for report in reports) == [False, True]
    assert {**reports[0], "computed": None} == {**reports[1], "computed": None}


def test_a_split_without_training_images_says_what_gives_it_some(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    table = discs / "split.csv"
    table.write_text(table.read_text().replace(",train,", ",test,").replace(",val,", ",test,"))
    encode(discs)
    casam("fit", *SHORT)
    assert casam.code == 1
    assert "task discs has no train images in" in casam.err
    assert "its split has 10 test, from split.csv" in casam.err
    assert "take it away and run `casam encode` on the dataset again with --test-fraction 0.3" in casam.err
    table.unlink()
    assert encode(discs, "--test-fraction", "0.3")["tasks"][0]["encoded"] == 0, "as it says"
    casam("fit", *SHORT)
    assert casam.code == 0
