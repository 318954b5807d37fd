"""Stores of tiles: what is stored, what is refused, and scores of the whole images that tiles are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from scipy import ndimage
from test_tiles import SLIDES, draw_slides

from casam_cache.datasets.images import load_array
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import Items, open_split
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.whole_images import WholeImages, read_whole_images

Encode = Callable[..., Any]
TILES = ("--tile", 64, "--overlap", 16)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    return draw_slides(tmp_path / "data" / "cells", SLIDES)


def store_of(casam: Casam) -> EmbeddingStore:
    return EmbeddingStore.open(casam.folder / "casam_store" / "cells" / "tiny.zarr")


def perfect(items: Items) -> Outcomes:
    """Whole images of tiles in which exactly what is true is predicted."""
    whole = WholeImages()
    for index, item in enumerate(items):
        for mask in items.masks(index):
            whole.add(item, mask, mask.bitmap)
    return whole.outcomes()


def true_areas(root: Path, numbered: Callable[[np.ndarray], np.ndarray]) -> dict[str, list[int]]:
    """Areas of the objects of each image, sorted."""
    found = {}
    for path in (root / "masks").iterdir():
        counts = np.bincount(numbered(load_array(path)).ravel())[1:]
        found[path.stem] = sorted(counts[counts > 0].tolist())
    return found


def areas(outcomes: Outcomes) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, area in zip(outcomes.item, outcomes.area, strict=True):
        found.setdefault(name, []).append(area)
    return {name: sorted(values) for name, values in found.items()}


def test_every_object_is_whole_again_to_the_pixel(casam: Casam, encode: Encode, slides: Path) -> None:
    [report] = encode(slides, *TILES, "--masks", "instances")["tasks"]
    assert report["failed"] == 0
    assert "count in its neighbour alone" in casam.err
    outcomes = perfect(open_split(store_of(casam), "all"))
    assert areas(outcomes) == true_areas(slides, lambda labels: labels)
    assert set(outcomes.scores["iou"]) == set(outcomes.scores["dice"]) == {1.0}

    encode(slides, "--masks", "components")  # tiles as before
    regions = true_areas(slides, lambda labels: regions_of(labels))
    assert areas(perfect(open_split(store_of(casam), "all"))) == regions

    encode(slides, "--masks", "binary")
    whole = true_areas(slides, lambda labels: (labels > 0).astype(int))
    assert areas(perfect(open_split(store_of(casam), "all"))) == whole


def regions_of(labels: np.ndarray) -> np.ndarray:
    """8-connected regions of each value, numbered from 1."""
    found, count = np.zeros(labels.shape, int), 0
    for value in np.unique(labels)[1:]:
        own, here = ndimage.label(labels == value, np.ones((3, 3)))
        found[own > 0] = own[own > 0] + count
        count += here
    return found


def test_other_tiles_and_none_are_refused_with_both_readings(
    casam: Casam, encode: Encode, slides: Path
) -> None:
    encode(slides, *TILES)
    before = store_of(casam).ids
    command = ("encode", slides, "--model", "small", "--name", "tiny")
    casam(*command, "--tile", 48)
    assert casam.code == 1
    assert "--tile was 64 in this store and is 48 now" in casam.err
    assert "tiles.side: 64 -> 48" in casam.err
    assert store_of(casam).ids == before
    assert encode(slides)["tasks"][0]["encoded"] == 0  # goes on with --tile 64


def test_a_fit_is_scored_in_tiles_and_in_whole_images(casam: Casam, encode: Encode, slides: Path) -> None:
    encode(slides, *TILES, "--masks", "instances")
    report = casam.json("fit", "--task", "cells", "--epochs", 1, "--set", "blocks=1", "--metric", "biou_3px")
    tested = {item.tile.image if item.tile else item.id for item in open_split(store_of(casam), "test")}
    whole = report["whole_images"]
    assert whole["images"] == len(tested)
    wanted = true_areas(slides, lambda labels: labels)
    assert whole["fitted"]["masks"] == sum(len(wanted[name]) for name in tested) < report["test"]["masks"]
    assert 0 < whole["fitted"]["iou"] < whole["fitted"]["dice"] < 1
    assert 0 < report["test"]["biou_3px"] < 1
    outcomes = read_whole_images(casam.folder / report["outcomes"])
    assert areas(outcomes) == {name: wanted[name] for name in tested}
    casam("fit", "--task", "cells", "--epochs", 1, "--set", "blocks=1", "--metric", "biou_3px")
    assert "whole images" in casam.out
    assert "found, nothing recomputed" in casam.err
    found = casam.json("evaluate", report["run"], "--prompts", "box")["prompts"][0]
    assert found["whole_images"] == whole


def test_a_head_without_prompts_is_scored_in_whole_images(casam: Casam, encode: Encode, slides: Path) -> None:
    encode(slides, *TILES, "--tiles", "all", "--masks", "binary")
    report = casam.json(
        "fit", "--task", "cells", "--head", "fcn", "--set", "max_steps=4", "--set", "min_steps=1"
    )
    every, one = report["whole_images"]
    tested = {item.tile.image if item.tile else item.id for item in open_split(store_of(casam), "test")}
    assert one["images"] == every["images"] == len(tested) < report["scores"][0]["images"]
    wanted = true_areas(slides, lambda labels: (labels > 0).astype(int))
    outcomes = read_whole_images(casam.folder / report["outcomes"])
    assert areas(outcomes) == {name: wanted[name] for name in tested}
