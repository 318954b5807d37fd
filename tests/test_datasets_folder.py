"""The folder reader: layouts, what is ignored, what becomes a problem, and what stops everything."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets import Dataset, DatasetOptions, find_tasks, read_dataset, read_masks
from casam_cache.datasets.places import listing
from casam_cache.datasets.readers import task_name
from casam_cache.errors import CasamError, DatasetError, OptionError

IMAGE = (np.arange(64 * 3).reshape(8, 8, 3) % 251).astype(np.uint8)
MASK = np.zeros((8, 8), np.uint8)
MASK[2:5, 3:7] = 255


def save(path: Path, array: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make(root: Path, names: list[str], mask: np.ndarray = MASK) -> Path:
    for name in names:
        save(root / "images" / f"{name}.png")
        save(root / "masks" / f"{name}.png", mask)
    return root


def problems(dataset: Dataset) -> list[str]:
    return [f"{problem.severity} {problem}" for problem in dataset.problems]


def test_pairs_by_stem_whatever_the_format(tmp_path: Path) -> None:
    save(tmp_path / "images" / "b.JPG")
    save(tmp_path / "images" / "a.tiff")
    save(tmp_path / "images" / "day.1" / "c.x.png")
    save(tmp_path / "masks" / "a.PNG", MASK)
    save(tmp_path / "masks" / "b.gif", MASK)
    save(tmp_path / "masks" / "day.1" / "c.x.bmp", MASK)
    dataset = read_dataset(tmp_path)
    assert [sample.id for sample in dataset.samples] == ["a", "b", "day.1/c.x"]
    assert dataset.samples[2].masks == ("masks/day.1/c.x.bmp",)
    assert dataset.task == tmp_path.name
    assert dataset.mask_mode == "binary"
    assert not dataset.problems
    assert {sample.split for sample in dataset.samples} == {"train", "test"}
    assert all(sample.group == sample.id for sample in dataset.samples)
    assert len(list(read_masks(dataset, dataset.samples[1], (8, 8)))) == 1


def test_litter_is_ignored_and_links_are_followed(tmp_path: Path) -> None:
    root = make(tmp_path / "set", ["a", "b"])
    for litter in (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini"):
        (root / "images" / litter).write_text("x")
        (root / "masks" / litter).write_text("x")
    save(root / "images" / "__MACOSX" / "a.png")
    elsewhere = make(tmp_path / "elsewhere", ["c"])
    (root / "images" / "more").symlink_to(elsewhere / "images")
    (root / "masks" / "more").symlink_to(elsewhere / "masks")
    (root / "images" / "loop").symlink_to(root / "images")
    dataset = read_dataset(root)
    assert [sample.id for sample in dataset.samples] == ["a", "b", "more/c"]
    assert not dataset.problems


def test_split_folders(tmp_path: Path) -> None:
    make(tmp_path / "train", ["1", "2"])
    make(tmp_path / "test", ["1"])
    make(tmp_path / "val", ["1"])
    dataset = read_dataset(tmp_path, DatasetOptions(val_fraction=0.5))
    assert [(s.id, s.split) for s in dataset.samples] == [
        ("test/1", "test"),
        ("train/1", "train"),
        ("train/2", "train"),
        ("val/1", "val"),
    ]
    assert problems(dataset) == ["warning .: has a validation split of its own: --val-fraction is not used"]


def test_split_folders_may_not_part_a_group(tmp_path: Path) -> None:
    make(tmp_path / "train", ["p1_a", "p2_a"])
    make(tmp_path / "test", ["p1_b", "p3_a"])
    assert len(read_dataset(tmp_path).samples) == 4
    with pytest.raises(DatasetError, match="the group 'p1' is parted"):
        read_dataset(tmp_path, DatasetOptions(group_regex=r"^(p\d)_"))


def test_split_csv(tmp_path: Path) -> None:
    make(tmp_path, ["a", "b.1", "c", "sub/d", "left"])
    (tmp_path / "split.csv").write_text(
        "id,split,group\na.png,train,p1\nb.1,train,p1\nc,test,\nsub/d,train,p3\ngone,test,p9\n"
    )
    dataset = read_dataset(tmp_path, DatasetOptions(val_fraction=0.4))
    found = {sample.id: (sample.split, sample.group) for sample in dataset.samples}
    assert found["c"] == ("test", "c")
    assert found["a"] == found["b.1"]
    assert {found["a"][0], found["sub/d"][0]} == {"train", "val"}
    assert problems(dataset) == [
        "warning split.csv: line 6: no image has the id 'gone' (remove the row)",
        "error images/left.png: no row for the id 'left' in split.csv, left out (add one)",
    ]
    (tmp_path / "split.csv").write_text("id,split,group\na,train,p1\nc,test,p1\n")
    with pytest.raises(DatasetError, match=r"split\.csv: the group 'p1' is parted over test \('c'\)"):
        read_dataset(tmp_path)
    (tmp_path / "split.csv").write_text("id,split\nx,train\n")
    with pytest.raises(DatasetError, match="no row has the id of an image, for example 'a'"):
        read_dataset(tmp_path)
    (tmp_path / "split.csv").write_text("id,split\na,train\na.png,test\n")
    with pytest.raises(DatasetError, match="a second row for the id 'a'"):
        read_dataset(tmp_path)


def test_seeded_split_by_group(tmp_path: Path) -> None:
    make(tmp_path, [f"p{patient}_{number}" for patient in range(6) for number in range(2)])
    options = DatasetOptions(group_regex=r"^(p\d)_", test_fraction=0.34, val_fraction=0.25, seed=3)
    dataset = read_dataset(tmp_path, options)
    assert Counter(sample.split for sample in dataset.samples) == {"train": 6, "test": 4, "val": 2}
    assert dataset.samples == read_dataset(tmp_path, options).samples
    with pytest.raises(DatasetError, match="finds no group in the id 'p0_0'"):
        read_dataset(tmp_path, DatasetOptions(group_regex="patient"))


def test_one_group_alone_says_so(tmp_path: Path) -> None:
    make(tmp_path, ["p_1", "p_2"])
    dataset = read_dataset(tmp_path, DatasetOptions(group_regex="^p", val_fraction=0.5))
    assert {sample.split for sample in dataset.samples} == {"train"}
    assert len(dataset.problems) == 2


def test_bad_files_become_problems_and_sink_nothing(tmp_path: Path) -> None:
    make(tmp_path, ["ok", "size", "text", "cut", "twice", "twin"])
    save(tmp_path / "masks" / "size.png", MASK[:6])
    (tmp_path / "images" / "text.png").write_text("hello")
    cut = tmp_path / "masks" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:50])
    save(tmp_path / "images" / "twice.jpg")
    save(tmp_path / "masks" / "twin.gif", MASK)
    save(tmp_path / "images" / "bare.png")
    save(tmp_path / "masks" / "orphan.png", MASK)
    (tmp_path / "images" / "notes.txt").write_text("x")
    dataset = read_dataset(tmp_path)
    assert [sample.id for sample in dataset.samples] == ["cut", "ok", "size", "text"]
    assert dataset.mask_mode == "binary"
    found = problems(dataset)
    for start in (
        "error images/bare.png: no mask (add masks/bare.png",
        "error masks/cut.png: cannot be decoded, it is damaged or truncated",
        "error masks/size.png: the mask has 8 x 6 pixels, its image 8 x 8",
        "error images/text.png: not an image",
        "error images/twice.jpg: two images of one name: images/twice.jpg and images/twice.png",
        "error masks/twin.gif: two masks of one name: masks/twin.gif and masks/twin.png",
        "warning masks/orphan.png: a mask without an image",
        "warning images/notes.txt: not an image by its suffix",
    ):
        assert sum(line.startswith(start) for line in found) == 1, (start, found)
    assert len(found) == 8
    assert not any(str(tmp_path) in line for line in found)


def test_unlabelled(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png")
    with pytest.raises(DatasetError, match="no masks/ folder") as error:
        read_dataset(tmp_path)
    assert "--unlabelled" in error.value.hint
    dataset = read_dataset(tmp_path, DatasetOptions(unlabelled=True))
    assert (dataset.samples[0].labelled, dataset.samples[0].masks, dataset.mask_mode) == (False, (), "binary")
    make(tmp_path, ["b"])
    dataset = read_dataset(tmp_path, DatasetOptions(unlabelled=True))
    assert [sample.labelled for sample in dataset.samples] == [False, True]


def test_masks_as_folders_of_objects(tmp_path: Path) -> None:
    make(tmp_path, ["plain"])
    save(tmp_path / "images" / "many.png")
    save(tmp_path / "images" / "none.png")
    for name in ("2", "1"):
        save(tmp_path / "masks" / "many" / f"{name}.png", MASK)
    (tmp_path / "masks" / "none").mkdir()
    dataset = read_dataset(tmp_path)
    assert not dataset.problems
    assert dataset.mask_mode == "instances"
    many, none, plain = dataset.samples
    assert [name.rpartition("/")[2] for name in many.masks] == ["1.png", "2.png"]
    assert (many.one_object_a_file, none.one_object_a_file, plain.one_object_a_file) == (True, True, False)
    assert none.labelled
    counts = [len(list(read_masks(dataset, s))) for s in dataset.samples]
    assert counts == [2, 0, 1]
    save(tmp_path / "masks" / "many.png", MASK)
    assert any("two masks of one name" in line for line in problems(read_dataset(tmp_path)))


def test_the_mode_is_decided_over_all_masks(tmp_path: Path) -> None:
    make(tmp_path, ["a"], MASK // 255)
    assert read_dataset(tmp_path).mask_mode == "binary"
    make(tmp_path, ["b"], MASK // 255 * np.uint8(2))
    dataset = read_dataset(tmp_path)
    assert (dataset.mask_mode, dataset.values.values) == ("classes", (0, 1, 2))
    assert dataset.mask_reason == "the masks hold 3 values: 0, 1, 2"
    assert read_dataset(tmp_path, DatasetOptions(masks="components")).mask_mode == "components"
    many = np.arange(64, dtype=np.uint8).reshape(8, 8) + 10
    make(tmp_path, ["c"], many)
    (line,) = problems(read_dataset(tmp_path))
    assert "66 different values" in line
    assert "--masks instances" in line


def test_grey_among_colour_masks_is_said(tmp_path: Path) -> None:
    make(tmp_path, ["a"], np.stack([MASK, MASK * 0, MASK * 0], 2))
    make(tmp_path, ["b"])
    make(tmp_path, ["c"], MASK.astype(np.uint16) * 100)
    dataset = read_dataset(tmp_path)
    assert [line.split(" (")[0] for line in problems(dataset)] == [
        "error masks/c.png: a label map of more than 8 bits among colour masks",
        "warning masks: 1 masks in colour and 2 in grey; grey values are taken as colours",
    ]


@pytest.mark.parametrize("names", [["images"], ["train/images", "test/images"]])
def test_empty_layouts(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DatasetError, match="is empty"):
        read_dataset(tmp_path)


def test_masks_that_match_nothing_are_explained(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a_object.png", MASK)
    match = r"images/a\.png and masks/a_object\.png: the ending '_object' of the mask keeps them apart"
    with pytest.raises(DatasetError, match=match) as error:
        read_dataset(tmp_path)
    assert "--unlabelled" not in error.value.hint


def test_mixed_layouts_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "train", ["a"])
    make(tmp_path / "test", ["b"])
    (tmp_path / "split.csv").write_text("id,split\n")
    with pytest.raises(DatasetError, match=r"holds both split\.csv and train/"):
        read_dataset(tmp_path)
    make(tmp_path, ["c"])
    with pytest.raises(DatasetError, match="holds both images/ and train/images/"):
        read_dataset(tmp_path)


def test_find_tasks(tmp_path: Path) -> None:
    one, two = make(tmp_path / "B", ["a"]), make(tmp_path / "A" / "train", ["a"]).parent
    (tmp_path / "other").mkdir()
    (tmp_path / ".hidden" / "images").mkdir(parents=True)
    assert find_tasks(tmp_path) == [two, one]
    assert find_tasks(str(one)) == [one]
    with pytest.raises(DatasetError, match=r"a folder of 2 datasets, not a dataset"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no dataset here; it holds no folder") as error:
        find_tasks(tmp_path / "other")
    assert "images/ and masks/" in error.value.hint
    make(tmp_path / "other" / "deep" / "set", ["a"])
    with pytest.raises(DatasetError, match="no dataset here; it holds the folders deep"):
        find_tasks(tmp_path / "other")
    with pytest.raises(DatasetError, match="there is no such folder"):
        find_tasks(tmp_path / "gone")
    with pytest.raises(DatasetError, match="a file, not a folder"):
        find_tasks(save(tmp_path / "x.png"))


def test_task_names(tmp_path: Path) -> None:
    assert task_name(tmp_path / "Glomeruli A (2)") == "Glomeruli A (2)"
    for name in ("a:b", "x" * 101, "-x", "what?", "dot."):
        with pytest.raises(DatasetError, match="cannot name a task"):
            task_name(tmp_path / name)
    assert find_tasks(make(tmp_path / "ok", ["a"]))
    with pytest.raises(DatasetError, match="cannot name a task"):
        find_tasks(make(tmp_path / "a:b", ["a"]))


def test_names_no_store_could_keep(tmp_path: Path) -> None:
    make(tmp_path, ["a"])
    try:
        (tmp_path / "images" / os.fsdecode(b"b\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    line, *_ = problems(read_dataset(tmp_path))
    line.encode()
    assert "not printable text" in line


def test_options_are_checked() -> None:
    assert DatasetOptions(masks="auto") == DatasetOptions()
    for wrong in (
        {"masks": "panoptic"},
        {"test_fraction": 1.5},
        {"val_fraction": 1.0},
        {"group_regex": "("},
        {"max_pixels": 0},
    ):
        with pytest.raises(OptionError):
            DatasetOptions(**wrong)
    with pytest.raises(CasamError, match="binary, classes"):
        DatasetOptions(masks="x")


def test_progress_counts_every_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    read_dataset(make(tmp_path, ["a", "b"]), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_listing_sees_every_change_and_is_quick(tmp_path: Path) -> None:
    make(tmp_path, ["a", "sub/b"])
    (tmp_path / "split.csv").write_text("id,split\n")
    (tmp_path / "images" / ".DS_Store").touch()
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    before = listing(tmp_path)
    names = [
        "images/a.png",
        "images/gone.png",
        "images/sub/b.png",
        "masks/a.png",
        "masks/sub/b.png",
        "split.csv",
    ]
    assert [name for name, _, _ in before] == names
    assert listing(tmp_path) == before
    save(tmp_path / "masks" / "a.png", MASK * 0)
    os.utime(tmp_path / "masks" / "a.png", ns=(1, 1))
    assert listing(tmp_path) != before
    (tmp_path / "images" / "many").mkdir()
    for number in range(2000):
        (tmp_path / "images" / "many" / f"{number}.png").touch()
    start = time.perf_counter()
    assert len(listing(tmp_path)) == 2006
    assert time.perf_counter() - start < 0.5


def test_importing_brings_nothing_heavy() -> None:
    heavy = "{'torch', 'scipy', 'zarr', 'pydantic'}"
    code = f"import sys, casam_cache.datasets; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
