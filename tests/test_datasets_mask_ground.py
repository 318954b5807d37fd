"""Backgrounds that are not 0, masks in the alpha channel, and pixels that count nowhere."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from casam_cache.datasets import Dataset, DatasetOptions, read_dataset, read_masks
from casam_cache.errors import OptionError

SIDE = 64
DISC = np.hypot(*np.mgrid[-30:34, -28:36]) < 18
CUP = np.hypot(*np.mgrid[-28:36, -30:34]) < 7
LABELS = np.select([CUP, DISC], [0, 128], 255).astype(np.uint8)


def write(root: Path, *masks: np.ndarray) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        image = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


def read(root: Path, **options: str) -> Dataset:
    return read_dataset(root, DatasetOptions(**options))


def classes(dataset: Dataset, number: int = 0) -> dict[int, np.ndarray]:
    return {mask.class_id: mask.bitmap for mask in read_masks(dataset, dataset.samples[number])}


def said(dataset: Dataset) -> str:
    return "\n".join([*map(str, dataset.problems), *dataset.notes])


def test_a_background_that_is_not_zero(tmp_path: Path) -> None:
    root = write(tmp_path / "set", LABELS, LABELS.T, LABELS)
    assert "--background 255 makes it the background" in said(read(root))
    assert "--background 255" not in said(read(root, background="0"))
    for name in ("255", "#ffffff"):
        dataset = read(root, background=name)
        found = classes(dataset)
        assert sorted(found) == [128, 255]
        np.testing.assert_array_equal(found[128], DISC & ~CUP)
        np.testing.assert_array_equal(found[255], CUP)
        assert "value 0 goes by the number 255" in said(dataset)
        assert not dataset.problems
    (united,) = classes(read(root, background="255", masks="binary")).values()
    np.testing.assert_array_equal(united, DISC | CUP)


def test_black_on_white(tmp_path: Path) -> None:
    inverted = np.where(DISC, 0, 255).astype(np.uint8)
    root = write(tmp_path / "hard", inverted, inverted)
    assert "255 may be the background" in said(read(root))
    np.testing.assert_array_equal(classes(read(root, background="255"))[1], DISC)
    smooth = ndimage.gaussian_filter(inverted.astype(float), 1).round().astype(np.uint8)
    dataset = read(write(tmp_path / "soft", smooth, smooth, inverted // 255), background="255")
    assert dataset.mask_mode == "binary"
    for number in range(3):
        assert (classes(dataset, number)[1] != DISC).mean() < 0.01


def test_a_colour_as_background(tmp_path: Path) -> None:
    colours = np.full((SIDE, SIDE, 3), 255, np.uint8)
    colours[DISC] = (0, 0, 200)
    colours[CUP] = (0, 0, 0)
    root = write(tmp_path / "set", colours, colours)
    assert "--background '#ffffff'" in said(read(root))
    dataset = read(root, background="#ffffff")
    found = classes(dataset)
    np.testing.assert_array_equal(found[1], CUP)
    np.testing.assert_array_equal(found[2], DISC & ~CUP)


@pytest.mark.parametrize("name", ["white", "#fff", "-1", "1.5"])
def test_what_is_no_value(name: str) -> None:
    with pytest.raises(OptionError, match=r"neither a value nor a colour"):
        DatasetOptions(background=name)


def test_a_value_that_no_mask_holds_changes_nothing(tmp_path: Path) -> None:
    root = write(tmp_path / "set", np.where(DISC, 1, 0).astype(np.uint8))
    dataset = read(root, background="7", ignore="9")
    np.testing.assert_array_equal(classes(dataset)[1], DISC)
    assert "--background 7: no mask holds it" in said(dataset)
    assert "--ignore 9: no mask holds it" in said(dataset)
    with pytest.raises(OptionError, match="a colour"):
        read(root, background="#ff0000")


def test_tissue_up_to_the_border_is_no_background(tmp_path: Path) -> None:
    masks = [np.where(np.arange(SIDE) < 6 * number, 0, 255)[None].repeat(SIDE, 0) for number in range(1, 5)]
    dataset = read(write(tmp_path / "set", *(mask.astype(np.uint8) for mask in masks)))
    assert not dataset.problems


ALPHA = (DISC * 255).astype(np.uint8)
NONE = np.zeros((SIDE, SIDE), np.uint8)
SOFT = ndimage.gaussian_filter(ALPHA.astype(float), 1).round().astype(np.uint8)
PHOTO = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mask", "warning"),
    [
        (np.dstack([NONE, NONE, NONE, ALPHA]), "is black"),
        (np.dstack([NONE, ALPHA]), "is black"),
        (np.dstack([NONE, NONE, NONE, SOFT]), "is black"),
        (np.dstack([NONE + 255, NONE + 255, NONE + 255, SOFT]), "of one colour"),
        (np.dstack([PHOTO, ALPHA]), "photographs"),
        (np.dstack([NONE + 255, NONE + 255, NONE + 255, ALPHA]), ""),
        (np.dstack([ALPHA, NONE, NONE, ALPHA // 2]), ""),
        (np.dstack([ALPHA, ALPHA, ALPHA, NONE + 255]), ""),
    ],
)
def test_masks_in_the_alpha_channel(tmp_path: Path, mask: np.ndarray, warning: str) -> None:
    empty = mask.copy()
    empty[..., :-1] = 0
    empty[..., -1] = 255 if (mask[..., -1] == 255).all() else 0
    dataset = read(write(tmp_path / "set", mask, empty))
    assert (classes(dataset)[1] != DISC).mean() < 0.01
    assert not classes(dataset, 1)
    assert warning in said(dataset) if warning else not dataset.problems


def test_colours_with_alpha_stay_classes(tmp_path: Path) -> None:
    def mask(colour: tuple[int, int, int]) -> np.ndarray:
        return np.where(DISC[..., None], np.uint8([*colour, 255]), np.uint8(0))

    dataset = read(write(tmp_path / "set", mask((255, 0, 0)), mask((0, 255, 0))))
    assert [list(classes(dataset, number)) for number in range(2)] == [[2], [1]]
