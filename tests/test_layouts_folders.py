"""Plain folders under the names that people give them: folders, marks of masks, several masks an image."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import Casam
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from casam_cache.datasets import Dataset, find_reader, find_tasks, read_dataset, read_masks
from casam_cache.datasets.pairing import MASK_MARKS, nearest_pair, pair, split_marked, what_parts
from casam_cache.datasets.places import IMAGE_FOLDERS, MASK_FOLDERS
from casam_cache.datasets.splits import SPLIT_FOLDERS
from casam_cache.errors import DatasetError

TINY = ("--model", "small", "--name", "tiny", "--checkpoint")
NAMES = ("échographie (1)", "b 2", "c", "d")


def save(path: Path, number: int, *, mask: bool = False, size: tuple[int, int] = (24, 32)) -> Path:
    """A seeded picture, or a mask whose disc lies where `number` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[: size[0], : size[1]]
    disc = (y - 6 - number % 12) ** 2 + (x - 8 - number % 16) ** 2 < 16
    noise = np.random.default_rng(number).integers(0, 200, (*size, 3)).astype(np.uint8)
    Image.fromarray(disc.astype(np.uint8) * 255 if mask else noise).save(path)
    return path


def masks_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {sample.source: sample.masks for sample in dataset.samples}


def problems(dataset: Dataset) -> list[str]:
    return [f"{problem.severity} {problem}" for problem in dataset.problems]


@pytest.mark.parametrize(
    "masks", ["labels", "annotations", "gt", "GT", "Ground_Truth", "segmentations", "Mask"]
)
@pytest.mark.parametrize("images", ["images", "image", "imgs", "Images", "Original"])
def test_folders_of_many_names(tmp_path: Path, images: str, masks: str) -> None:
    for number, name in enumerate(NAMES):
        save(tmp_path / images / f"{name}.jpg", number)
        save(tmp_path / masks / f"{name}.png", number, mask=True)
    dataset = read_dataset(tmp_path)
    assert not dataset.problems
    assert masks_of(dataset) == {f"{images}/{name}.jpg": (f"{masks}/{name}.png",) for name in NAMES}
    first = sorted(NAMES)[0]
    assert dataset.notes[0] == f"folders of images and masks: {images}/{first}.jpg + {masks}/{first}.png"
    assert {name for name, _, _ in dataset.reader.files(tmp_path)} == {
        f"{folder}/{name}{suffix}" for folder, suffix in ((images, ".jpg"), (masks, ".png")) for name in NAMES
    }


@pytest.mark.parametrize(
    "name", ["{}_mask", "{}_segmentation", "{}-mask", "{}_GT", "{}_anno", "{}.label", "mask_{}", "{}.jpg"]
)
def test_marks_beside_the_images_and_in_a_folder_of_their_own(tmp_path: Path, name: str) -> None:
    for number, stem in enumerate(NAMES):
        save(tmp_path / "apart" / "images" / f"{stem}.jpg", number)
        save(tmp_path / "apart" / "masks" / f"{name.format(stem)}.png", number, mask=True)
        save(tmp_path / "together" / f"{stem}.jpg", number)
        save(tmp_path / "together" / f"{name.format(stem)}.png", number, mask=True)
    (tmp_path / "together" / "README.txt").write_text("x")
    assert find_tasks(tmp_path) == [tmp_path / "apart", tmp_path / "together"]
    apart, together = read_dataset(tmp_path / "apart"), read_dataset(tmp_path / "together")
    wanted = {f"{stem}.jpg": (f"{name.format(stem)}.png",) for stem in NAMES}
    assert masks_of(together) == wanted
    assert masks_of(apart) == {f"images/{image}": (f"masks/{mask}",) for image, (mask,) in wanted.items()}
    assert problems(apart) == problems(together) == []
    assert apart.mask_mode == together.mask_mode == "binary"
    for one, other in zip(apart.samples, together.samples, strict=True):
        (first,), (second,) = read_masks(apart, one, (24, 32)), read_masks(together, other, (24, 32))
        assert np.array_equal(first.bitmap, second.bitmap)


def test_both_names_are_marked(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "train" / "img" / f"case{number}_img.jpg", number)
        save(tmp_path / "train" / "mask" / f"case{number}_mask.jpg", number, mask=True)
    save(tmp_path / "test" / "img_7.png", 7)
    save(tmp_path / "test" / "mask_7.png", 7, mask=True)
    dataset = read_dataset(tmp_path)
    assert [(s.id, s.split, s.masks) for s in dataset.samples[:2]] == [
        ("test/img_7", "test", ("test/mask_7.png",)),
        ("train/case0_img", "train", ("train/mask/case0_mask.jpg",)),
    ]
    assert len(dataset.samples) == 4


@pytest.mark.parametrize(
    ("images", "masks"),
    [("{}_images", "{}_masks"), ("{}", "{}_labels"), ("images-{}", "gt-{}"), ("{}/Images", "{}/GT")],
)
def test_a_folder_a_split(tmp_path: Path, images: str, masks: str) -> None:
    for split, count in (("Training", 3), ("valid", 1), ("test", 2)):
        for number in range(count):
            save(tmp_path / images.format(split) / f"{number}.png", number)
            save(tmp_path / masks.format(split) / f"{number}.png", number, mask=True)
    dataset = read_dataset(tmp_path)
    assert not dataset.problems
    assert [sample.split for sample in dataset.samples].count("train") == 3
    assert {
        (s.split, s.source.replace("images", "").strip("/-_").casefold()[:4]) for s in dataset.samples
    } >= {
        ("val", "vali"),
        ("test", "test"),
    }


def test_busi_has_several_masks_an_image(tmp_path: Path, casam: Casam, tiny_checkpoint: Path) -> None:
    folder = tmp_path / "Dataset_BUSI_with_GT" / "benign"
    for number in range(1, 5):
        save(folder / f"benign ({number}).png", number)
        save(folder / f"benign ({number})_mask.png", number, mask=True)
    for number in (1, 2, 10):
        save(folder / f"benign (4)_mask_{number}.png", 4 + number, mask=True)
    dataset = read_dataset(folder)
    assert dataset.samples[3].masks == tuple(f"benign (4)_mask{more}.png" for more in ("", "_1", "_2", "_10"))
    assert (dataset.mask_mode, dataset.problems) == ("instances", ())
    assert [mask.instance for mask in read_masks(dataset, dataset.samples[3])] == [1, 2, 3, 4]
    casam("encode", folder.parent, *TINY, tiny_checkpoint)
    assert casam.code == 0, casam.err
    line = (
        "benign: images and masks in one folder: benign (4).png + benign (4)_mask.png + benign (4)_mask_1.png"
    )
    assert line in casam.err
    report = casam.json("encode", folder, *TINY, tiny_checkpoint)["tasks"][0]
    assert (report["encoded"], report["masks"]) == (0, 7)
    assert casam.json("encode", folder, "--masks", "binary", *TINY, tiny_checkpoint)["tasks"][0]["masks"] == 4


def test_what_can_be_read_in_two_ways_is_shown_in_both(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "twice" / f"{number}.png", number)
        save(tmp_path / "twice" / f"{number}_mask.png", number, mask=True)
        save(tmp_path / "twice" / f"{number}_seg.png", number, mask=True)
        for folder in ("images", "mask", "1st_manual"):
            save(tmp_path / "drive" / folder / f"{number}.tif", number, mask=folder != "images")
    with pytest.raises(DatasetError, match=r"0\.png: two readings, .* 0_mask\.png and 0_seg\.png; so for 3"):
        read_dataset(tmp_path / "twice")
    with pytest.raises(DatasetError, match="the masks may be those of 1st_manual/ and mask/") as error:
        read_dataset(tmp_path / "drive")
    assert "masks/" in error.value.hint
    (tmp_path / "drive" / "1st_manual").rename(tmp_path / "drive" / "masks")  # as the hint says
    assert read_dataset(tmp_path / "drive").samples[0].masks == ("masks/0.tif",)
    for number in (1, 2):
        (tmp_path / "twice" / f"{number}_seg.png").unlink()
    (line,) = problems(read_dataset(tmp_path / "twice"))
    assert (
        line
        == "error 0.png: two readings, the mask of this image may be: 0_mask.png and 0_seg.png (keep one)"
    )


def test_a_second_mask_under_another_name_is_reported(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        save(tmp_path / "images" / f"{name}.png", number)
        save(tmp_path / "masks" / f"{name}.png", number, mask=True)
    save(tmp_path / "masks" / "c_1.png", 9, mask=True)
    save(tmp_path / "masks" / "zz.png", 9, mask=True)
    first, second = problems(read_dataset(tmp_path))
    assert first.startswith(
        "warning masks/c_1.png: a mask without an image; the nearest, images/c.png, has a mask"
    )
    assert second.startswith("warning masks/zz.png: a mask without an image (give it")


def test_case_is_minded_only_where_it_tells_images_apart(tmp_path: Path) -> None:
    save(tmp_path / "images" / "IMG_1.JPG", 1)
    save(tmp_path / "masks" / "img_1.png", 1, mask=True)
    assert masks_of(read_dataset(tmp_path)) == {"images/IMG_1.JPG": ("masks/img_1.png",)}
    assert pair(["A", "a", "B"], ["A_mask", "a_mask", "b"]).masks == {
        "A": ["A_mask"], "a": ["a_mask"], "B": ["b"]
    }  # fmt: skip
    assert pair(["Ab", "aB"], ["ab_mask"]).ambiguous == {"ab_mask": [("Ab", "ab_mask"), ("aB", "ab_mask")]}


def test_composed_and_decomposed_accents_are_one_name(tmp_path: Path) -> None:
    save(tmp_path / "images" / f"{unicodedata.normalize('NFD', 'café')}.png", 1)
    save(tmp_path / "gt" / f"{unicodedata.normalize('NFC', 'café')}_mask.png", 1, mask=True)
    assert read_dataset(tmp_path).samples[0].id == "café"


@pytest.mark.parametrize(
    ("image", "mask", "what"),
    [
        ("img_1", "img_001", "the zeros in front of a number"),
        ("a", "a_object", "the ending '_object' of the mask"),
        ("ct_0000", "ct", "the ending '_0000' of the image"),
        ("a", "roi_a", "the beginning 'roi_' of the mask"),
    ],
)
def test_what_keeps_names_apart_is_said(tmp_path: Path, image: str, mask: str, what: str) -> None:
    assert nearest_pair([image, "zz"], ["yy", mask]) == (image, mask)
    assert what_parts(image, mask) == what
    save(tmp_path / "images" / f"{image}.png", 1)
    save(tmp_path / "labels" / f"{mask}.png", 1, mask=True)
    with pytest.raises(DatasetError, match="keeps them apart") as error:
        read_dataset(tmp_path)
    assert what in error.value.message
    assert "--unlabelled" not in error.value.hint


def test_a_folder_of_photographs_is_no_dataset(tmp_path: Path) -> None:
    for name in ("a", "b_mask", "image_1"):
        save(tmp_path / f"{name}.png", 1)
    assert find_reader(tmp_path) is None


STEMS = st.text("abmsk_ (1)-é", min_size=1, max_size=8).map(lambda text: f"x{text}y")


@given(
    st.sets(STEMS, min_size=1),
    st.sampled_from(MASK_MARKS),
    st.sampled_from("_- ."),
    st.booleans(),
    st.integers(0, 2),
)
def test_one_mark_pairs_every_image(stems: set[str], mark: str, between: str, front: bool, more: int) -> None:
    marked = {stem: [f"{mark}{between}{stem}" if front else f"{stem}{between}{mark}"] for stem in stems}
    if not front:
        marked = {
            stem: [*one, *(f"{one[0]}_{number}" for number in range(1, more + 1))]
            for stem, one in marked.items()
        }
    masks = [mask for of_image in marked.values() for mask in of_image]
    paired = pair(stems, masks)
    assert paired.masks == marked
    assert not paired.orphans
    assert not paired.ambiguous
    assert split_marked([*stems, *masks]) == (stems, set(masks))


def test_no_name_means_two_things() -> None:
    assert not set(IMAGE_FOLDERS) & set(MASK_FOLDERS)
    assert not set(SPLIT_FOLDERS) & {*IMAGE_FOLDERS, *MASK_FOLDERS}
