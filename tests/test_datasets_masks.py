"""Masks: from files of every kind to bitmaps, and the box and point of a bitmap."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from casam_cache.datasets.labels import read_labels, scan_mask
from casam_cache.datasets.mask_values import decide_mode, decide_values
from casam_cache.datasets.masks import interior_point, iter_masks, mask_box, regions
from casam_cache.datasets.sample import Mask, MaskValues
from casam_cache.errors import ImageError, OptionError

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
label_maps = hnp.arrays(np.uint8, shapes, elements=st.integers(0, 3))
bitmaps = hnp.arrays(bool, shapes).filter(np.any)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def masks_of(*paths: Path, mode: str | None = None, folder: bool = False) -> tuple[str, list[Mask]]:
    values, _ = decide_values([scan_mask(path) for path in paths])
    mode, _ = decide_mode(mode, values, folder)
    return mode, list(iter_masks(paths, mode, values, one_object_a_file=folder))


def numbers(masks: list[Mask]) -> list[tuple[int, int]]:
    return [(mask.class_id, mask.instance) for mask in masks]


TWO = np.zeros((8, 10), np.uint8)
TWO[1:3, 1:4] = 255
TWO[5:7, 6:9] = 255
THREE = np.zeros((8, 10), np.uint8)
THREE[1:3, 1:4] = 2
THREE[5:7, 6:9] = 1
THREE[0, 9] = 2


def test_two_values_are_one_mask(tmp_path: Path) -> None:
    for value in (255, 1, 7):
        mode, masks = masks_of(save(tmp_path / "a.png", TWO // 255 * np.uint8(value)))
        assert (mode, numbers(masks)) == ("binary", [(1, 1)])
        np.testing.assert_array_equal(masks[0].bitmap, TWO > 0)
        assert masks[0].bitmap.dtype == bool


def test_more_values_are_classes(tmp_path: Path) -> None:
    mode, masks = masks_of(save(tmp_path / "a.png", THREE))
    assert (mode, numbers(masks)) == ("classes", [(1, 1), (2, 1)])
    np.testing.assert_array_equal(masks[1].bitmap, THREE == 2)


def test_one_value_without_background_is_a_class(tmp_path: Path) -> None:
    assert decide_mode(None, MaskValues((0,)), False)[0] == "binary"
    assert decide_mode(None, MaskValues((5,)), False)[0] == "classes"
    assert decide_mode(None, MaskValues((3, 5)), False)[0] == "classes"
    assert decide_mode("instances", MaskValues((0, 1)), False)[0] == "instances"


def test_asked_modes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", THREE)
    assert numbers(masks_of(path, mode="binary")[1]) == [(1, 1)]
    assert numbers(masks_of(path, mode="instances")[1]) == [(1, 1), (1, 2)]
    assert numbers(masks_of(path, mode="components")[1]) == [(1, 1), (2, 1), (2, 2)]
    assert numbers(masks_of(save(tmp_path / "b.png", TWO), mode="components")[1]) == [(1, 1), (1, 2)]
    assert numbers(masks_of(tmp_path / "b.png", mode="classes")[1]) == [(255, 1)]
    with pytest.raises(OptionError, match="unknown mask mode 'panoptic'"):
        masks_of(path, mode="panoptic")


def test_an_empty_mask_is_normal(tmp_path: Path) -> None:
    for mode in ("binary", "classes", "instances", "components"):
        assert masks_of(save(tmp_path / "a.png", TWO * 0), mode=mode)[1] == []


def test_diagonal_neighbours_are_one_region() -> None:
    assert len(list(regions(np.eye(4, dtype=bool)))) == 1
    assert len(list(regions(np.array([[1, 0, 1]], bool)))) == 2


@given(label_maps)
@settings(max_examples=60, deadline=None)
def test_masks_reconstruct_the_label_map(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray
) -> None:
    path = save(tmp_path_factory.mktemp("m") / "a.png", labels)
    for mode in ("classes", "instances", "components"):
        again = np.zeros_like(labels)
        masks = masks_of(path, mode=mode)[1]
        assert numbers(masks) == sorted(set(numbers(masks)))
        single = len(set(np.unique(labels)) - {0}) <= 1
        for mask in masks:
            assert mask.bitmap.any()
            assert not again[mask.bitmap].any()
            number = mask.instance if mode == "instances" else mask.class_id
            again[mask.bitmap] = labels.max() if mode == "components" and single else number
        np.testing.assert_array_equal(again, labels)


def test_colours_are_numbered_over_the_whole_dataset(tmp_path: Path) -> None:
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    first = np.zeros((4, 4, 3), np.uint8)
    first[0, 0], first[3, 3] = red, blue
    second = np.zeros((4, 4, 3), np.uint8)
    second[1, 1] = green
    empty = np.zeros((4, 4, 3), np.uint8)
    white = np.zeros((4, 4), np.uint8)
    white[2, 2] = 255
    names = zip("abcd", (first, second, empty, white), strict=True)
    paths = [save(tmp_path / f"{name}.png", array) for name, array in names]
    values, _ = decide_values([scan_mask(path) for path in paths])
    assert values.coloured
    assert values.values == (0, 0x0000FF, 0x00FF00, 0xFF0000, 0xFFFFFF)
    got = [list(iter_masks([path], "classes", values)) for path in paths]
    assert [numbers(masks) for masks in got] == [[(1, 1), (3, 1)], [(2, 1)], [], [(4, 1)]]
    instances = list(iter_masks(paths[:1], "instances", values))
    assert numbers(instances) == [(1, 1), (1, 3)]
    changed = save(tmp_path / "b.png", np.full((4, 4, 3), (9, 8, 7), np.uint8))
    with pytest.raises(ImageError, match="colours that were not there"):
        list(iter_masks([changed], "classes", values))


def test_grey_in_rgb_palette_alpha_and_deep_masks(tmp_path: Path) -> None:
    assert not read_labels(save(tmp_path / "a.png", np.repeat(THREE[..., None], 3, 2))).coloured
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png").labels, THREE)
    palette = Image.fromarray(THREE).convert("P")
    palette.putdata(THREE.ravel().tolist())
    palette.putpalette([255, 255, 255, 10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png").labels, THREE)
    for name in ("grey.png", "grey.gif"):  # an optimiser put white first
        flipped = Image.fromarray((TWO == 0).astype(np.uint8)).convert("P")
        flipped.putpalette([255, 255, 255, 0, 0, 0])
        flipped.save(tmp_path / name)
        np.testing.assert_array_equal(read_labels(tmp_path / name).labels, TWO)
    rgba = np.full((8, 10, 4), 255, np.uint8)
    rgba[..., 3] = TWO  # all white, told apart by its transparency only
    np.testing.assert_array_equal(read_labels(save(tmp_path / "r.png", rgba)).labels, TWO)
    rgba[..., 3] = np.where(TWO > 0, 3, 255)
    assert (read_labels(save(tmp_path / "r.png", rgba)).labels == 255).all()
    deep = THREE.astype(np.uint16) * 1000
    masks = masks_of(save(tmp_path / "d.png", deep), mode="instances")[1]
    assert numbers(masks) == [(1, 1000), (1, 2000)]
    bits = Image.fromarray(TWO).convert("1")
    bits.save(tmp_path / "1.png")
    assert set(np.unique(read_labels(tmp_path / "1.png").labels)) == {0, 1}
    whole = save(tmp_path / "f.tif", THREE.astype(np.float32))
    np.testing.assert_array_equal(read_labels(whole).labels, THREE)


def test_values_that_are_no_labels(tmp_path: Path) -> None:
    for array, match in (
        (np.full((2, 2), 0.5, np.float32), "fractional or NaN"),
        (np.full((2, 2), np.nan, np.float32), "fractional or NaN"),
        (np.full((2, 2), -1, np.int32), "negative"),
    ):
        with pytest.raises(ImageError, match=match):
            read_labels(save(tmp_path / "a.tif", array))


def test_lossy_masks_are_cut_at_the_middle(tmp_path: Path) -> None:
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 20).astype(np.uint8) * 255
    for array in (disc, np.repeat(disc[..., None], 3, 2)):
        path = save(tmp_path / "a.jpg", array, quality=70)
        assert scan_mask(path).lossy
        mode, masks = masks_of(path)
        assert (mode, numbers(masks)) == ("binary", [(1, 1)])
        assert (masks[0].bitmap != (disc > 0)).mean() < 0.02
    faint = save(tmp_path / "b.jpg", disc // 85)
    with pytest.raises(ImageError, match=r"b\.jpg: a label map in a lossy JPEG file"):
        masks_of(faint)


def test_a_colour_mask_in_jpeg_is_an_error(tmp_path: Path) -> None:
    colours = np.zeros((32, 32, 3), np.uint8)
    colours[4:20, 4:20] = (255, 0, 0)
    with pytest.raises(ImageError, match=r"a\.jpg: a colour mask in a lossy JPEG"):
        read_labels(save(tmp_path / "a.jpg", colours))


def test_orientation_holds_for_masks(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", THREE, exif=exif)
    np.testing.assert_array_equal(read_labels(path).labels, np.rot90(THREE, -1))


def test_another_size_than_the_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", TWO)
    with pytest.raises(ImageError, match=r"a\.png: the mask has 10 x 8 pixels, its image 12 x 8"):
        list(iter_masks([path], "binary", MaskValues((0, 255)), (8, 12)))


def test_one_file_an_object_may_overlap(tmp_path: Path) -> None:
    first, second, nothing = TWO.copy(), np.full_like(TWO, 255), TWO * 0
    named = zip("abc", (first, nothing, second), strict=True)
    paths = [save(tmp_path / f"{name}.png", array) for name, array in named]
    mode, masks = masks_of(*paths, folder=True)
    assert (mode, numbers(masks)) == ("instances", [(1, 1), (1, 3)])
    assert (masks[0].bitmap & masks[1].bitmap).any()
    assert numbers(masks_of(*paths, folder=True, mode="binary")[1]) == [(1, 1)]
    assert numbers(masks_of(*paths, folder=True, mode="components")[1]) == [(1, 1), (1, 2), (1, 3)]


def test_one_file_an_object_with_classes(tmp_path: Path) -> None:
    one, two = (TWO > 0).astype(np.uint8), (TWO > 0).astype(np.uint8) * 2
    paths = [
        save(tmp_path / f"{name}.png", array) for name, array in zip("abc", (two, one, two), strict=True)
    ]
    mode, masks = masks_of(*paths, folder=True)
    assert (mode, numbers(masks)) == ("classes", [(1, 1), (2, 1), (2, 2)])
    mixed = save(tmp_path / "d.png", THREE)
    with pytest.raises(ImageError, match=r"d\.png: one file an object, but it holds 2 different values"):
        masks_of(*paths, mixed, folder=True)


@given(bitmaps)
@settings(deadline=None)
def test_box_and_point_lie_where_they_should(bitmap: np.ndarray) -> None:
    x0, y0, x1, y1 = mask_box(bitmap).astype(int)
    assert bitmap.sum() == bitmap[y0 : y1 + 1, x0 : x1 + 1].sum()
    for edge in (bitmap[y0, :], bitmap[y1, :], bitmap[:, x0], bitmap[:, x1]):
        assert edge.any()
    x, y = interior_point(bitmap).astype(int)
    assert bitmap[y, x]
    outside = np.argwhere(~np.pad(bitmap, 1)) - 1
    far = {tuple(pixel): np.hypot(*(outside - pixel).T).min() for pixel in np.argwhere(bitmap)}
    assert far[(y, x)] == pytest.approx(max(far.values()))
    assert (y, x) == min(pixel for pixel, value in far.items() if value > max(far.values()) - 1e-9)


def test_the_point_of_a_square_and_an_empty_mask() -> None:
    square = np.zeros((9, 9), bool)
    square[2:6, 3:8] = True
    assert mask_box(square).tolist() == [3, 2, 7, 5]
    assert mask_box(square).dtype == interior_point(square).dtype == np.float32
    assert interior_point(square).tolist() == [4, 3]
    for function in (mask_box, interior_point):
        with pytest.raises(ValueError, match="empty"):
            function(np.zeros((3, 3), bool))
