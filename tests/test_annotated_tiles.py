"""Objects drawn in text files, on large images that are cut into tiles."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Casam
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from test_layouts_annotations import SIZE, coco, flat, labelme, square, studio, write_json, yolo

from casam_cache.cutout import Cutout
from casam_cache.datasets import Dataset, DatasetOptions, Mask, Sample, read_dataset, read_masks
from casam_cache.datasets.layouts import annotated
from casam_cache.datasets.layouts.coco import _draw
from casam_cache.datasets.layouts.placed import PlacedShapes, cut, union
from casam_cache.datasets.layouts.polygon import fill
from casam_cache.datasets.layouts.runs import cutout_of_runs, decode_counts
from casam_cache.errors import DatasetError
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import open_split
from casam_cache.training.whole_images import WholeImages

TILE = {"tile": 24, "overlap": 8}


def both_coco(root: Path) -> Path:
    coco(root, "train", "images", range(4))
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "coco": both_coco,
    "yolo": yolo,
    "labelme": labelme,
    "label-studio": studio,
}


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_runs_are_those_of_pycocotools(height: int, width: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bitmap = rng.random((height, width)) < share
    if seed % 2:
        bitmap[rng.integers(0, height) :, rng.integers(0, width) :] = False
    counts = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"]
    lengths = decode_counts(counts)
    assert lengths.sum() == bitmap.size
    found = cutout_of_runs(lengths, (height, width))
    assert (found is None) == (not bitmap.any())
    if found is not None:
        assert np.array_equal(found.bitmap, bitmap)
        assert found.pixels[[0, -1]].any(axis=1).all(), "the smallest rectangle that holds it"
        if len(lengths) % 2:
            assert np.array_equal(cutout_of_runs(lengths[:-1], (height, width)).bitmap, bitmap)  # type: ignore[union-attr]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-60, 900), st.integers(-60, 700)), min_size=3, max_size=8),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_those_of_pycocotools(tenths: list[list[tuple[int, int]]]) -> None:
    """Corners in tenths of a pixel, as programs write them: there rounding could go either way."""
    drawn = [[number / 10 for point in part for number in point] for part in tenths]
    runs = coco_mask.merge(coco_mask.frPyObjects(drawn, 60, 80))
    wanted = coco_mask.decode(runs).astype(bool)
    found = _draw(Path("a.json"), {"segmentation": drawn}, (60, 80))
    assert np.array_equal(np.zeros((60, 80), bool) if found is None else found.bitmap, wanted)


def test_runs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode_counts(b"P")  # more were to follow
    with pytest.raises(ValueError, match="beyond the image"):
        cutout_of_runs([3, 9], (2, 5))
    assert cutout_of_runs([], (4, 4)) is None


def test_an_object_costs_its_box_whatever_the_image() -> None:
    """A square of 40 pixels on 100,000 x 100,000, more than pycocotools can count."""
    size = (100_000, 100_000)
    corners = square(90_000, 95_000, 40)
    shapes: dict[str, Any] = {
        "coco": _draw(Path("a.json"), {"segmentation": [flat(corners)]}, size),
        "polygon": fill([(x, y) for x, y in corners], size),
        "runs": cutout_of_runs([90_000 * size[0] + 95_000, 40] + [size[0] - 40, 40] * 39, size),
    }
    tracemalloc.start()
    for name, found in shapes.items():
        assert (found.left, found.top, found.area) == (90_000, 95_000, 1600), name
    far = [Cutout(np.ones((2, 2), bool), 10, 90_000 + shift, size) for shift in (0, 7)]
    assert union(far).pixels.shape == (2, 9)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("mode", ["binary", "classes", "instances"])
@pytest.mark.parametrize("layout", list(WRITERS))
def test_a_tile_has_its_part_of_every_object(layout: str, mode: str, tmp_path: Path) -> None:
    root = WRITERS[layout](tmp_path)
    whole = read_dataset(root, DatasetOptions(masks=mode))
    tiles = read_dataset(root, DatasetOptions(masks=mode, tiles="all", **TILE))  # type: ignore[arg-type]
    assert tiles.reader.name == layout
    assert {one["name"] for one in tiles.tiled} == {sample.id for sample in whole.samples}
    masks = {sample.id: list(read_masks(whole, sample, SIZE)) for sample in whole.samples}
    assert any(masks.values())
    splits = {sample.id: sample.split for sample in whole.samples}
    for sample in tiles.samples:
        image = sample.id.partition("#")[0]
        assert sample.tile is not None
        assert sample.split == splits[image]
        wanted = cut_masks(masks[image], sample)
        found = held(read_masks(tiles, sample, (sample.tile.height, sample.tile.width)))
        assert found.keys() == wanted.keys(), sample.id
        for number, bitmap in found.items():
            assert np.array_equal(bitmap, wanted[number]), (sample.id, number)
    some = read_dataset(root, DatasetOptions(masks=mode, **TILE))  # type: ignore[arg-type]
    filled = {s.id for s in tiles.samples if cut_masks(masks[s.id.partition("#")[0]], s)}
    assert {sample.id for sample in some.samples} == filled
    left_out = len(tiles.samples) - len(filled)
    line = f"{left_out} of {len(tiles.samples)} tiles hold nothing of any mask"
    assert (line in "\n".join(some.notes)) == bool(left_out)


def cut_masks(masks: list[Mask], sample: Sample) -> dict[tuple[int, int], np.ndarray]:
    assert sample.tile is not None
    found = {(m.class_id, m.instance): cut(m.cutout, sample.tile.box) for m in masks}
    return {number: piece.bitmap for number, piece in found.items() if piece is not None}


def held(masks: Any) -> dict[tuple[int, int], np.ndarray]:
    return {(mask.class_id, mask.instance): mask.bitmap for mask in masks}


def cells(root: Path, size: tuple[int, int] = (150, 210), count: int = 4) -> np.ndarray:
    """Slides with squares of numbers from 1, some across borders of tiles, in COCO; the label map of all of them."""
    rng = np.random.default_rng(0)
    labels = np.zeros(size, np.int64)
    images, objects = [], []
    for number in range(8):
        y, x, side = int(rng.integers(0, size[0] - 30)), int(rng.integers(0, size[1] - 30)), 12 + 2 * number
        if not labels[y : y + side, x : x + side].any():
            labels[y : y + side, x : x + side] = number + 1
            objects.append((number + 1, flat(square(x, y, side))))
    (root / "images").mkdir(parents=True)
    for index in range(count):
        pixels = rng.integers(0, 90, (*size, 3)) + 120 * (labels > 0)[..., None]
        tifffile.imwrite(
            root / "images" / f"s{index}.tif", pixels.astype(np.uint8), tile=(32, 32), photometric="rgb"
        )
        images.append({"id": index, "file_name": f"s{index}.tif", "height": size[0], "width": size[1]})
    annotations = [
        {
            "id": 100 * image["id"] + number,
            "image_id": image["id"],
            "category_id": 1,
            "segmentation": [polygon],
        }
        for image in images
        for number, polygon in objects
    ]
    told = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    write_json(root / "annotations" / "cells.json", told)
    return labels


@pytest.mark.parametrize("mode", ["instances", "components"])
def test_every_object_is_whole_again_to_the_pixel(
    casam: Casam, encode: Callable[..., Any], tmp_path: Path, mode: str
) -> None:
    labels = cells(tmp_path / "data" / "cells")
    [report] = encode(tmp_path / "data" / "cells", "--tile", 64, "--overlap", 16, "--masks", mode)["tasks"]
    assert report["failed"] == 0
    assert "count in its neighbour alone" in casam.err
    whole, items = (
        WholeImages(),
        open_split(EmbeddingStore.open(casam.folder / "casam_store/cells/tiny.zarr"), "all"),
    )
    for index, item in enumerate(items):
        for mask in items.masks(index):
            whole.add(item, mask, mask.bitmap)
    outcomes = whole.outcomes()
    wanted = sorted(np.bincount(labels.ravel())[1:][np.unique(labels)[1:] - 1].tolist())
    for name in {*outcomes.item}:
        own = sorted(a for item, a in zip(outcomes.item, outcomes.area, strict=True) if item == name)
        assert own == wanted
    assert set(outcomes.scores["iou"]) == {1.0}


def test_each_object_is_drawn_for_the_tiles_that_it_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells(tmp_path, count=1)
    options = DatasetOptions(masks="instances", tile=32, overlap=0, tiles="all", test_fraction=0.0)
    drawn: list[tuple[int, int]] = []
    honest = PlacedShapes.of

    def counted(shapes: Any, size: tuple[int, int]) -> PlacedShapes:
        drawn.append(size)
        return honest(shapes, size)

    monkeypatch.setattr(annotated.PlacedShapes, "of", counted)
    dataset: Dataset = read_dataset(tmp_path, options)
    for sample in dataset.samples:
        list(read_masks(dataset, sample, (32, 32)))
    assert drawn == [(150, 210)], "once for all tiles"
    file = tmp_path / "annotations" / "cells.json"
    told = json.loads(file.read_text())
    told["annotations"] = told["annotations"][:1]
    write_json(file, told)
    assert sum(len(list(read_masks(dataset, sample, (32, 32)))) > 0 for sample in dataset.samples) <= 4
    assert len(drawn) == 2, "another file, other objects"


def test_a_slide_that_is_not_the_one_annotated_is_left_out(tmp_path: Path) -> None:
    cells(tmp_path)
    tifffile.imwrite(
        tmp_path / "images" / "s1.tif", np.zeros((160, 210, 3), np.uint8), tile=(32, 32), photometric="rgb"
    )
    dataset = read_dataset(tmp_path, DatasetOptions(tile=64))
    [problem] = [str(one) for one in dataset.problems if "annotated at" in str(one)]
    assert "images/s1.tif: annotated at 210 x 150 pixels, but it has 210 x 160" in problem
    assert not any(sample.id.startswith("s1") for sample in dataset.samples)
    for path in (tmp_path / "images").iterdir():
        tifffile.imwrite(path, np.zeros((160, 210, 3), np.uint8), tile=(32, 32), photometric="rgb")
    with pytest.raises(
        DatasetError, match=r"no image of its annotations can be used, for example .*annotated at"
    ):
        read_dataset(tmp_path, DatasetOptions(tile=64))
