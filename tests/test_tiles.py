"""Large images cut into tiles: the grid, pixels read by region, and samples that stay together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from casam_cache.datasets import DatasetOptions, load_image, read_dataset, read_image, read_masks
from casam_cache.datasets.images import load_array, read_pixels
from casam_cache.datasets.label_volumes.sources import volume_source
from casam_cache.datasets.tile_window import tile_window
from casam_cache.datasets.tiles import Grid
from casam_cache.errors import DatasetError, ImageError, OptionError
from casam_cli.predict_large import large_image

RNG = np.random.default_rng(2)
SIZE = (150, 210)
TILE = "#tile=37,21,96,80"
HERE = (slice(21, 101), slice(37, 133))


@given(st.integers(16, 60), st.data(), st.integers(1, 400), st.integers(1, 400))
def test_cores_are_the_image_and_lie_in_their_tiles(
    side: int, data: st.DataObject, height: int, width: int
) -> None:
    grid = Grid(side, data.draw(st.integers(0, side // 2)))
    seen = np.zeros((height, width), int)
    for tile in grid.tiles((height, width)):
        assert (tile.width, tile.height) == (min(side, width), min(side, height))
        rows, columns = tile.core_inside
        assert 0 <= rows.start < rows.stop <= tile.height
        assert 0 <= columns.start < columns.stop <= tile.width
        x, y, wide, tall = tile.core
        assert (rows.start + tile.y, columns.start + tile.x) == (y, x)
        seen[y : y + tall, x : x + wide] += 1
    assert (seen == 1).all()


def test_the_last_tile_ends_with_the_image_and_neighbours_overlap() -> None:
    spans = [(start, low, count) for start, _, low, count in Grid(100, 20).spans(310)]
    assert spans == [(0, 0, 90), (80, 90, 80), (160, 170, 65), (210, 235, 75)]
    assert not Grid(100, 20).cuts((100, 100))
    for tile, overlap in ((None, 8), (8, 0), (64, 33), (64, -1)):
        with pytest.raises(OptionError):
            Grid.of(tile, overlap)
    assert Grid.of(1024, None) == Grid(1024, 128)


def colours() -> np.ndarray:
    return RNG.integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def deep(kind: type = np.uint16) -> np.ndarray:
    return RNG.integers(0, 60_000, SIZE).astype(kind)


def tif(**options: object) -> Callable[[Path, np.ndarray], None]:
    return lambda path, array: tifffile.imwrite(path, array, **options)


def pyramid(path: Path, array: np.ndarray) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        shape = {"tile": (32, 48), "compression": "deflate", "photometric": "rgb"}
        file.write(array, subifds=1, **shape)
        file.write(array[::2, ::2], subfiletype=1, **shape)


def pages(path: Path, array: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as file:
        for level in (1, 2, 4):
            part = array[::level, ::level]
            file.write(part, subfiletype=int(level > 1), tile=(32, 48), compression="lzw", photometric="rgb")


def turned(path: Path, array: np.ndarray) -> None:
    tifffile.imwrite(path, array, photometric="rgb", extratags=[(274, "H", 1, 6, True)])


KINDS = {
    "tiled": (colours, tif(tile=(32, 48), compression="deflate", photometric="rgb"), True),
    "pyramid": (colours, pyramid, True),
    "pages of a pyramid": (colours, pages, True),
    "strips": (deep, tif(rowsperstrip=7, compression="lzw", photometric="minisblack"), True),
    "uncompressed": (deep, tif(photometric="minisblack"), True),
    "big-endian": (
        lambda: deep(np.float32),
        tif(byteorder=">", tile=(32, 32), predictor=True, compression="deflate"),
        True,
    ),
    "planar": (
        lambda: np.moveaxis(colours(), -1, 0),
        tif(planarconfig="separate", photometric="rgb", tile=(64, 64)),
        True,
    ),
    "white is zero": (
        lambda: RNG.random(SIZE) < 0.5,
        tif(photometric="miniswhite", tile=(32, 32), compression="deflate"),
        True,
    ),
    "turned": (colours, turned, False),
    "png": (colours, lambda path, array: Image.fromarray(array).save(path, "PNG"), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_is_that_part_of_the_whole_image(kind: str, tmp_path: Path) -> None:
    drawn, write, by_region = KINDS[kind]
    path = tmp_path / "a.tif"
    write(path, drawn())
    whole = read_pixels(path)
    tile = read_pixels(path.with_name(path.name + TILE))
    assert tile.array.dtype == whole.array.dtype
    assert np.array_equal(tile.array, whole.array[HERE])
    small = path.with_name(path.name + "#tile=0,0,32,32")
    if by_region:  # far fewer pixels are decoded than the image has
        assert read_pixels(small, max_pixels=5_000).array.shape[:2] == (32, 32)
    else:
        with pytest.raises(ImageError, match="more than the limit"):
            read_pixels(small, max_pixels=5_000)
    with pytest.raises(ImageError, match="no tile of 96 x 80 pixels at 200, 0"):
        read_pixels(path.with_name(path.name + "#tile=200,0,96,80"))


def test_a_lossy_tile_is_that_part_of_the_whole_image_but_for_rounding(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(150), np.arange(210))[..., None].repeat(3, axis=2) // 2
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth.astype(np.uint8), tile=(64, 64), compression="jpeg", photometric="rgb")
    whole, tile = load_array(path), load_array(path.with_name(path.name + TILE))
    assert np.abs(tile.astype(int) - whole[HERE]).max() <= 2


def test_all_tiles_of_a_deep_image_have_its_window(tmp_path: Path) -> None:
    from casam_cache.datasets.images import window_of

    values = deep()
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, tile=(32, 32), compression="deflate", photometric="minisblack")
    assert tile_window(path.with_name(path.name + TILE)) == pytest.approx(window_of(values), rel=1e-12)
    assert tile_window(path.with_name(path.name + TILE), full=True) == (values.min(), values.max())
    tifffile.imwrite(path, values.astype(np.float32), tile=(32, 32), photometric="minisblack")
    with pytest.raises(ImageError, match="a window that is the same for all"):
        tile_window(path.with_name(path.name + TILE))


def draw_slides(root: Path, sizes: dict[str, tuple[int, int]], suffix: str = "tif") -> Path:
    """Discs of numbers from 1 on slides of those sizes."""
    for index, (name, size) in enumerate(sizes.items()):
        rng = np.random.default_rng(index)
        labels = np.zeros(size, np.uint8)
        y, x = np.mgrid[: size[0], : size[1]]
        for number in range(1, 9):
            row, column, radius = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(4, 16)
            labels[((y - row) ** 2 + (x - column) ** 2 < radius**2) & (labels == 0)] = number
        picture = (200 - 90 * (labels[..., None] > 0) + rng.integers(-20, 20, (*size, 3))).astype(np.uint8)
        for folder, array in (("images", picture), ("masks", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            path = root / folder / f"{name}.{suffix}"
            if suffix == "tif":
                kind = "rgb" if array.ndim == 3 else "minisblack"
                tifffile.imwrite(path, array, tile=(32, 32), compression="deflate", photometric=kind)
            else:
                Image.fromarray(array).save(path)
    return root


SLIDES = {"a": (150, 210), "b": (120, 100), "c": (60, 64), "d": (130, 90), "e": (90, 170)}


def test_tiles_are_samples_with_the_split_and_group_of_their_image(tmp_path: Path) -> None:
    root = draw_slides(tmp_path / "cells", SLIDES)
    dataset = read_dataset(root, DatasetOptions(masks="instances", tile=64, overlap=16, tiles="all"))
    by_image: dict[str, set[tuple[str, str]]] = {}
    for sample in dataset.samples:
        by_image.setdefault(sample.id.partition("#")[0], set()).add((sample.split, sample.group))
    assert {name: len(found) for name, found in by_image.items()} == dict.fromkeys(SLIDES, 1)
    assert {next(iter(found))[0] for found in by_image.values()} == {"train", "test"}
    ids = [sample.id for sample in dataset.samples]
    assert "c" in ids  # small enough to stay whole
    assert "a#y086_x146" in ids
    assert sum(name.startswith("a#") for name in ids) == 3 * 5
    assert "4 images larger than 64 x 64 are cut into" in "\n".join(dataset.notes)

    plain = read_dataset(root, DatasetOptions(masks="instances"))
    whole = next(sample for sample in plain.samples if sample.id == "a")
    image, labels = read_image(plain, whole), load_array(root / "masks" / "a.tif")
    for sample in dataset.samples:
        if sample.tile is None or not sample.id.startswith("a#"):
            continue
        x, y, width, height = sample.tile.box
        part = (slice(y, y + height), slice(x, x + width))
        assert np.array_equal(read_image(dataset, sample), image[part])
        found = np.zeros((height, width), np.uint8)
        for mask in read_masks(dataset, sample, (height, width)):
            found[mask.bitmap] = mask.instance
        assert np.array_equal(found, labels[part])


def test_tiles_without_a_mask_are_left_out_and_counted(tmp_path: Path) -> None:
    root = draw_slides(tmp_path / "cells", {"a": (64, 200), "b": (64, 200)}, "png")
    labels = np.zeros((64, 200), np.uint8)
    labels[5:20, 5:20] = 255
    for name in "ab":
        Image.fromarray(labels).save(root / "masks" / f"{name}.png")
    dataset = read_dataset(root, DatasetOptions(tile=64, overlap=0))
    assert [sample.id for sample in dataset.samples] == ["a#y000_x000", "b#y000_x000"]
    assert "6 of 8 tiles hold nothing of any mask and are left out" in "\n".join(dataset.notes)
    every = read_dataset(root, DatasetOptions(tile=64, overlap=0, tiles="all"))
    assert len(every.samples) == 8
    assert "6 of 8 tiles hold nothing of any mask and are kept" in "\n".join(every.notes)


def test_a_slide_beyond_the_limit_of_pixels_is_cut_and_prompted(tmp_path: Path) -> None:
    side = 10_240
    path = tmp_path / "slides" / "images" / "a.tif"
    path.parent.mkdir(parents=True)
    blank = (np.full((1024, 1024), 9, np.uint8) for _ in range(100))
    tifffile.imwrite(
        path, blank, shape=(side, side), dtype=np.uint8, tile=(1024, 1024), compression="zlib", photometric="minisblack"
    )  # fmt: skip
    with pytest.raises(ImageError, match="--max-pixels"):
        load_image(path)
    dataset = read_dataset(
        path.parents[1], DatasetOptions(tile=2048, overlap=0, channels="1", unlabelled=True)
    )
    assert len(dataset.samples) == 25
    assert read_image(dataset, dataset.samples[-1]).shape == (2048, 2048, 3)
    assert volume_source(path) is None
    image = large_image(path, None, 2048, 0)
    assert image is not None
    assert (image.size, len(image.tiles)) == ((side, side), 25)


def test_what_cannot_be_cut_is_said(tmp_path: Path) -> None:
    root = draw_slides(tmp_path / "cells", {"a": (150, 210), "b": (150, 210)}, "png")
    Image.fromarray(np.zeros((75, 105), np.uint8)).save(root / "masks" / "b.png")
    dataset = read_dataset(root, DatasetOptions(tile=64))
    [problem] = dataset.problems
    assert (problem.sample, problem.message) == ("b", "the mask has 105 x 75 pixels, its image 210 x 150")
    assert {sample.id.partition("#")[0] for sample in dataset.samples} == {"a"}

    (root / "masks" / "b.png").unlink()
    (root / "images" / "b.png").rename(root / "images" / "a#y000_x000.png")
    with pytest.raises(DatasetError, match="has the name of a tile of another one"):
        read_dataset(root, replace(DatasetOptions(), unlabelled=True, tile=64))
    with pytest.raises(OptionError, match="--overlap 8 without --tile"):
        read_dataset(root, DatasetOptions(overlap=8))
