"""Prediction on images that are larger than a tile: blended objects, stitched maps, and the files written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Casam
from test_tiles import SLIDES, draw_slides

from casam_cache.bench.class_maps import ClassMapPredictor
from casam_cache.bench.predict import Prediction, Predictor
from casam_cache.bench.prompt_file import ObjectPrompt
from casam_cache.bench.stitched import inside, stitch, tiles_of
from casam_cache.bench.tiled_image import TiledImage
from casam_cache.datasets import load_image
from casam_cache.datasets.images import load_array
from casam_cache.datasets.tiles import Grid
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cli.predict_large import large_image

SIDE = 64


class Seeing:
    """Answers every prompt with what is bright in the tile, more surely the brighter it is."""

    intensity = "auto"

    def set_image(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.size = pixels.shape[:2]
        self.geometry = Geometry.fit(*self.size, SIDE, 8, "longest")

    def predict(
        self, points: Any = None, labels: Any = None, boxes: Any = None, mask_input: Any = None
    ) -> Any:
        count = len(points if boxes is None else boxes)
        low_res = np.full((count, 1, SIDE, SIDE), -9.0, np.float32)
        low_res[:, 0, : self.size[0], : self.size[1]] = self.pixels[..., 0].astype(np.float32) - 128
        masks = low_res[..., : self.size[0], : self.size[1]] > 0
        return Prediction(masks, np.full((count, 1), 0.5, np.float32), low_res, "identity", "")


def bright(tmp_path: Path) -> tuple[TiledImage, np.ndarray]:
    """An image of 150 x 210 with smooth blobs, and where it is bright."""
    y, x = np.mgrid[:150, :210]
    values = 128 + 60 * np.sin(x / 17) * np.cos(y / 13)
    path = tmp_path / "a.tif"
    picture = np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)
    tifffile.imwrite(path, picture, tile=(32, 32), photometric="rgb")
    return TiledImage(path, Grid(SIDE, 16)), picture[..., 0] > 128


@pytest.mark.parametrize(
    "box", [(0, 0, 209, 149), (50, 60, 120, 70), (10, 10, 20, 20), (140, 86, 209.9, 150)]
)
def test_an_object_is_what_its_tiles_say_of_it(tmp_path: Path, box: tuple[float, ...]) -> None:
    image, truth = bright(tmp_path)
    prompt = ObjectPrompt("", box, number=1)  # type: ignore[arg-type]
    [found] = stitch(Seeing(), image, [prompt])  # type: ignore[arg-type]
    wanted = np.zeros_like(truth)
    for tile, _ in tiles_of(image, [prompt]):
        part = (slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width))
        wanted[part] = truth[part]
    assert found.mask is not None
    assert np.array_equal(found.mask.bitmap, wanted)
    assert (found.tiles, found.area) == (len(tiles_of(image, [prompt])), wanted.sum())


def test_tiles_that_disagree_are_blended(tmp_path: Path) -> None:
    image, _ = bright(tmp_path)

    class Torn(Seeing):
        """Sure of all of the first tile, and half as sure that the second holds nothing."""

        def set_image(self, pixels: np.ndarray) -> None:
            first = not hasattr(self, "pixels")
            super().set_image(np.full_like(pixels, 228 if first else 78))

    [found] = stitch(Torn(), image, [ObjectPrompt("", (5, 5, 60, 20), number=1)])  # type: ignore[arg-type]
    assert found.mask is not None
    # The overlap is columns 48 to 63: 100 (63.5 - x) > 50 (x - 47.5) up to column 58.
    assert found.mask.box.tolist() == [0, 0, 58, 63]


def test_a_prompt_is_cut_at_the_borders_of_a_tile(tmp_path: Path) -> None:
    image, _ = bright(tmp_path)
    box = ObjectPrompt("", (20, 30, 130.5, 149.5), ((70, 70), (5, 5)), (1, 0), number=1)
    met = tiles_of(image, [box])
    assert [(tile.x, tile.y) for tile, _ in met][:3] == [(0, 0), (48, 0), (96, 0)]
    assert inside(box, met[0][0]) == ObjectPrompt("", (20, 30, 63, 63), ((5, 5),), (0,), number=1)
    assert inside(box, met[1][0]).box == (0, 30, 63, 63)
    point = ObjectPrompt("", None, ((60, 10), (200, 140)), (1, 0), number=1)
    assert [(tile.x, tile.y) for tile, _ in tiles_of(image, [point])] == [(0, 0), (48, 0)]
    for wrong in (
        ObjectPrompt("", (10, 10, 300, 20), number=1),
        ObjectPrompt("", None, ((4, 4),), (0,), number=1),
        ObjectPrompt("", (1, 1, 5, 5), mask=tmp_path / "m.png", number=1),
    ):
        with pytest.raises(OptionError):
            tiles_of(image, [wrong])


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    return draw_slides(tmp_path / "data" / "cells", SLIDES)


def empty_tile(slides: Path, name: str) -> tuple[int, int, int, int]:
    """A box in the core of a tile that holds nothing of a mask."""
    labels = load_array(slides / "masks" / f"{name}.tif")
    for tile in Grid(64, 16).tiles((150, 210)):
        if not labels[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width].any():
            x, y, width, height = tile.core
            return x + width // 2, y + height // 2, x + width // 2 + 1, y + height // 2 + 1
    raise AssertionError("every tile holds something")


def test_a_slide_is_prompted_by_a_run_fitted_on_tiles(
    casam: Casam, encode: Callable[..., Any], slides: Path
) -> None:
    encode(slides, "--tile", 64, "--overlap", 16)
    run = casam.json("fit", "--task", "cells", "--epochs", 1, "--set", "blocks=1")["run"]
    slide = slides / "images" / "a.tif"
    report = casam.json("predict", slide, "--run", run, "--box", "70,10,90,30", "--box", "5,5,200,140")
    assert (report["height"], report["width"]) == (150, 210)
    assert report["tiles"] == {"side": 64, "overlap": 16, "count": 15}
    assert [each["tiles"] for each in report["objects"]] == [1, 15]
    with tifffile.TiffFile(casam.folder / "mask.tif") as file:
        assert file.pages[0].is_tiled
        labels = file.asarray()
    assert labels.shape == (150, 210)
    assert report["area"] == np.count_nonzero(labels)

    # A box inside one tile gives what the tile alone gives.
    tile = load_image(slide)[:64, 48:112]
    alone = Predictor(run).set_image(tile).predict(boxes=(22, 10, 42, 30)).mask
    one = casam.json("predict", slide, "--run", run, "--box", "70,10,90,30", "--out", "one.tif")
    found = tifffile.imread(casam.folder / "one.tif")
    assert set(np.unique(found)) <= {0, 255}
    assert np.array_equal(found[:64, 48:112] > 0, alone)
    assert one["area"] == alone.sum()

    # The same from the cache, as far as the tiles are there.
    stored = ("predict", "--store", "casam_store", "--id", "a", "--run", run)
    casam.json(*stored, "--box", "70,10,90,30", "--out", "stored.tif")
    assert np.array_equal(tifffile.imread(casam.folder / "stored.tif"), found)
    empty = empty_tile(slides, "a")
    casam(*stored, "--box", ",".join(map(str, empty)), "--out", "other.tif")
    assert "holds nothing of a mask" in casam.err
    assert "--tiles all" in casam.err

    casam("predict", slide, "--run", run, "--box", "1,1,9,9", "--tile", 32)
    assert "was fitted on tiles of 64 pixels" in casam.err
    casam("predict", slide, "--run", run, "--box", "1,1,9,9", "--out", "mask.png")
    assert "is a TIFF" in casam.err
    assert (
        large_image(slides / "images" / "c.tif", casam.folder / run, None, None) is None
    )  # no larger than a tile


def test_a_map_of_classes_is_stitched_of_cores(
    casam: Casam, encode: Callable[..., Any], slides: Path
) -> None:
    encode(slides, "--tile", 64, "--overlap", 16, "--tiles", "all", "--masks", "classes")
    run = casam.json(
        "fit", "--task", "cells", "--head", "fcn", "--set", "max_steps=4", "--set", "min_steps=1"
    )["run"]
    slide = slides / "images" / "e.tif"
    report = casam.json("predict", slide, "--run", run, "--out", "map.tif")
    labels = tifffile.imread(casam.folder / "map.tif")
    casam("predict", "--store", "casam_store", "--id", "e", "--run", run, "--out", "stored.tif")
    assert np.array_equal(tifffile.imread(casam.folder / "stored.tif"), labels)
    predictor, image = ClassMapPredictor(casam.folder / run), load_image(slide)
    for tile in Grid(64, 16).tiles((90, 170)):
        alone = predictor.predict(image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]).labels
        x, y, width, height = tile.core
        assert np.array_equal(labels[y : y + height, x : x + width], alone[tile.core_inside])
    assert [each["area"] for each in report["classes"]] == [
        int((labels == each["class"]).sum()) for each in report["classes"]
    ]
