"""Training on cached views: drawn like prompts, with masks and prompts moved along, and never in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from pydantic import ValidationError

from casam_cache.engine.runs import read_record
from casam_cache.errors import OptionError, StoreError
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore
from casam_cache.training.epochs import TrainingMasks, draw_epoch, low_res_target
from casam_cache.training.items import Item, ItemMask, Items, add_views, items_from_arrays, open_split
from casam_cache.training.options import TrainingOptions
from casam_cache.views import View, parse_views

Encode = Callable[..., Any]
VIEWS = parse_views("flip_h,rot90,scale50")


def items(count: int = 12, height: int = 40, width: int = 64) -> Items:
    """Images with two masks each; the second image has none."""
    rng = np.random.default_rng(0)
    described, masks = [], []
    for index in range(count):
        own = []
        for instance in range(0 if index == 1 else 2):
            bitmap = np.zeros((height, width), bool)
            y, x = rng.integers(0, 25), rng.integers(0, 45)
            bitmap[y : y + 9, x : x + 13] = True
            box = np.array([x, y, x + 12, y + 8], np.float32)
            own.append(ItemMask(bitmap, 1, instance, box, np.array([x + 3, y + 2], np.float32)))
        geometry = Geometry.fit(height, width, 64, 8)
        described.append(Item(f"i{index:02d}", "task", f"g{index}", geometry, len(own)))
        masks.append(own)
    features = rng.standard_normal((1 + len(VIEWS), count, 4, 8, 8)).astype(np.float16)
    further = {view.array: features[1 + number] for number, view in enumerate(VIEWS)}
    return items_from_arrays("task", described, features[0], masks, {**further, "early": features[0]})


def test_every_place_has_its_own_embedding_masks_and_geometry() -> None:
    base = items()
    viewed = add_views(base, VIEWS)
    assert len(viewed) == 48
    assert viewed.item(3).variants == (15, 27, 39)
    assert viewed.item(1).variants == ()
    turned = viewed.item(27)
    assert (turned.view, turned.id, turned.visits) == ("rot90", "i03", 0)
    assert turned.geometry == Geometry.fit(64, 40, 64, 8)
    np.testing.assert_array_equal(viewed.feature("embedding", 27), base.feature("view_rot90", 3))
    np.testing.assert_array_equal(viewed.feature("early", 3), base.feature("embedding", 3))
    np.testing.assert_array_equal(viewed.feature("valid", 27), turned.geometry.valid_cells())
    (mask, _), (original, _) = viewed.masks(27), base.masks(3)
    np.testing.assert_array_equal(mask.bitmap, np.rot90(original.bitmap))
    rows, columns = np.nonzero(mask.bitmap)
    assert mask.box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert mask.bitmap[int(mask.point[1]), int(mask.point[0])]
    with pytest.raises(StoreError, match=r"no 'early'[\s\S]*views=none"):
        viewed.feature("early", 27)
    with pytest.raises(IndexError):
        viewed.item(48)


def test_visits_draw_views_and_nothing_else_changes() -> None:
    base = items()
    viewed = add_views(base, VIEWS)
    plain, masks = TrainingMasks.prepare(base), TrainingMasks.prepare(viewed)
    assert masks.visits == plain.visits == 11
    options = TrainingOptions(batch_size=4)
    seen: set[str] = set()
    for epoch in range(6):
        batches, before = draw_epoch(masks, options, 3, epoch), draw_epoch(plain, options, 3, epoch)
        again = draw_epoch(masks, options, 3, epoch)
        assert [batch.items for batch in batches] == [batch.items for batch in again]
        for batch, own in zip(batches, before, strict=True):
            shown = [masks.items[index] for index in batch.items]
            assert [item.id for item in shown] == [plain.items[index].id for index in own.items]
            seen.update(item.view for item in shown)
            for place, row, first in zip(batch.items, batch.masks, own.masks, strict=True):
                assert row - masks.rows[place].start == first - plain.rows[place % 12].start
                view = masks.items[place].view
                bitmap = base.masks(place % 12)[int(row - masks.rows[place].start)].bitmap
                target = low_res_target(
                    View(view).image(bitmap) if view else bitmap, masks.items[place].geometry
                )
                np.testing.assert_array_equal(masks.targets[row], np.packbits(target.reshape(-1)))
            for place, is_box, xy in zip(batch.items, batch.is_box, batch.coordinates, strict=True):
                geometry = masks.items[place].geometry
                assert (xy[[0, 2]] <= geometry.input_width).all()
                assert (xy[[1, 3]] <= geometry.input_height).all()
                assert is_box or (xy[:2] == xy[2:]).all()
    assert seen == {"", "flip_h", "rot90", "scale50"}
    other = draw_epoch(masks, options, 4, 0)
    assert [b.items for b in other] != [b.items for b in draw_epoch(masks, options, 3, 0)]


def test_the_option_has_one_form_and_is_not_named_where_there_are_none() -> None:
    assert TrainingOptions(views="rot90+flip_h+rot90").views == "flip_h+rot90"
    assert TrainingOptions(views="").views == "none"
    assert "views" not in TrainingOptions().model_dump(mode="json")
    dumped = TrainingOptions(views="flip_h").model_dump(mode="json")
    assert TrainingOptions.model_validate(dumped).views == "flip_h"
    with pytest.raises((OptionError, ValidationError), match="rot45"):
        TrainingOptions(views="rot45")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_fit_with_views_is_another_fit_and_evaluates_without(
    casam: Casam, encode: Encode, discs: Path, dtype: str
) -> None:
    store = Path(encode(discs, "--views", "flip_h,rot90", "--dtype", dtype)["tasks"][0]["store"])
    fit = ("fit", "--task", "discs", "--epochs", 2, "--set", "learning_rate=0.02")
    plain, viewed = casam.json(*fit), casam.json(*fit, "--set", "views=flip_h+rot90")
    assert viewed["run"] != plain["run"]
    assert viewed["frozen"] == plain["frozen"], "the test images are shown as they are"
    assert viewed["test"] != plain["test"]
    assert casam.json(*fit, "--set", "views=rot90+flip_h")["run"] == viewed["run"]
    record = read_record(casam.folder / viewed["run"])
    assert record.inputs["training"]["views"] == "flip_h+rot90"
    view = open_split(EmbeddingStore.open(store), "train")
    assert view.feature("view_rot90", 0).shape == view.feature("embedding", 0).shape


def test_views_that_are_not_there_are_asked_for(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs, "--views", "flip_h")
    casam("fit", "--task", "discs", "--epochs", 1, "--set", "views=flip_h+rot90")
    assert casam.code == 1
    assert "view_rot90" in casam.err
    assert "--views rot90" in casam.err


def test_variants_are_plain_items_elsewhere() -> None:
    item = items().item(0)
    assert (item.view, item.variants) == ("", ())
    assert replace(item, view="flip_h") != item
