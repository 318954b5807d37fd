"""Masks that cost their box: the same objects, runs, boxes and points as whole bitmaps give, in little memory."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from casam_cache.cutout import Cutout
from casam_cache.datasets import Mask, MaskValues, innermost, interior_point, mask_box, masks, split_labels
from casam_cache.datasets.masks import iter_masks
from casam_cache.encode.annotate import _annotated
from casam_cache.geometry import Geometry
from casam_cache.store.annotations import AnnotatedMask
from casam_cache.store.runs import cutout_runs, decode_cutout, decode_runs, encode_runs
from casam_cache.training.clicks import Click, next_click
from casam_cache.training.epochs import MaskRuns, TrainingMasks, low_res_target
from casam_cache.training.items import Item, ItemMask, add_views, items_from_arrays
from casam_cache.views import parse_views

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
bitmaps = hnp.arrays(bool, shapes).filter(np.any)
kinds = st.sampled_from(["u1", "<u2", ">u2", "<u4", "<i4", ">i4", "<i8", "<f8", "?"])
SIDE, COUNT = 1024, 64


def whole_runs(bitmap: np.ndarray) -> np.ndarray:
    flat = bitmap.reshape(-1)
    bounds = [0, *([0] if flat[0] else []), *(np.flatnonzero(flat[1:] != flat[:-1]) + 1), flat.size]
    return np.diff(bounds)


def whole_objects(labels: np.ndarray, mode: str, values: MaskValues) -> list[tuple[int, int, np.ndarray]]:
    """Every object as a bitmap, found by comparing the whole map with each value."""
    if mode == "binary":
        return [(1, 1, labels != 0)] if labels.any() else []
    found = []
    for value in np.unique(labels[labels != 0]):
        bitmap = labels == value
        number = values.foreground.index(int(value)) + 1 if values.coloured else int(value)
        if mode == "classes":
            found.append((number, 1, bitmap))
        elif mode == "instances":
            found.append((1, number, bitmap))
        else:
            parts, count = ndimage.label(bitmap, np.ones((3, 3)))
            single = len(values.foreground) <= 1
            found += [(1 if single else number, part, parts == part) for part in range(1, count + 1)]
    return found


@given(bitmaps)
def test_a_cutout_has_the_runs_of_its_bitmap(bitmap: np.ndarray) -> None:
    tight = Cutout.of(bitmap).tight()
    np.testing.assert_array_equal(tight.bitmap, bitmap)
    assert tight.area == bitmap.sum()
    for runs in (encode_runs(bitmap), cutout_runs(tight), cutout_runs(Cutout.of(bitmap))):
        assert runs.dtype == np.uint32
        np.testing.assert_array_equal(runs, whole_runs(bitmap))
    np.testing.assert_array_equal(decode_runs(cutout_runs(tight), tight.size), bitmap)
    np.testing.assert_array_equal(tight.box, mask_box(bitmap))


@given(hnp.arrays(bool, shapes))
def test_runs_come_back_as_the_tight_cutout(bitmap: np.ndarray) -> None:
    found = decode_cutout(encode_runs(bitmap), bitmap.shape)
    np.testing.assert_array_equal(found.bitmap, bitmap)
    if bitmap.any():
        tight = Cutout.of(bitmap).tight()
        assert (found.top, found.left, found.pixels.shape) == (tight.top, tight.left, tight.pixels.shape)
    else:
        assert found.area == 0


def test_runs_of_another_size_are_refused() -> None:
    for runs in ([6], [2, 2, 2], []):
        with pytest.raises(ValueError, match="do not make a mask of 2 x 2"):
            decode_cutout(np.array(runs, np.uint32), (2, 2))


def test_runs_of_nothing_and_of_everything() -> None:
    assert encode_runs(np.zeros((3, 4), bool)).tolist() == [12]
    assert encode_runs(np.ones((3, 4), bool)).tolist() == [0, 12]
    assert encode_runs(np.zeros((0, 4), bool)).tolist() == []
    assert cutout_runs(Cutout(np.ones((1, 4), bool), 1, 0, (3, 4))).tolist() == [4, 4, 4]


def test_a_cutout_lies_inside_its_image() -> None:
    for top, left in ((2, 0), (0, 3), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="not inside an image of 3 x 4"):
            Cutout(np.ones((2, 2), bool), top, left, (3, 4))


@given(bitmaps, st.integers(1, 12))
def test_the_interior_point_is_the_first_of_the_farthest(bitmap: np.ndarray, at_once: int) -> None:
    distance = ndimage.distance_transform_edt(np.pad(bitmap, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(distance)), distance.shape)
    before, masks._PIXELS_AT_ONCE = masks._PIXELS_AT_ONCE, at_once
    try:
        assert innermost(Cutout.of(bitmap).tight()).tolist() == [column, row]
        assert interior_point(bitmap).tolist() == [column, row]
    finally:
        masks._PIXELS_AT_ONCE = before


@settings(max_examples=300)
@given(
    hnp.arrays(np.int64, shapes, elements=st.integers(0, 4)),
    kinds,
    st.sampled_from([1, 51, 80_000, 0x010101]),
    st.booleans(),
    st.sampled_from(["binary", "classes", "instances", "components"]),
    st.sampled_from([0, 16]),
)
def test_objects_of_a_label_map_are_those_of_whole_comparisons(
    drawn: np.ndarray, kind: str, factor: int, coloured: bool, mode: str, few: int
) -> None:
    labels = (drawn * factor).astype(kind)
    values = MaskValues(tuple(int(value) for value in np.unique(labels)), coloured)
    before, masks._FEW = masks._FEW, few
    try:
        found = list(split_labels(labels, mode, values))
    finally:
        masks._FEW = before
    expected = whole_objects(labels, mode, values)
    assert [(mask.class_id, mask.instance) for mask in found] == [each[:2] for each in expected]
    for mask, (_, _, bitmap) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask.bitmap, bitmap)
        annotated = _annotated(mask)
        whole = AnnotatedMask.from_bitmap(
            bitmap, mask.class_id, mask.instance, mask_box(bitmap), interior_point(bitmap)
        )
        np.testing.assert_array_equal(annotated.runs, whole.runs)
        assert (annotated.size, annotated.box, annotated.point) == (whole.size, whole.box, whole.point)


def test_negative_numbers_are_objects_too() -> None:
    labels = np.array([[0, -2, 3], [-2, 0, 3]], np.int16)
    found = [(mask.instance, mask.cutout.area) for mask in split_labels(labels, "instances", MaskValues())]
    assert found == [(-2, 2), (3, 2)]


@contextmanager
def below(limit: float) -> Iterator[None]:
    """Fails where more than `limit` bitmaps of the image are held at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / SIDE**2
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak:.1f} bitmaps at once"


def drawn_labels() -> np.ndarray:
    """COUNT discs on a grid, each with a number of its own."""
    step = SIDE // 8
    y, x = np.ogrid[:step, :step]
    disc = (y - step // 2) ** 2 + (x - step // 2) ** 2 < (step // 3) ** 2
    return np.kron(np.arange(1, COUNT + 1, dtype=np.uint16).reshape(8, 8), disc.astype(np.uint16))


@pytest.mark.parametrize("mode", ["instances", "classes", "components", "binary"])
def test_many_objects_of_a_map_cost_little_even_together(mode: str) -> None:
    labels = drawn_labels()
    values = MaskValues(tuple(range(COUNT + 1)))
    with below(20):
        held = list(split_labels(labels, mode, values))
        assert len(held) == (1 if mode == "binary" else COUNT)
        assert len([_annotated(mask) for mask in held]) == len(held)


@pytest.mark.parametrize("mode", ["instances", "classes", "components", "binary"])
def test_files_of_objects_are_read_one_at_a_time(tmp_path: Path, mode: str) -> None:
    labels, paths = drawn_labels(), []
    for number in range(1, COUNT + 1):
        paths.append(tmp_path / f"{number:03d}.png")
        Image.fromarray((labels == number).astype(np.uint8) * 255).save(paths[-1], compress_level=1)
    values = MaskValues((0, 255))
    with below(20):
        held = list(iter_masks(paths, mode, values, labels.shape, one_object_a_file=True))
    assert sum(mask.cutout.area for mask in held) == np.count_nonzero(labels)
    assert len(held) == (1 if mode == "binary" else COUNT)


def _whole(bitmap: np.ndarray) -> Mask:
    return Mask(bitmap, 2, 3)


def _part(bitmap: np.ndarray) -> Mask:
    return Mask(Cutout.of(bitmap).tight(), 2, 3)


@pytest.mark.parametrize("made", [_whole, _part])
def test_a_mask_is_made_of_a_bitmap_or_a_cutout(made: Callable[[np.ndarray], Mask]) -> None:
    bitmap = np.zeros((5, 6), bool)
    bitmap[1:3, 2:4] = True
    mask = made(bitmap)
    assert (mask.class_id, mask.instance) == (2, 3)
    np.testing.assert_array_equal(mask.bitmap, bitmap)
    assert mask.cutout.size == (5, 6)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=40)))
def test_training_sees_in_a_cutout_what_it_sees_in_the_bitmap(bitmap: np.ndarray) -> None:
    geometry = Geometry.fit(*bitmap.shape, 64, 16)
    held = decode_cutout(encode_runs(bitmap), bitmap.shape)
    np.testing.assert_array_equal(low_res_target(held, geometry), low_res_target(bitmap, geometry))
    runs, whole = MaskRuns.of(held), MaskRuns.of(bitmap)
    if not bitmap.any():
        assert runs is None
        assert whole is None
        return
    assert runs is not None
    assert runs.area == bitmap.sum()
    assert [runs.pixel(index) for index in range(runs.area)] == [
        (x, y) for y, x in np.argwhere(bitmap).tolist()
    ]


@given(bitmaps)
def test_views_of_a_cutout_are_those_of_its_bitmap(bitmap: np.ndarray) -> None:
    mask = ItemMask(lambda: Cutout.of(bitmap).tight(), 1, 1, mask_box(bitmap), interior_point(bitmap))
    item = Item("a", "t", "a", Geometry.fit(*bitmap.shape, 64, 16), 1)
    views = parse_views("flip_h,flip_v,rot90,rot180,rot270,scale50")
    shown = add_views(items_from_arrays("t", [item], np.zeros((1, 1, 4, 4), np.float16), [[mask]]), views)
    for index, view in enumerate(views, 1):
        (seen,) = shown.masks(index)
        np.testing.assert_array_equal(seen.bitmap, view.image(bitmap))
        np.testing.assert_array_equal(seen.box, seen.cutout.box)


@given(st.data())
def test_a_click_does_not_depend_on_how_much_of_the_image_is_right(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    truth, predicted = (data.draw(hnp.arrays(bool, shape)) for _ in range(2))
    made: list[Click] = []
    for _ in range(3):
        click = next_click(truth, predicted, made)
        around = [Click(each.x + 3, each.y + 2, each.positive) for each in made]
        moved = next_click(*(np.pad(each, ((2, 4), (3, 1))) for each in (truth, predicted)), around)
        if click is None:
            assert moved is None
            return
        assert moved == Click(click.x + 3, click.y + 2, click.positive)
        made.append(click)


def test_targets_of_many_masks_are_made_one_at_a_time() -> None:
    labels = drawn_labels()
    stored = [encode_runs(labels == number) for number in range(1, COUNT + 1)]
    masks_of_item = [
        ItemMask(lambda runs=runs: decode_cutout(runs, labels.shape), 1, number, np.zeros(4), np.zeros(2))
        for number, runs in enumerate(stored)
    ]
    item = Item("a", "t", "a", Geometry.fit(*labels.shape, 128, 16), COUNT)
    items = items_from_arrays("t", [item], np.zeros((1, 1, 8, 8), np.float16), [masks_of_item])
    with below(4):
        prepared = TrainingMasks.prepare(items)
    assert len(prepared.runs) == COUNT
