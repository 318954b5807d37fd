"""Views: pixels, masks, prompts and geometry move together; `casam encode --views` stores their embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Casam
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.cutout import Cutout
from casam_cache.datasets import interior_point, mask_box
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore
from casam_cache.views import View, parse_views, view_of

Encode = Callable[..., Any]
NAMES = ["flip_h", "flip_v", "rot90", "rot180", "rot270", "scale50"]
OTHERS = ["ccw10", "cw33", "ccw45", "crop60", "gamma70"]


def tree(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_prompts_move_with_pixels(name: str, height: int, width: int, seed: int) -> None:
    view, rng = View(name), np.random.default_rng(seed)
    pixels = rng.random((height, width))
    shown = view.image(pixels)
    y, x = rng.integers(height), rng.integers(width)
    column, row = view.points(np.array([x, y]), height, width)
    assert shown[row, column] == pixels[y, x]
    mask = rng.random((height, width)) < 0.3
    mask[y, x] = True
    moved = view.boxes(np.array(mask_box(mask), dtype=np.float32), height, width)
    np.testing.assert_array_equal(moved, mask_box(view.image(mask)))
    inside = view.points(np.array(interior_point(mask)), height, width).astype(int)
    assert view.image(mask)[inside[1], inside[0]]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*NAMES, *OTHERS]), st.integers(12, 30), st.integers(12, 30), st.integers(0, 2**32 - 1)
)
def test_a_mask_goes_where_the_image_goes(name: str, height: int, width: int, seed: int) -> None:
    """A bright rectangle on black, its mask, and its box as the view shows them."""
    view, rng = View(name), np.random.default_rng(seed)
    top, left = int(rng.integers(height - 6)), int(rng.integers(width - 6))
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + 6, left : left + 6] = True
    found = view.mask(Cutout.of(mask).tight())
    assert found.size == view.size(height, width) == view.image(mask.astype(np.uint8)).shape
    shown = view.image(np.where(mask, 255, 0).astype(np.uint8)) > 127
    if found.area:
        apart = np.argwhere(shown).mean(0) - np.argwhere(found.bitmap).mean(0)
        assert (np.abs(apart) <= (0.75 if "cw" in name else 0)).all()
        assert found.area == pytest.approx(np.count_nonzero(shown), abs=8 if "cw" in name else 0)
    box = view.boxes(Cutout.of(mask).tight().box, height, width)
    if view.keeps(Cutout.of(mask).tight().box, height, width):
        inner = found.tight().box
        slack = 0.75 if "cw" in name else 0  # half the diagonal of a pixel, and a little
        assert (box[:2] - slack <= inner[:2]).all()
        assert (inner[2:] <= box[2:] + slack).all()
    else:
        assert found.area < 36
    single = np.zeros((height, width), dtype=bool)
    single[top, left] = True
    assert "crop" in name or view.mask(Cutout.of(single).tight()).area >= 1


@pytest.mark.parametrize("name", ["ccw10", "cw20"])
def test_small_turns_turn_as_the_large_ones_do(name: str) -> None:
    """By 10 or 20 degrees and back is where it was, and the corners of the canvas count nowhere."""
    y, x = np.mgrid[:40, :60]
    pixels = (120 + 60 * np.sin(x / 14) * np.cos(y / 10)).astype(np.uint8)
    view, back = View(name), View(name.replace("ccw", "cw") if "ccw" in name else name.replace("cw", "ccw"))
    twice = back.image(view.image(pixels))
    rows, columns = (twice.shape[0] - 40) // 2, (twice.shape[1] - 60) // 2
    middle = twice[rows + 2 : rows + 38, columns + 2 : columns + 58].astype(int)
    offsets = [np.abs(middle - pixels[2 + a : 38 + a, 2 + b : 58 + b]).mean() for a in (0, 1) for b in (0, 1)]
    assert min(offsets) < 3
    assert np.abs(back.image(back.image(pixels))[:40, :60].astype(int) - pixels).mean() > 15
    ignored = view.ignored(None, 40, 60)
    assert ignored is not None
    assert ignored[0, 0]
    assert np.count_nonzero(~ignored) == pytest.approx(2400, rel=0.02)
    assert View("flip_h").ignored(None, 40, 60) is None
    turned, quarter = (
        View("ccw45").points(np.array([59.0, 0.0]), 40, 60),
        View("rot90").points(np.array([59.0, 0.0]), 40, 60),
    )
    assert quarter[0] == 0
    assert turned[0] < View("ccw45").size(40, 60)[1] * 0.75


def test_brightness_leaves_black_and_white() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    for name, sign in (("gamma50", 1), ("gamma200", -1)):
        found = View(name).image(levels).astype(int) - levels
        assert found[0, 0] == found[0, 255] == 0
        assert (sign * found[0, 5:250] > 0).all()


@pytest.mark.parametrize("mode", ["longest", "stretch"])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_geometry_is_that_of_the_view(name: str, mode: str) -> None:
    original = Geometry.fit(37, 53, 64, 8, mode)
    view = View(name)
    found = view.geometry(original)
    height, width = view.image(np.zeros((37, 53), dtype=np.uint8)).shape
    assert (found.height, found.width) == (height, width)
    if name == "scale50":
        assert (found.input_height, found.input_width) == ((23, 32) if mode == "longest" else (32, 32))
        assert found.to_input(np.array([52.0, 36.0])).max() < 32
    else:
        assert found == Geometry.fit(height, width, 64, 8, mode)


def test_names() -> None:
    assert [view.name for view in parse_views(" rot90, flip_h,,rot90,none")] == ["flip_h", "rot90"]
    assert parse_views("none") == ()
    assert View("scale75").array == "view_scale75"
    assert view_of("view_rot90") == View("rot90")
    assert view_of("early") is None
    for name in ("rot45", "scale5", "scale100", "flip", "ccw0", "cw46", "crop40", "gamma100", "gamma5"):
        with pytest.raises(OptionError, match=f"unknown view '{name}'"):
            parse_views(name)


def expected(path: Path, view: View) -> np.ndarray:
    image = np.asarray(Image.open(path).convert("RGB"))
    geometry = view.geometry(Geometry.fit(*image.shape[:2], TINY.image_size, TINY.patch_size))
    pixels, sizes = stack_inputs([resize_for_encoder(view.image(image), geometry)], TINY.image_size)
    encoder = FrozenEncoder(seeded_backbone(TINY, 7), "fp32")
    return encoder(torch.from_numpy(pixels), torch.from_numpy(sizes))["embedding"][0].half().numpy()


def test_each_view_is_an_array_that_can_be_added_later(casam: Casam, encode: Encode, discs: Path) -> None:
    store = Path(encode(discs)["tasks"][0]["store"])
    before = tree(store)
    report = encode(discs, "--views", "rot90,flip_h,scale50")["tasks"][0]
    assert (report["encoded"], report["skipped"]) == (10, 0)
    after = tree(store)
    assert {file for file in before if before[file] != after[file]} == {"zarr.json", "mirror/zarr.json"}
    opened = EmbeddingStore.open(store)
    assert list(opened.arrays) == ["embedding", "view_flip_h", "view_rot90", "view_scale50"]
    for name in ("flip_h", "rot90", "scale50"):
        found = opened.read(3, View(name).array)
        np.testing.assert_array_equal(found, expected(discs / opened.paths[3], View(name)))
        assert not np.array_equal(found, opened.read(3))
    assert encode(discs, "--views", "rot90")["tasks"][0]["encoded"] == 0
    assert encode(discs, "--store", "once", "--views", "flip_h,rot90,scale50")["tasks"][0]["encoded"] == 10
    assert tree(casam.folder / "once" / "discs" / "tiny.zarr") == after
    assert casam.json("store", "verify", store)["bad"] == []


def test_new_and_changed_images_get_their_views(casam: Casam, encode: Encode, discs: Path) -> None:
    views = ("--views", "flip_v")
    store = Path(encode(discs, *views)["tasks"][0]["store"])
    for folder in ("images", "masks"):
        shutil.copy(discs / folder / "p003.png", discs / folder / "z_new.png")
    with (discs / "split.csv").open("a") as file:
        file.write("z_new,train,patient9\n")
    assert encode(discs, *views)["tasks"][0]["encoded"] == 1
    opened = EmbeddingStore.open(store)
    np.testing.assert_array_equal(opened.read(10, "view_flip_v"), opened.read(3, "view_flip_v"))
    Image.fromarray(np.full((48, 40, 3), 200, np.uint8)).save(discs / "images" / "p003.png")
    encode(discs, *views, "--update")
    again = EmbeddingStore.open(store)
    assert not np.array_equal(again.read(3, "view_flip_v"), opened.read(10, "view_flip_v"))
    np.testing.assert_array_equal(
        again.read(3, "view_flip_v"), expected(discs / "images" / "p003.png", View("flip_v"))
    )


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_damaged_views_are_mended(casam: Casam, encode: Encode, discs: Path, dtype: str) -> None:
    options = ("--views", "flip_h,rot90", "--dtype", dtype)
    store = Path(encode(discs, *options)["tasks"][0]["store"])
    whole = tree(store)
    for part in ("view_rot90", "embedding", "pooled"):
        file = next((store / part).glob("c.*"))
        data = bytearray(file.read_bytes())
        data[2] ^= 4
        file.write_bytes(data)
    assert casam.json("store", "repair", store, discs)["repaired"] == 10, "pooled rows are lost together"
    assert tree(store) == whole


def test_an_unknown_view_is_refused(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    casam(
        "encode",
        discs,
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
        "--name",
        "tiny",
        "--views",
        "rot45",
    )
    assert casam.code == 1
    assert "rot45" in casam.err
    assert "rot90" in casam.err


def test_a_dry_run_counts_views(encode: Encode, discs: Path) -> None:
    one = encode(discs, "--dry-run")["tasks"][0]["store_bytes"]
    assert encode(discs, "--dry-run", "--views", "flip_h,rot90")["tasks"][0]["store_bytes"] == 3 * one
