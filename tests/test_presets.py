"""Presets of preprocessing against upstream's own steps, and how one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam
from skimage import transform

from casam_cache.backbones.preprocess import resize_cubic, stack_inputs
from casam_cache.backbones.presets import LITE_MEDSAM, MEDSAM, SAM, preset_of, preset_of_file
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore

SIZES = [(40, 60), (64, 64), (90, 31), (200, 170), (1, 9)]


def drawn(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + 3 * k)) * np.cos(columns / (4 + 2 * k)) for k in range(3)], axis=-1)
    noise = np.random.default_rng([height, width]).normal(0, 20, waves.shape)
    return np.clip(120 + 70 * waves + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_medsams_resize_is_scikit_images(size: tuple[int, int]) -> None:
    image = drawn(*size)
    geometry = Geometry.fit(*size, 64, 8, MEDSAM.resize)
    expected = transform.resize(image, (64, 64), order=3, preserve_range=True, anti_aliasing=True).astype(
        np.uint8
    )
    np.testing.assert_array_equal(resize_cubic(image, geometry), expected)


@pytest.mark.parametrize("size", SIZES)
def test_medsams_steps_on_the_same_pixels(size: tuple[int, int]) -> None:
    """MedSAM's inference: resize, min-max over the whole image, no mean, no padding; equal to 1e-5."""
    image = drawn(*size)
    resized = transform.resize(image, (64, 64), order=3, preserve_range=True, anti_aliasing=True).astype(
        np.uint8
    )
    expected = (resized - resized.min()) / np.clip(
        float(resized.max()) - resized.min(), a_min=1e-8, a_max=None
    )
    prepared = MEDSAM.prepare(image, Geometry.fit(*size, 64, 8, MEDSAM.resize))
    pixels, sizes = (torch.from_numpy(part) for part in stack_inputs([prepared], 64))
    found = MEDSAM.normalise(pixels, sizes)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_minmax_sees_the_image_and_not_what_lies_beside_it() -> None:
    pixels = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    pixels[0, :, :4] = 100
    pixels[0, 0, 0, 0], pixels[0, 1, 2, 3] = 50, 150
    pixels[1] = 7  # without range: zeros, not NaN
    found = LITE_MEDSAM.normalise(pixels, torch.tensor([[4, 8], [8, 8]]))
    assert found[0, 0, 1, 1] == 0.5
    assert (found[0, 0, 0, 0], found[0, 1, 2, 3]) == (0, 1)
    assert (found[0, :, 4:] == 0).all()
    assert (found[1] == 0).all()


def test_sams_own_preset_names_nothing_new() -> None:
    """Stores made before there were presets are stores of it."""
    assert "preset" not in SAM.describe()
    for preset in (SAM, MEDSAM, LITE_MEDSAM):
        assert preset_of(preset.describe()) is preset
    assert preset_of({"interpolation": "something of one's own"}) is None


@pytest.mark.parametrize(
    ("name", "preset"),
    [("medsam_vit_b.pth", MEDSAM), ("MedSAM-finetuned.pt", MEDSAM), ("lite_medsam.pth", LITE_MEDSAM),
     ("LiteMedSAM_best.pth", LITE_MEDSAM), ("sam_vit_b_01ec64.pth", None), ("mine.pth", None)],
)  # fmt: skip
def test_what_a_files_name_tells(name: str, preset: Any) -> None:
    assert preset_of_file(Path("models/medsam") / name) is preset


def preprocessing(casam: Casam, name: str) -> dict[str, Any]:
    store = EmbeddingStore.open(casam.folder / "casam_store" / "discs" / f"{name}.zarr")
    found: dict[str, Any] = store.identity["preprocessing"]
    return found


def test_a_preset_is_said_and_stays(casam: Casam, discs: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """By name, by option, by what the store was begun with; never a silent guess."""
    named = tmp_path / "medsam_tiny.safetensors"
    named.write_bytes(tiny_checkpoint.read_bytes())
    casam("encode", discs, "--model", "small", "--checkpoint", named, "--name", "med")
    assert "medsam_tiny.safetensors: preprocessing of 'medsam', as its name tells" in casam.err
    assert preprocessing(casam, "med")["preset"] == "medsam"
    assert preprocessing(casam, "med")["resize"] == "stretch"

    casam("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "plain")
    assert (
        "preprocessing of 'sam', as small's own weights are (--preprocess names another: medsam" in casam.err
    )
    assert "preset" not in preprocessing(casam, "plain")

    lite = ("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "lite")
    casam(*lite, "--preprocess", "lite_medsam")
    (discs / "images" / "new.png").write_bytes((discs / "images" / "p004.png").read_bytes())
    with (discs / "split.csv").open("a") as split:
        split.write("new,train,patient9\n")
    (discs / "masks" / "new.png").write_bytes((discs / "masks" / "p004.png").read_bytes())
    casam(*lite)  # goes on as the store was begun
    assert casam.code == 0
    assert preprocessing(casam, "lite")["preset"] == "lite_medsam"
    store = EmbeddingStore.open(casam.folder / "casam_store" / "discs" / "lite.zarr")
    np.testing.assert_array_equal(store.read(store.index("new")), store.read(store.index("p004")))
    casam(*lite, "--preprocess", "medsam")
    assert casam.code == 1
    assert "preset" in casam.err or "preprocessing" in casam.err


def test_a_wrong_preset_is_refused(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    casam(
        "encode",
        discs,
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
        "--name",
        "x",
        "--preprocess",
        "imagenet",
    )
    assert casam.code == 1
    assert "lite_medsam" in casam.err
    assert not (casam.folder / "casam_store" / "discs").exists()


def test_a_prediction_sees_what_the_store_saw(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    """Under another preset the frozen model would predict another mask from the run than evaluation scored."""
    casam(
        "encode",
        discs,
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
        "--name",
        "med",
        "--preprocess",
        "medsam",
    )
    run = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")["run"]
    from casam_cache.bench.predict import Predictor

    predictor = Predictor(casam.folder / run)
    assert predictor.set_image(discs / "images" / "p004.png").predict(boxes=(5, 5, 20, 20)).mask.shape == (
        48,
        40,
    )
    assert predictor._opened.backbone.preset is MEDSAM  # type: ignore[attr-defined]
