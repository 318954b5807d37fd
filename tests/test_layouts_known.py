"""Pascal VOC and nnU-Net's flat images; what a folder that nobody recognises is told; folders of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Casam
from PIL import Image

from casam_cache.datasets import DatasetOptions, find_tasks, read_dataset, read_masks
from casam_cache.errors import DatasetError

TINY = ("--model", "small", "--name", "tiny", "--checkpoint")


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (24, 32, 3)).astype(np.uint8)


def squares(*values: int, rim: bool = False) -> np.ndarray:
    """A square a value, 6 pixels wide, with a rim of 255 round each."""
    drawn = np.zeros((24, 32), np.uint8)
    for place, value in enumerate(values):
        if rim:
            drawn[3:11, 10 * place + 1 : 10 * place + 9] = 255
        drawn[4:10, 10 * place + 2 : 10 * place + 8] = value
    return drawn


def voc(root: Path) -> Path:
    palette = np.random.default_rng(0).integers(0, 255, 768).tolist()
    for number in range(6):
        name = f"2007_00{number}é"
        save(root / "JPEGImages" / f"{name}.jpg", picture(number))
        for folder, values in (("SegmentationClass", (5, 5, 9)), ("SegmentationObject", (1, 2, 3))):
            drawn = Image.fromarray(squares(*values, rim=True))
            drawn.putpalette(palette)
            (root / folder).mkdir(exist_ok=True)
            drawn.save(root / folder / f"{name}.png")
    save(root / "JPEGImages" / "without.jpg", picture(9))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names = [f"2007_00{number}é" for number in range(6)]
    for split, of_split in (
        ("train", names[:3]),
        ("val", names[3:5]),
        ("trainval", names[:5]),
        ("test", ["without"]),
    ):
        (lists / f"{split}.txt").write_text("\n".join(of_split) + "\n", encoding="utf-8")
    return root


def test_voc_has_its_lists_and_a_rim_that_counts_nowhere(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2012")
    dataset = read_dataset(root)
    assert dataset.reader.name == "voc"
    assert [sample.split for sample in dataset.samples] == ["train"] * 3 + ["val"] * 2
    assert dataset.split_source == "ImageSets/Segmentation"
    assert (dataset.mask_mode, dataset.values.foreground, dataset.values.ignore) == ("classes", (5, 9), 255)
    found = [
        (mask.class_id, int(mask.bitmap.sum())) for mask in read_masks(dataset, dataset.samples[0], (24, 32))
    ]
    assert found == [(5, 72), (9, 36)]
    ignored = dataset.reader.ignored(dataset, dataset.samples[0])
    assert ignored is not None
    assert int(ignored.sum()) == 3 * 28
    assert [problem.message for problem in dataset.problems] == [
        "1 listed images have no mask in SegmentationClass/, for example without; left out",
        "1 masks are in no list of ImageSets/Segmentation, for example SegmentationClass/2007_005é.png; left out",
    ]
    objects = read_dataset(root, DatasetOptions(masks="instances"))
    assert [mask.instance for mask in read_masks(objects, objects.samples[0])] == [1, 2, 3]
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000é\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"'2007_000é' is in train\.txt and in val\.txt"):
        read_dataset(root)


def test_voc_of_one_thing_is_not_all_rim(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "JPEGImages" / f"{number}.jpg", picture(number))
        save(tmp_path / "SegmentationClass" / f"{number}.png", squares(255))
    dataset = read_dataset(tmp_path)
    assert (dataset.mask_mode, dataset.values.ignore) == ("binary", None)
    assert [mask.bitmap.sum() for mask in read_masks(dataset, dataset.samples[0])] == [36]


def test_voc_in_its_colours_has_the_colour_of_the_rim(tmp_path: Path) -> None:
    colours = np.zeros((256, 3), np.uint8)
    colours[[5, 9, 255]] = (128, 0, 128), (192, 0, 0), (224, 224, 192)
    for number in range(3):
        save(tmp_path / "JPEGImages" / f"{number}.jpg", picture(number))
        save(tmp_path / "SegmentationClass" / f"{number}.png", colours[squares(5, 9, rim=True)])
    dataset = read_dataset(tmp_path)
    assert (dataset.mask_mode, dataset.values.ignore) == ("classes", 0xE0E0C0)
    found = [int(mask.bitmap.sum()) for mask in read_masks(dataset, dataset.samples[0])]
    assert found == [36, 36]


def nnunet(root: Path, channels: int = 1) -> Path:
    for side, count in (("Tr", 4), ("Ts", 2)):
        for number in range(count):
            for channel in range(channels):
                save(
                    root / f"images{side}" / f"peau_{side}{number}_{channel:04d}.png",
                    picture(number + channel),
                )
            save(root / f"labels{side}" / f"peau_{side}{number}.png", squares(1, 2))
    told = {"channel_names": {"0": "R", "1": "NIR"}, "labels": {"background": 0, "skin": 1, "mole": 2}}
    (root / "dataset.json").write_text(json.dumps(told))
    return root


def test_flat_nnunet(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "Dataset001_Skin")
    dataset = read_dataset(root)
    assert dataset.reader.name == "nnunet-2d"
    assert [(s.id, s.split) for s in dataset.samples][3:5] == [("peau_Tr3", "train"), ("peau_Ts0", "test")]
    assert dataset.mask_mode == "classes"
    assert dataset.notes[0].endswith(
        "imagesTr/peau_Tr0_0000.png + labelsTr/peau_Tr0.png; 0 background, 1 skin, 2 mole"
    )
    for file in (root / "labelsTs").iterdir():
        file.unlink()
    alone = read_dataset(root)
    assert {sample.split for sample in alone.samples} == {"train", "test"}
    assert len(alone.samples) == 4
    assert "2 images have no labels, for example imagesTs/peau_Ts0_0000.png" in str(alone.problems[0])
    with pytest.raises(DatasetError, match=r"images of 2 channels, .*: _0000 \(R\) and _0001 \(NIR\)"):
        read_dataset(nnunet(tmp_path / "two", 2))


@pytest.mark.parametrize(("write", "masks"), [(voc, 10), (nnunet, 12)])
def test_they_encode(write: object, masks: int, tmp_path: Path, casam: Casam, tiny_checkpoint: Path) -> None:
    assert callable(write)
    root = write(tmp_path / "set é")
    report = casam.json("encode", root, *TINY, tiny_checkpoint)["tasks"][0]
    assert (report["failed"], report["masks"]) == (0, masks), casam.err
    assert f"set é: {read_dataset(root).notes[0]}" in casam.err


def pairs(root: Path, folders: int) -> Path:
    """As in the LGG set of Kaggle: a folder a patient."""
    for folder in range(folders):
        for number in range(2):
            save(
                root / f"TCGA_{folder:02d}" / f"TCGA_{folder:02d}_{number}.tif", picture(10 * folder + number)
            )
            save(root / f"TCGA_{folder:02d}" / f"TCGA_{folder:02d}_{number}_mask.tif", squares(255))
    return root


def test_many_folders_of_pairs_are_patients_or_datasets(
    tmp_path: Path, casam: Casam, tiny_checkpoint: Path
) -> None:
    root = pairs(tmp_path / "kaggle_3m", 10)
    with pytest.raises(
        DatasetError, match="two readings: 10 folders that each hold images and masks"
    ) as error:
        find_tasks(root)
    assert "--reader folder-a-group" in error.value.hint
    assert len(find_tasks(root, "folder")) == 10
    (report,) = casam.json("encode", root, "--reader", "folder-a-group", *TINY, tiny_checkpoint)["tasks"]
    assert (report["images"], report["masks"]) == (20, 20), casam.err
    samples = read_dataset(root, reader="folder-a-group").samples
    assert {(s.id, s.group) for s in samples} >= {("TCGA_03/TCGA_03_1", "TCGA_03")}
    assert find_tasks(pairs(tmp_path / "few", 3)) == [tmp_path / "few" / f"TCGA_{n:02d}" for n in range(3)]


def test_a_folder_that_nobody_knows_is_told_what_is_there(tmp_path: Path) -> None:
    save(tmp_path / "set" / "slides" / "a.png", picture(1))
    for name in ("b.json", "c.json", "d.xyz.gz"):
        (tmp_path / "set" / "outlines").mkdir(exist_ok=True)
        (tmp_path / "set" / "outlines" / name).write_text("{}")
    with pytest.raises(DatasetError) as error:
        find_tasks(tmp_path / "set")
    assert error.value.message.endswith(
        "no dataset here; it holds the folders outlines, slides, and files of the kinds 2 .json, 1 .xyz.gz, 1 .png, "
        "for example outlines/b.json"
    )
    assert "dataset.csv" in error.value.hint


def test_a_dataset_that_two_readers_know_stops_no_other(tmp_path: Path, casam: Casam) -> None:
    for name in ("first", "second"):
        for number in range(4):
            save(tmp_path / name / "images" / f"{number}.png", picture(number))
            save(tmp_path / name / "masks" / f"{number}.png", squares(255))
    (tmp_path / "first" / "dataset.csv").write_text("image,mask\nimages/0.png,masks/0.png\n")
    first, second = casam.json("data", "check", tmp_path)["tasks"]
    assert (first["images"], second["images"]) == (0, 4)
    assert first["problems"][0]["message"] == "read by several readers: folder, table"
    assert first["problems"][0]["hint"] == "choose one: --reader folder or --reader table"
