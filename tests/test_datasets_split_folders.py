"""Folders inside `images/` that are named for splits are the split, and never read in two ways in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from casam_cache.datasets import Dataset, DatasetOptions, read_dataset
from casam_cache.datasets.splits import SPLIT_FOLDERS
from casam_cache.errors import DatasetError, OptionError


def draw(root: Path, *names: str) -> Path:
    """A dataset of the images `NAME.png` and their masks."""
    rng = np.random.default_rng(0)
    for name in names:
        for kind in ("images", "masks"):
            path = root / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = rng.integers(0, 255, (6, 8)) if kind == "images" else np.eye(6, 8) * 255
            Image.fromarray(grey.astype(np.uint8)).save(path)
    return root


def splits(dataset: Dataset) -> dict[str, str]:
    return {sample.id: sample.split for sample in dataset.samples}


def says(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems]


@pytest.mark.parametrize("folder", ["Train", "training", "VALID", "validation", "val", "Testing", "test"])
@pytest.mark.parametrize("below", ["", "site-1/"])
def test_a_folder_inside_images_is_the_split(tmp_path: Path, folder: str, below: str) -> None:
    root = draw(tmp_path, f"{below}{folder}/1", f"{below}{folder}/2", f"{below}train/3", f"{below}test/3")
    dataset = read_dataset(root)
    assert {split for id, split in splits(dataset).items() if f"{folder}/" in id} == {
        SPLIT_FOLDERS[folder.lower()]
    }
    assert f"images/{below}{folder}" in dataset.split_source
    assert dataset.split_source in dataset.notes[1]
    assert not says(dataset)
    assert all(sample.masks for sample in dataset.samples)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    names=st.lists(
        st.tuples(st.sampled_from(["train", "test", "Testing", "val", "a", ""]), st.sampled_from("abcd")),
        min_size=1, max_size=6, unique_by=lambda name: (name[0].lower(), name[1]),
    ),
    by=st.sampled_from([None, "folders", "drawn"]),
)  # fmt: skip
def test_an_image_in_a_test_folder_never_trains(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]], by: str | None
) -> None:
    root = draw(tmp_path_factory.mktemp("set"), *(f"{folder}/{name}".strip("/") for folder, name in names))
    named = [folder for folder, _ in names if folder.lower() in SPLIT_FOLDERS]
    try:
        dataset = read_dataset(root, DatasetOptions(split_by=by))
    except DatasetError:
        assert not named if by == "folders" else 0 < len(named) < len(names)
        return
    if by != "drawn" and named:
        assert all(SPLIT_FOLDERS[id.split("/")[0].lower()] == split for id, split in splits(dataset).items())
        assert len(dataset.samples) + len([p for p in dataset.problems if p.severity == "error"]) == len(
            names
        )
    else:
        assert len(dataset.samples) == len(names)


def test_images_beside_the_folders_are_refused_with_both_readings(tmp_path: Path) -> None:
    root = draw(tmp_path, "train/1", "test/1", "loose")
    with pytest.raises(DatasetError, match=r"two readings: .*images/test/1.png.*images/loose.png") as refused:
        read_dataset(root)
    assert "--split-by folders" in refused.value.hint
    dataset = read_dataset(root, DatasetOptions(split_by="folders"))
    assert splits(dataset) == {"test/1": "test", "train/1": "train"}
    assert says(dataset) == ["images/loose.png: in no folder of a split, left out (move it into one of them)"]
    assert len(read_dataset(root, DatasetOptions(split_by="drawn")).samples) == 3


def test_a_table_that_differs_is_refused_and_one_that_agrees_brings_groups(tmp_path: Path) -> None:
    root = draw(tmp_path, "train/1", "train/2", "test/1")
    table = root / "split.csv"
    table.write_text("id,split,group\ntrain/1,test,a\ntrain/2,train,b\ntest/1,test,c\n")
    with pytest.raises(
        DatasetError, match=r"images/train/1.png is in train by its folder, and split.csv has it in test"
    ):
        read_dataset(root)
    assert splits(read_dataset(root, DatasetOptions(split_by="table")))["train/1"] == "test"
    assert splits(read_dataset(root, DatasetOptions(split_by="folders")))["train/1"] == "train"
    table.write_text("id,split,group\ntrain/1,train,a\ntrain/2,train,a\n")
    with pytest.raises(
        DatasetError, match=r"images/test/1.png is in test by its folder, and split.csv has no row"
    ):
        read_dataset(root)
    table.write_text("id,split\n1,train\n2,train\n")
    with pytest.raises(
        DatasetError, match=r"two readings: images/test/1.png is in test .* no row has the id"
    ):
        read_dataset(root)
    table.write_text("id,split,group\ntrain/1,train,a\ntrain/2,train,a\ntest/1,test,c\n")
    agreed = read_dataset(root)
    assert [sample.group for sample in agreed.samples] == ["c", "a", "a"]
    assert agreed.split_source == "folders images/test, images/train, as in split.csv"


def test_a_patient_in_two_folders_is_refused_wherever_the_pattern_begins(tmp_path: Path) -> None:
    root = draw(tmp_path, "train/p1_a", "train/p2_a", "test/p1_b")
    with pytest.raises(DatasetError, match="the group 'p1' is parted"):
        read_dataset(root, DatasetOptions(group_regex="^([^_]+)"))
    drawn = read_dataset(root, DatasetOptions(group_regex="^([^_]+)", split_by="drawn", test_fraction=0.5))
    assert len({sample.split for sample in drawn.samples if sample.group == "p1"}) == 1


def test_a_draw_keeps_the_groups_of_the_table_whole(tmp_path: Path) -> None:
    root = draw(tmp_path, *(f"{number:02}" for number in range(12)))
    table = root / "split.csv"
    rows = [f"{number:02}.png,train,p{number % 4}" for number in range(11)]
    table.write_text("\n".join(["id,split,group", *rows, "absent,test,p9"]))
    for seed in range(5):
        drawn = read_dataset(root, DatasetOptions(split_by="drawn", seed=seed))
        assert {sample.group for sample in drawn.samples} == {"p0", "p1", "p2", "p3", "11"}
        sides = {
            sample.group: {one.split for one in drawn.samples if one.group == sample.group}
            for sample in drawn.samples
        }
        assert all(len(splits) == 1 for splits in sides.values())
        assert drawn.split_source.endswith(f"seed {seed}, groups from split.csv")
        assert says(drawn) == []
    alone = read_dataset(root, DatasetOptions(split_by="drawn", group_regex=".+"))
    assert len({sample.group for sample in alone.samples}) == 12
    table.write_text("id;split\n00;train\n")
    plain = read_dataset(root, DatasetOptions(split_by="drawn"))
    assert "split.csv" not in plain.split_source
    table.write_text("id,part\n00,train\n")
    (said,) = says(read_dataset(root, DatasetOptions(split_by="drawn")))
    assert "no column 'split'" in said
    assert "drawn without the groups that it may have" in said


def test_two_splits_in_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lies in folders of two splits, test and train"):
        read_dataset(draw(tmp_path, "train/test/1", "train/2"))


def test_a_set_without_test_folder_says_so(tmp_path: Path) -> None:
    (line,) = says(read_dataset(draw(tmp_path, "train/1", "val/1")))
    assert "no folder of test images" in line
    assert "--evaluate val" in line


def test_options_of_splits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="split by 'names'"):
        DatasetOptions(split_by="names")
    with pytest.raises(DatasetError, match="no image lies in a folder of a split"):
        read_dataset(draw(tmp_path, "a", "b"), DatasetOptions(split_by="folders"))
    with pytest.raises(DatasetError, match="no such file"):
        read_dataset(tmp_path, DatasetOptions(split_by="table"))


def test_a_field_without_end_is_an_error_with_its_line(tmp_path: Path) -> None:
    root = draw(tmp_path, "a", "b")
    (root / "split.csv").write_text('id,split\na,train\n"b' + "x" * 140_000 + ",test\n")
    with pytest.raises(DatasetError, match=r"split.csv, line 3: a field of more than 131,072 characters"):
        read_dataset(root)
    (root / "split.csv").write_text("id,split," + "x" * 140_000 + "\na,train,\n")
    with pytest.raises(DatasetError, match="line 1: a field of more than"):
        read_dataset(root)
