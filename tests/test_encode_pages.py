"""Stores of pages and channels: what is taken of a file is kept, said when it changes, and repaired as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Casam
from PIL import Image

from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]
RNG = np.random.default_rng(2)


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """Four images of five bands."""
    root = tmp_path / "bands"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 10:30] = 255
    for number in range(4):
        five = RNG.integers(0, 4096, (40, 50, 5), dtype=np.uint16)
        tifffile.imwrite(
            root / "images" / f"{number}.tif", five, photometric="rgb", extrasamples=["unspecified"] * 2
        )
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


def test_images_that_were_refused_are_encoded_once_it_is_said_how(
    casam: Casam, encode: Encode, bands: Path
) -> None:
    casam("encode", bands, "--model", "small", "--store", "other")
    assert casam.code == 1
    encode(bands, "--channels", "1,2,3", "--store", "whole")
    refused = encode(bands)
    assert "error" in refused
    report = encode(bands, "--channels", "1,2,3")["tasks"][0]
    assert (report["encoded"], report["failed"]) == (4, 0)
    mended, whole = (
        EmbeddingStore.open(casam.folder / name / "bands" / "tiny.zarr") for name in ("casam_store", "whole")
    )
    for index in range(4):
        np.testing.assert_array_equal(mended.read(index), whole.read(index))
    again = encode(bands)["tasks"][0]
    assert (again["encoded"], again["failed"]) == (0, 0), "a store keeps how it was read"


def test_other_channels_are_refused_or_encoded_again(casam: Casam, encode: Encode, bands: Path) -> None:
    encode(bands, "--channels", "1,2,3")
    store = casam.folder / "casam_store" / "bands" / "tiny.zarr"
    before = EmbeddingStore.open(store).read(0).copy()
    encode(bands, "--channels", "4")
    assert casam.code == 1
    assert "4 images are read in another way than they were encoded: 0, 1, 2, 3" in casam.err
    assert "(of images/0.tif channel 4 counts now, channel 1, 2, 3 did)" in casam.err
    report = encode(bands, "--channels", "4", "--update")["tasks"][0]
    assert report["encoded"] == 4
    assert not np.array_equal(EmbeddingStore.open(store).read(0), before)
    whole = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    shard = max((path for path in whole if "embedding" in str(path)), key=lambda path: len(whole[path]))
    shard.write_bytes(whole[shard][: len(whole[shard]) // 2])
    casam("store", "repair", store, bands)
    assert casam.code == 0
    assert shard.read_bytes() == whole[shard]


def test_each_page_is_an_image(casam: Casam, encode: Encode, tmp_path: Path) -> None:
    root = tmp_path / "stacks"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(3):
        pages = np.zeros((5, 40, 50), np.uint8)
        for page in range(5):
            pages[page, 5 + page : 20, 5:30] = 255
        image = RNG.integers(0, 256, (5, 40, 50), dtype=np.uint8)
        tifffile.imwrite(root / "images" / f"{number}.tif", image, photometric="minisblack")
        tifffile.imwrite(root / "masks" / f"{number}.tif", pages, photometric="minisblack")
    report = encode(root, "--pages", "all")["tasks"][0]
    assert (report["encoded"], report["masks"], report["failed"]) == (15, 15, 0)
    store = EmbeddingStore.open(report["store"])
    assert store.ids[:6] == ["0#1", "0#2", "0#3", "0#4", "0#5", "1#1"]
    again = encode(root)["tasks"][0]
    assert (again["encoded"], again["skipped"]) == (0, 15)
    stack = tifffile.imread(root / "images" / "1.tif")
    stack[2] = 255 - stack[2]
    tifffile.imwrite(root / "images" / "1.tif", stack, photometric="minisblack")
    encode(root)
    assert "1 images have changed since they were encoded: 1#3" in casam.err
    assert encode(root, "--update")["tasks"][0]["failed"] == 0
