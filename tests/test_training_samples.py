"""Targets, losses, prompts and what an epoch draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_cache.fingerprint import generator
from casam_cache.geometry import Geometry
from casam_cache.training.epochs import (
    MaskRuns,
    TrainingMasks,
    area_matrix,
    draw_epoch,
    draw_prompt,
    low_res_cover,
    low_res_target,
)
from casam_cache.training.feed import Feed, pack_prompts
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays
from casam_cache.training.losses import dice_loss, focal_loss, mask_iou, segmentation_loss
from casam_cache.training.options import TrainingOptions


@pytest.mark.parametrize("mode", ["longest", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 64), (37, 101), (200, 90), (5, 7)])
def test_area_matrices_average_what_a_cell_covers(height, width, mode):
    geometry = Geometry.fit(height, width, 64, 8, mode)
    rows, columns = low_res_cover(geometry)
    matrix = area_matrix(height, geometry.input_height, 32, 64)
    np.testing.assert_allclose(matrix.sum(1), rows > 0, atol=1e-12)
    # every original pixel is shared out in full between the cells, weighted by how full they are
    np.testing.assert_allclose(rows @ matrix, rows.sum() / height, atol=1e-6)
    assert rows.sum() == pytest.approx(geometry.input_height / 2)
    assert columns.sum() == pytest.approx(geometry.input_width / 2)


def test_target_is_the_mask_where_resolutions_agree():
    geometry = Geometry.fit(32, 32, 64, 8)  # a low-res cell is one original pixel
    mask = np.random.default_rng(0).random((32, 32)) < 0.4
    np.testing.assert_array_equal(low_res_target(mask, geometry), mask)


def test_target_takes_the_majority_and_leaves_padding_empty():
    geometry = Geometry.fit(32, 64, 64, 8)  # a cell is 2 x 2 pixels, the lower half of the input is padding
    mask = np.zeros((32, 64), dtype=bool)
    mask[0, 0:2] = True  # half of a cell
    mask[4, 4] = True  # a quarter
    mask[30:, 62:] = True
    expected = np.zeros((32, 32), dtype=bool)
    expected[0, 0] = expected[15, 31] = True
    np.testing.assert_array_equal(low_res_target(mask, geometry), expected)


def test_a_mask_too_thin_for_any_cell_keeps_its_fullest():
    geometry = Geometry.fit(320, 320, 64, 8)
    mask = np.zeros((320, 320), dtype=bool)
    mask[100:102, 100:101] = True
    target = low_res_target(mask, geometry)
    assert target.sum() == 1
    assert target[10, 10]
    assert not low_res_target(np.zeros_like(mask), geometry).any()
    with pytest.raises(ValueError, match="320"):
        low_res_target(mask[1:], geometry)


def test_losses_by_hand():
    logits = torch.tensor([[[2.0, -1.0], [0.5, -3.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    weight = torch.tensor([[[1.0, 1.0], [0.5, 0.0]]])
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.5])))
    focal = 0.25 * (1 - p[0]) ** 2 * -np.log(p[0]) + 0.75 * p[1] ** 2 * -np.log(1 - p[1])
    focal += 0.5 * 0.75 * p[2] ** 2 * -np.log(1 - p[2])
    assert focal_loss(logits, target, weight, 0.25, 2.0).item() == pytest.approx(focal / 2.5, rel=1e-5)
    dice = 1 - (2 * p[0] + 1) / (p[0] + p[1] + 0.5 * p[2] + 1 + 1)
    assert dice_loss(logits, target, weight, 1.0).item() == pytest.approx(dice, rel=1e-5)
    assert mask_iou(logits, target, weight).item() == pytest.approx(1 / 1.5)
    loss = segmentation_loss(logits, torch.tensor([0.5]), target.bool(), weight, TrainingOptions())
    assert loss.iou.item() == pytest.approx((0.5 - 1 / 1.5) ** 2, rel=1e-5)
    assert loss.total.item() == pytest.approx(20 * focal / 2.5 + dice + (0.5 - 1 / 1.5) ** 2, rel=1e-5)


def test_losses_are_per_sample_and_ignore_padding():
    rng = torch.Generator().manual_seed(0)
    logits, estimate = torch.randn(3, 8, 8, generator=rng), torch.rand(3, generator=rng)
    target = torch.rand(3, 8, 8, generator=rng) < 0.3
    weight = torch.ones(3, 8, 8)
    weight[:, 6:] = 0
    options = TrainingOptions()
    together = segmentation_loss(logits, estimate, target, weight, options).total
    alone = [
        segmentation_loss(
            logits[i : i + 1, :6], estimate[i : i + 1], target[i : i + 1, :6], weight[:1, :6], options
        )
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.stack([loss.total for loss in alone]).mean())


def test_no_gradient_reaches_the_mask_through_its_own_iou():
    logits = torch.randn(2, 4, 4, requires_grad=True)
    estimate = torch.rand(2, requires_grad=True)
    options = TrainingOptions(focal_weight=0, dice_weight=0)
    segmentation_loss(logits, estimate, torch.ones(2, 4, 4), torch.ones(2, 4, 4), options).total.backward()
    assert estimate.grad is not None
    assert logits.grad is None or not logits.grad.any()


def test_extreme_logits_keep_finite_gradients():
    logits = torch.tensor([[[1e4, -1e4], [1e4, -1e4]]], requires_grad=True)
    target = torch.tensor([[[True, True], [False, False]]])
    options = TrainingOptions(focal_gamma=0.5)
    segmentation_loss(logits, torch.zeros(1), target, torch.ones(1, 2, 2), options).total.backward()
    assert torch.isfinite(logits.grad).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20))
def test_runs_enumerate_the_pixels_of_a_mask(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    runs = MaskRuns.of(mask)
    if not mask.any():
        assert runs is None
        return
    ys, xs = np.nonzero(mask)
    assert runs.area == len(ys)
    assert [runs.pixel(i) for i in range(len(ys))] == list(zip(xs.tolist(), ys.tolist(), strict=True))
    assert runs.box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]


def test_points_are_uniform_over_the_mask_and_boxes_jitter_within_the_limit():
    geometry = Geometry.fit(96, 128, 64, 8)
    mask = np.zeros((96, 128), dtype=bool)
    mask[40:60, 30:90] = True
    mask[45:55, 40:80] = False
    runs = MaskRuns.of(mask)
    options = TrainingOptions(box_jitter=0.1, jitter_limit=2 / 64)
    drawn = [draw_prompt(runs, geometry, options, generator(0, "t", 0, str(i))) for i in range(2000)]
    boxes = np.array([c for is_box, c in drawn if is_box])
    points = np.array([c for is_box, c in drawn if not is_box])
    assert 900 < len(boxes) < 1100
    tight = geometry.boxes_to_input(runs.box)
    assert np.abs(boxes - tight).max() <= 2 + 1e-5
    assert np.abs((boxes - tight).mean(0)).max() < 0.15
    assert (boxes - tight)[:, 1].std() == pytest.approx(0.1 * 10.5, rel=0.15)  # height 10.5 input pixels
    np.testing.assert_array_equal(points[:, :2], points[:, 2:])
    original = np.rint(points[:, :2] * 2).astype(int)
    assert mask[original[:, 1], original[:, 0]].all()
    assert points[:, 0].mean() == pytest.approx(np.nonzero(mask)[1].mean() / 2, abs=1.0)


def test_boxes_stay_inside_the_image_and_zero_jitter_is_the_tight_box():
    geometry = Geometry.fit(64, 32, 64, 8)
    runs = MaskRuns.of(np.ones((64, 32), dtype=bool))
    for i in range(50):
        _, box = draw_prompt(runs, geometry, TrainingOptions(box_share=1, jitter_limit=1), generator(i))
        assert 0 <= box[0] <= box[2] <= 31
        assert 0 <= box[1] <= box[3] <= 63
    _, box = draw_prompt(runs, geometry, TrainingOptions(box_share=1, box_jitter=0), generator(0))
    assert box.tolist() == [0, 0, 31, 63]


def view(ids: list[str], masks: int = 3) -> Items:
    items, bitmaps = [], []
    for name in ids:
        own = []
        for number in range(masks):
            bitmap = np.zeros((64, 64), dtype=bool)
            bitmap[5 * number : 5 * number + 20, 10:40] = True
            own.append(
                ItemMask(bitmap, 1, number, np.array([10, 5 * number, 39, 5 * number + 19.0]), np.zeros(2))
            )
        items.append(Item(name, "t", name, Geometry.fit(64, 64, 64, 8), masks))
        bitmaps.append(own)
    return items_from_arrays("t", items, np.zeros((len(ids), 4, 8, 8), np.float16), bitmaps)


def choices(masks: TrainingMasks, options: TrainingOptions, epoch: int = 0, seed: int = 0) -> dict:
    """What each image was given: its masks' places among its own, and its prompts."""
    found = {}
    for batch in draw_epoch(masks, options, seed, epoch):
        for place, item in enumerate(batch.items):
            mine = batch.image == place
            rows = [masks.rows[item].index(row) for row in batch.masks[mine]]
            found[masks.items[item].id] = (
                rows,
                batch.is_box[mine].tolist(),
                batch.coordinates[mine].tolist(),
            )
    return found


def test_an_epoch_visits_each_image_once_and_draws_its_masks():
    masks = TrainingMasks.prepare(view([f"i{k}" for k in range(8)]))
    for each in (1, 2, 3, 9):
        batches = draw_epoch(masks, TrainingOptions(batch_size=3, masks_per_image=each), 0, 0)
        assert sorted(i for batch in batches for i in batch.items) == list(range(8))
        assert [len(batch.items) for batch in batches] == [3, 3, 2]
        assert all(len(set(batch.masks.tolist())) == len(batch.masks) for batch in batches)
        assert sum(len(batch.masks) for batch in batches) == 8 * min(each, 3)


def test_choices_of_an_image_do_not_depend_on_the_others():
    options = TrainingOptions(masks_per_image=2)
    few = choices(TrainingMasks.prepare(view(["a", "b", "c"])), options)
    many = choices(TrainingMasks.prepare(view(["z", "a", "c", "b", "y"])), options)
    assert {name: many[name] for name in few} == few


def test_orders_and_prompts_change_with_epoch_and_seed():
    masks = TrainingMasks.prepare(view([f"i{k}" for k in range(8)]))
    options = TrainingOptions(batch_size=8)
    orders = {draw_epoch(masks, options, seed, epoch)[0].items for seed in (0, 1) for epoch in range(5)}
    assert len(orders) == 10
    assert choices(masks, options, 0) != choices(masks, options, 1)


def test_empty_bitmaps_are_left_out():
    source = view(["a", "b"], masks=1)
    empty = ItemMask(np.zeros((64, 64), dtype=bool), 1, 0, np.zeros(4), np.zeros(2))
    masks = TrainingMasks.prepare(
        items_from_arrays("t", list(source), np.zeros((2, 4, 8, 8)), [source.masks(0), [empty]])
    )
    assert masks.trained == (0,)


def test_the_feed_unpacks_targets_and_weights():
    source = view(["a"], masks=2)
    masks = TrainingMasks.prepare(source)

    class Fake:
        device = torch.device("cpu")

        def embed_prompts(self, prompts):
            return torch.zeros(len(prompts), 2, 4), torch.zeros(len(prompts), 4, 8, 8)

    class Kept:
        def batches(self, batches):
            return iter([torch.zeros(1, 4, 8, 8)])

    options = TrainingOptions(masks_per_image=2)
    batches = draw_epoch(masks, options, 0, 0)
    (pairs,) = Feed(masks, {"embedding": Kept()}, Fake()).epoch(batches)
    assert pairs.image_index.tolist() == [0, 0]
    for row, target in zip(batches[0].masks, pairs.target, strict=True):
        expected = low_res_target(source.masks(0)[row].bitmap, source.item(0).geometry)
        np.testing.assert_array_equal(target.numpy(), expected)
    assert pairs.weight.shape == (2, 32, 32)
    assert pairs.weight.min() == 1


def test_boxes_and_points_share_a_batch_as_sam_would_see_them():
    coordinates = torch.tensor([[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 5.0, 6.0]])
    prompts = pack_prompts(torch.tensor([True, False]), coordinates)
    from casam_cache.backbones.prompts import Prompts, concatenate_prompts

    expected = concatenate_prompts(
        [
            Prompts(boxes=coordinates[:1]),
            Prompts(points=coordinates[1:, None, :2], labels=torch.ones(1, 1, dtype=torch.long)),
        ]
    )
    assert torch.equal(prompts.points, expected.points)
    assert torch.equal(prompts.labels, expected.labels)
    assert prompts.packed
