"""What a folder says that would otherwise be read wrongly, or refused with a hint that does not help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Casam
from PIL import Image

from casam_cache.datasets import DatasetOptions, find_tasks, read_dataset
from casam_cache.datasets.check import check
from casam_cache.datasets.legend import read_legend
from casam_cache.errors import DatasetError

HEIGHT, WIDTH = 32, 48


def save(path: Path, array: np.ndarray, **how: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def mask(seed: int, value: int = 255) -> np.ndarray:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left = np.random.default_rng(seed).integers(4, 12, 2)
    drawn[top : top + 12, left : left + 20] = value
    return drawn


def write(root: Path, masks: list[np.ndarray], names: list[str] | None = None, suffix: str = ".png") -> Path:
    for number, drawn in enumerate(masks):
        name = names[number] if names else f"{number:03d}"
        save(root / "images" / f"{name}.png", image(number))
        save(root / "masks" / f"{name}{suffix}", drawn)
    return root


def messages(root: Path, **options: object) -> list[str]:
    return [str(problem) for problem in read_dataset(root, DatasetOptions(**options)).problems]  # type: ignore[arg-type]


def test_masks_that_are_inverted_among_others_are_said(tmp_path: Path) -> None:
    masks = [mask(seed) for seed in range(8)]
    assert messages(write(tmp_path / "right", masks)) == []
    masks[3] = 255 - masks[3]
    (told,) = messages(write(tmp_path / "one", masks))
    assert "1 of 8 masks hold the object's value all along their border" in told
    assert "such as 003.png), 7 the other way round" in told
    filled = [mask(seed) for seed in range(8)]
    filled[2] = np.full_like(filled[2], 255)
    filled[5][0] = 255
    assert messages(write(tmp_path / "filled", filled)) == []


def test_a_drawn_split_that_parts_folders_is_said_with_an_option_that_works(tmp_path: Path) -> None:
    names = [f"p{patient}/{number}" for patient in range(4) for number in range(3)]
    root = write(tmp_path / "set", [mask(seed) for seed in range(12)], names)
    (told,) = messages(root)
    assert "the images lie in 4 folders, of which the drawn split parts" in told
    for pattern, groups in (("^(.+/|.+)", 4), (".+", 12)):
        assert f"--group-regex '{pattern}'" in told
        dataset = read_dataset(root, DatasetOptions(group_regex=pattern))
        assert dataset.problems == ()
        assert len({sample.group for sample in dataset.samples}) == groups
    assert messages(root, test_fraction=1.0) == []


def test_lossy_masks_of_0_and_1_are_not_offered_what_cannot_help(tmp_path: Path) -> None:
    faint = write(tmp_path / "faint", [mask(seed, 1) for seed in range(4)], suffix=".jpg")
    told = messages(faint)
    assert len(told) == 4
    assert all("a label map in a lossy JPEG file" in one and "--masks" not in one for one in told)


def test_a_folder_deeper_is_named(tmp_path: Path) -> None:
    write(tmp_path / "archive" / "inner" / "set", [mask(seed) for seed in range(3)])
    with pytest.raises(DatasetError) as told:
        find_tasks(tmp_path)
    assert told.value.hint == f"one lies deeper: give {tmp_path / 'archive' / 'inner' / 'set'}"
    write(tmp_path / "archive" / "inner" / "other", [mask(seed) for seed in range(3)])
    with pytest.raises(DatasetError) as told:
        find_tasks(tmp_path)
    assert told.value.hint == f"one lies deeper: give {tmp_path / 'archive' / 'inner'}"
    assert len(find_tasks(tmp_path / "archive" / "inner")) == 2


def test_what_lies_beside_images_without_masks_is_named(tmp_path: Path) -> None:
    other, text = tmp_path / "other", tmp_path / "text"
    for number in range(3):
        for folder in ("images", "masks_by_a", "masks_by_b"):
            save(other / folder / f"{number}.png", image(number))
        save(text / "images" / f"{number}.png", image(number))
    (text / "README.txt").write_text("about")
    (text / "annotations.xml").write_text("<annotations/>")
    with pytest.raises(DatasetError, match=r"masks_by_a/, masks_by_b/ may hold masks by another name"):
        read_dataset(other)
    with pytest.raises(
        DatasetError, match=r"no masks/ folder; annotations\.xml is in no layout that is read"
    ):
        read_dataset(text)


def test_test_images_without_masks_are_no_test_split_and_no_empty_masks(tmp_path: Path) -> None:
    write(tmp_path / "train", [mask(seed) for seed in range(6)])
    for number in range(3):
        save(tmp_path / "test" / "images" / f"{number}.png", image(number + 10))
    told = messages(tmp_path)
    assert sum("no mask (add test/masks/" in one for one in told) == 3
    (hint,) = (one for one in told if "all images that can be used are for training" in one)
    assert "--split-by drawn" in hint
    drawn = read_dataset(tmp_path, DatasetOptions(split_by="drawn"))
    assert {sample.split for sample in drawn.samples} == {"train", "test"}
    (report,) = check(tmp_path, DatasetOptions(unlabelled=True)).tasks
    assert report.problems == ()


def test_masks_of_one_value_all_over_are_said(tmp_path: Path) -> None:
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    (told,) = messages(write(tmp_path / "white", [white] * 3))
    assert "all 3 masks hold 255 in every pixel" in told
    assert messages(write(tmp_path / "some", [white, white, mask(1)])) == []


def test_a_table_of_other_columns_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", image(1))
    save(tmp_path / "b" / "1.png", mask(1))
    table = tmp_path / "dataset.csv"
    for text, told in (
        (
            b"image_path,mask_path\na/1.png,b/1.png\n",
            r"no column 'image' \(the first line is 'image_path,mask_path'\)",
        ),
        ("image,mask\na/1.png,b/1.png\n".encode("utf-16"), "cannot be read"),
    ):
        table.write_bytes(text)
        with pytest.raises(DatasetError, match=rf"dataset\.csv: {told}"):
            find_tasks(tmp_path)
    table.write_text("image,mask\na/1.png,b/1.png\n")
    assert find_tasks(tmp_path) == [tmp_path]


def test_the_legend_that_cvat_writes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "labelmap.txt"
    file.write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ntumor:250,50,83::\nold vein:51,221,255:a,b:\n"
    )
    expected = (("background", "#000000"), ("tumor", "#fa3253"), ("old vein", "#33ddff"))
    assert read_legend(file) == expected


def test_problems_of_one_kind_are_shown_up_to_a_number(tmp_path: Path, casam: Casam) -> None:
    masks = [mask(seed) for seed in range(60)]
    masks[1:] = [drawn[::2, ::2] for drawn in masks[1:]]
    root = write(tmp_path / "set", masks)
    (root / "masks" / "000.png").write_bytes(b"")
    casam("data", "check", root, "--sheets", tmp_path / "sheets")
    told = casam.out + casam.err
    assert told.count("the mask has 24 x 16 pixels") == 50
    assert "and 9 more of this kind; --json lists all" in told
    assert "000.png: the file is empty" in told
