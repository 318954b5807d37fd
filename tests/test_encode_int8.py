"""`casam encode --dtype int8`: the same features in half the bytes, through training, evaluation and repair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam

from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]


def tree(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.fixture
def small(casam: Casam, encode: Encode, discs: Path) -> Path:
    """The store of the discs in int8."""
    return casam.folder / encode(discs, "--dtype", "int8")["tasks"][0]["store"]


def test_features_and_the_error_they_report(
    casam: Casam, encode: Encode, small: Path, discs: Path, tiny_checkpoint: Path
) -> None:
    casam(
        "encode",
        discs,
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
        "--name",
        "exact",
        "--with",
        "early,tokens",
    )
    exact = EmbeddingStore.open(small.with_name("exact.zarr"))
    assert encode(discs, "--with", "early,tokens")["tasks"][0]["encoded"] == 10, "its dtype is kept"
    store = EmbeddingStore.open(small)
    assert {name: spec.dtype.name for name, spec in store.arrays.items()} == {
        "embedding": "int8", "early": "int8", "tokens": "float16",
    }  # fmt: skip
    for name in store.arrays:
        wanted, found = exact.read(3, name).astype(np.float64), store.read(3, name)
        assert np.abs(found - wanted).max() <= np.ptp(wanted) / 500
    np.testing.assert_array_equal(store.pooled, exact.pooled)
    np.testing.assert_array_equal(store.read(3, "tokens"), exact.read(3, "tokens"))
    report = casam.json("store", "info", small, "--compare", exact.path)
    errors = report["quantisation"]
    assert errors.keys() == {"embedding", "early"}
    assert 1e-4 < errors["embedding"]["rms"] <= errors["embedding"]["worst_rms"] < 2e-2
    assert report["compare"]["masks"] == 9
    assert abs(report["compare"]["difference"]) < 0.05
    assert report["dtype"] == "float16"
    assert report["identity"]["embedding"]["dtype"] == "int8"
    shown = casam("store", "info", small, "--compare", exact.path)
    assert "embedding as int8" in shown
    assert "over 9 masks" in shown
    assert casam.json("store", "info", exact.path)["quantisation"] == {}


def test_stores_of_other_images_are_not_compared(
    casam: Casam, small: Path, discs: Path, tiny_checkpoint: Path
) -> None:
    image = discs / "images" / "p003.png"
    image.write_bytes((discs / "images" / "p004.png").read_bytes())
    casam("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "exact")
    casam("store", "info", small, "--compare", small.with_name("exact.zarr"))
    assert casam.code == 1
    assert "same images with the same masks" in casam.err


def test_another_dtype_is_refused(casam: Casam, small: Path, discs: Path, tiny_checkpoint: Path) -> None:
    before = tree(small)
    casam(
        "encode",
        discs,
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
        "--name",
        "tiny",
        "--dtype",
        "float16",
    )
    assert casam.code == 1
    assert "embedding.dtype" in casam.err
    assert tree(small) == before


def test_it_takes_half_the_bytes_and_says_so_before(casam: Casam, encode: Encode, discs: Path) -> None:
    exact = encode(discs, "--dry-run")["tasks"][0]["store_bytes"]
    assert encode(discs, "--dry-run", "--dtype", "int8")["tasks"][0]["store_bytes"] == exact // 2


@pytest.mark.parametrize("part", ["embedding", "embedding_scale", "embedding_error", "commit/embedding"])
def test_damage_is_mended(casam: Casam, small: Path, discs: Path, part: str) -> None:
    whole = tree(small)
    file = next((small / part).glob("c.*"))
    data = bytearray(file.read_bytes())
    data[2] ^= 4
    file.write_bytes(data)
    assert casam.json("store", "verify", small)["bad"]
    assert casam.json("store", "repair", small, discs)["repaired"] == (0 if part.startswith("commit") else 1)
    assert tree(small) == whole


def test_training_evaluation_and_prediction_run_on_it(casam: Casam, small: Path, discs: Path) -> None:
    report = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
    assert casam.code == 0
    image = discs / "images" / "p004.png"
    assert "mask" in casam.json("predict", image, "--box", "5,5,20,20", "--run", report["run"])
