"""Encoders that a run has trained, as stores of their own: `casam encode --run`."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Casam
from test_image_mode import SHORT

from casam_cache.encode.sources import whole_backbone
from casam_cache.errors import CheckpointError
from casam_cache.store import EmbeddingStore, find_stores


@pytest.fixture
def encoded(encode: Callable[..., Any], discs: Path) -> Path:
    encode(discs, "--resize", "stretch")
    return discs


def tuned(casam: Casam, encoded: Path, method: str) -> tuple[dict[str, Any], Path]:
    """The report of a fit, and the store that its encoder makes."""
    report = casam.json("fit", *SHORT, "--method", method)
    made = casam.json("encode", encoded, "--run", report["run"], "--store", "tuned")
    assert casam.code == 0, casam.err
    return report, Path(made["tasks"][0]["store"])


@pytest.mark.parametrize(
    "method",
    ["sam-full", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sam-lora", "sam-med2d"))],
)
def test_a_tuned_encoder_makes_a_store_on_which_its_decoder_scores_as_the_fit_did(
    casam: Casam, encoded: Path, method: str
) -> None:
    report, path = tuned(casam, encoded, method)
    key = Path(report["run"]).name
    assert path.name == f"small-{method}-{key[:8]}.zarr"
    store, frozen = EmbeddingStore.open(path), EmbeddingStore.open(Path("casam_store/discs/tiny.zarr"))
    assert store.identity["preprocessing"] == frozen.identity["preprocessing"]
    assert store.identity["preprocessing"]["resize"] == "stretch"
    weights = store.identity["backbone"]["weights"]
    assert weights != frozen.identity["backbone"]["weights"]
    said = store.identity["backbone"]["architecture"]["tuned"]
    assert said == {"method": method, "run": f"fit/{key}", "from": frozen.identity["backbone"]["weights"]}
    assert (torch.from_numpy(store.read(0) - frozen.read(0)).abs() > 1e-2).any()

    row = casam.json("bench", "--methods", "frozen", "--store", "tuned", "--runs", "again")["results"][0]
    assert row["last_iou"] == pytest.approx(report["test"]["iou"], abs=0.005)
    assert row["last_iou"] != pytest.approx(report["frozen"]["iou"], abs=0.005)
    backbone = whole_backbone(Path("tuned"), weights)
    assert backbone.fingerprint == weights
    assert backbone.encoder is not None
    assert "blocks.0.attn.qkv.weight" in backbone.encoder.state_dict()  # whole, as casam export writes it
    began = whole_backbone(Path("casam_store"), frozen.identity["backbone"]["weights"])
    assert (backbone.encoder_flops() > began.encoder_flops()) == (method == "sam-med2d")
    if method == "sam-lora":  # what is tuned can be tuned again
        again = casam.json("fit", *SHORT, "--method", "sam-full", "--store", "tuned")
        assert casam.code == 0, casam.err
        assert again["frozen"]["iou"] == pytest.approx(report["test"]["iou"], abs=0.005)

    assert (
        casam.json("encode", encoded, "--run", report["run"], "--store", "tuned")["tasks"][0]["encoded"] == 0
    )
    shutil.rmtree(report["run"])
    with pytest.raises(CheckpointError, match=rf"the checkpoint that .* is not there: .*{key}"):
        whole_backbone(Path("tuned"), weights)


def test_a_tuned_store_is_the_reference_of_table_4(casam: Casam, encoded: Path) -> None:
    tuned(casam, encoded, "sam-full")
    recipe = Path(__file__).parent.parent / "recipes" / "table4_cpu.yaml"
    casam("bench", "--recipe", recipe, "--reference", "tuned", "--set", "max_steps=4", "--set", "held_out=0")
    assert casam.code == 0, casam.err
    text = casam("report", "casam_runs", "--table", "table4")
    assert casam.code == 0, casam.err
    assert text.count("Before vs Adapter") > 2  # the paper's two, and ours
    for folder in ("one", "two"):
        casam("report", "casam_runs", "--table", "table4", "--out", folder)
        assert casam.code == 0, casam.err
    names = [f"table4_figure5.{form}" for form in ("svg", "png", "csv")]
    assert all(Path("one", name).read_bytes() == Path("two", name).read_bytes() for name in names)
    lines = list(csv.DictReader(Path("one/table4_figure5.csv").read_text().splitlines()))
    sets = {line["features"] for line in lines}
    assert sets == {"frozen", "alignment", "tuned (sam-full)"}
    images = {line["image"] for line in lines}
    assert images == {"p004", "p005"}  # the test split
    assert len({(line["x"], line["y"]) for line in lines}) == len(sets) * len(images)
    svg = Path("one/table4_figure5.svg").read_text()
    assert all(word in svg for word in (*sets, "discs"))


def test_what_has_no_encoder_of_its_own_is_refused_in_one_line(casam: Casam, encoded: Path) -> None:
    report = casam.json("fit", *SHORT, "--method", "sam-decoder")
    aligned = casam.json("fit", *SHORT, "--method", "alignment")
    scored = Path("casam_runs/evaluate")
    refused = {
        report["run"]: "has no encoder of its own: sam-decoder trains behind the frozen one",
        aligned["run"]: "has no encoder of its own: alignment trains behind the frozen one",
        next(scored.iterdir()): "holds no encoder: it is a stage of kind 'evaluate'",
        "casam_runs/fit/gone": "is not the folder of a finished run: it is gone, or never was",
    }
    for run, told in refused.items():
        casam("encode", encoded, "--run", run, "--store", "tuned")
        assert casam.code == 1
        assert told in " ".join(casam.err.split())
        assert "Traceback" not in casam.err
    casam("encode", encoded, "--run", report["run"], "--model", "vit_b")
    assert casam.code == 1
    assert not Path("tuned").exists() or not find_stores(Path("tuned"))
    full = casam.json("fit", *SHORT, "--method", "sam-full")
    casam("encode", encoded, "--run", full["run"], "--model", "vit_b")
    assert "--model says what --run says already" in " ".join(casam.err.split())
