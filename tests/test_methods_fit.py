"""`casam fit` with methods that need more than the embedding: refused with the command that helps, then run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from PIL import Image

Encode = Callable[..., Any]
SHORT = ("--task", "discs", "--epochs", 1)


def test_hq_sam_wants_early_features_and_says_how_to_get_them(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    encode(discs)
    casam("fit", *SHORT, "--method", "hq-sam")
    assert casam.code == 1
    assert "early" in casam.err
    assert "casam encode" in casam.err
    assert "--with early" in casam.err
    assert not (casam.folder / "casam_runs").exists()
    encode(discs, "--with", "early")
    report = casam.json("fit", *SHORT, "--method", "hq-sam")
    assert casam.code == 0
    assert (report["method"], report["computed"], report["test"]["masks"]) == ("hq-sam", True, 2)
    described = json.loads((casam.folder / report["run"] / "head.json").read_text())
    assert described["head"]["name"] == "hq-sam"
    assert described["parameters"] == report["parameters"]


def test_a_fitted_hq_sam_predicts_as_it_is_evaluated(casam: Casam, encode: Encode, discs: Path) -> None:
    from casam_cache.bench.predict import Predictor
    from casam_cache.metrics.overlap import iou
    from casam_cache.store import EmbeddingStore
    from casam_cache.training.outcomes import read_outcomes

    encode(discs, "--with", "early")
    report = casam.json("fit", *SHORT, "--method", "hq-sam")
    outcomes = read_outcomes(casam.folder / report["outcomes"])
    annotations = EmbeddingStore.open(casam.folder / "casam_store" / "discs" / "tiny.zarr").annotations
    predictor = Predictor(casam.folder / report["run"], device="cpu")
    for name, expected in zip(outcomes.item, outcomes.scores["iou"], strict=True):
        row = next(r for r in range(len(annotations)) if int(annotations.item[r]) == int(name[1:]))
        (mask,) = annotations.masks_of(row)
        found = predictor.set_image(discs / "images" / f"{name}.png").predict(boxes=annotations.box[mask])
        truth = np.array(Image.open(discs / "masks" / f"{name}.png")) > 0
        assert found.head == "hq-sam"
        assert iou(found.mask, truth) == pytest.approx(expected, abs=1e-3)
