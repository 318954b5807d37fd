"""Images changed at each visit: pixels, masks, weights and boxes go together, and the rest is drawn as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.geometry import Geometry
from casam_cache.heads.testing import TINY
from casam_cache.training.augmentation import Change
from casam_cache.training.epochs import TrainingMasks, draw_epoch
from casam_cache.training.feed import Feed, place_features
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays
from casam_cache.training.options import TrainingOptions

SIDE, HEIGHT, WIDTH = TINY.image_size, 48, 64
OPTIONS = TrainingOptions(batch_size=3, box_share=1.0, box_jitter=0.0)


def ellipses(count: int = 12) -> Items:
    """Images whose pixels are 200 in the object and 40 elsewhere, in the upper three quarters of the input."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    items, masks = [], []
    pixels = np.zeros((count, 3, SIDE, SIDE), dtype=np.uint8)
    for index in range(count):
        cy, cx = rng.integers(14, HEIGHT - 14), rng.integers(18, WIDTH - 18)
        bitmap = ((y - cy) / 8) ** 2 + ((x - cx) / 13) ** 2 < 1
        pixels[index, :, :HEIGHT, :WIDTH] = np.where(bitmap, 200, 40)
        box = np.array([cx - 12, cy - 7, cx + 12, cy + 7], dtype=np.float32)
        masks.append([ItemMask(bitmap, 1, 1, box, np.array([cx, cy], dtype=np.float32))])
        geometry = Geometry.fit(HEIGHT, WIDTH, SIDE, 8)
        items.append(Item(f"i{index}", "ellipses", f"g{index}", geometry, 1))
    sizes = np.tile(np.array([HEIGHT, WIDTH], dtype=np.int64), (count, 1))
    embedding = np.zeros((count, TINY.channels, 8, 8), dtype=np.float16)
    return items_from_arrays("ellipses", items, embedding, masks, {"pixels": pixels, "input_size": sizes})


@pytest.mark.parametrize("side", [SIDE, SIDE // 2])
def test_pixels_masks_weights_and_boxes_follow(side: int) -> None:
    items, backbone = ellipses(), seeded_backbone(TINY, 0)
    masks = TrainingMasks.prepare(items, side=side)
    features = place_features(items, masks.trained, backbone.device, ("pixels", "input_size"))
    moved = 0
    for epoch in range(4):
        batches = draw_epoch(masks, OPTIONS, 0, epoch, augment=True)
        for batch, pairs in zip(batches, Feed(masks, features, backbone).epoch(batches), strict=True):
            pixels = pairs.features["pixels"]
            assert torch.equal(pixels, pixels.round())
            assert (pixels[:, :, HEIGHT:] == 0).all()
            assert (pairs.weight[:, HEIGHT * side // SIDE :] == 0).all()
            for k, change in enumerate(batch.changes):
                turned = not np.array_equal(change.matrix, np.round(change.matrix))
                moved += turned
                bright = pixels[k, 0, :, :]
                shown = bright > (bright.max() + bright[:HEIGHT].median()) / 2
                target = pairs.target[k].repeat_interleave(SIDE // side, 0).repeat_interleave(SIDE // side, 1)
                assert (shown & target).sum() / (shown | target).sum() > (0.85 if side == SIDE else 0.75)
                rows, columns = (torch.nonzero(shown.any(axis)).flatten() for axis in (1, 0))
                tight = [float(edge) for edge in (columns[0], rows[0], columns[-1], rows[-1])]
                assert np.abs(batch.coordinates[k] - tight).max() <= (1.6 if turned else 0)
    assert moved > 5


def test_without_changes_the_same_is_drawn() -> None:
    masks = TrainingMasks.prepare(ellipses())
    options = TrainingOptions(batch_size=3, masks_per_image=1)
    plain, changed, again, later = (
        draw_epoch(masks, options, 0, epoch, augment)
        for epoch, augment in ((0, False), (0, True), (0, True), (1, True))
    )
    assert not any(batch.changes for batch in plain)
    for one, other, same in zip(plain, changed, again, strict=True):
        assert one.items == other.items
        assert np.array_equal(one.masks, other.masks)
        assert np.array_equal(one.is_box, other.is_box)
        assert np.array_equal(other.coordinates, same.coordinates)
        for change, repeated in zip(other.changes, same.changes, strict=True):
            assert np.array_equal(change.matrix, repeated.matrix)
    drawn = {batch.changes[0].brightness for batch in (*changed, *later)}
    drawn |= {float(batch.changes[0].matrix[0, 0]) for batch in (*changed, *later)}
    assert len(drawn) > 2


def test_an_object_that_would_leave_the_image_is_mirrored_alone() -> None:
    geometry = Geometry.fit(HEIGHT, WIDTH, SIDE, 8)
    corner = np.array([[0.0, 0.0], [WIDTH - 1.0, 0.0]])
    change = Change(1.4 * np.diag([-1.0, 1.0]))
    assert not change.keeps(corner, geometry)
    assert change.mirrored_alone().keeps(corner, geometry)
    assert change.mirrored_alone().points(corner, geometry).tolist() == [[WIDTH - 1, 0], [0, 0]]
