"""Published datasets with formats of their own, as they are distributed: figshare's, DDTI's and IMIS-Bench's."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Casam
from PIL import Image
from scipy import sparse

from casam_cache.datasets import DatasetOptions, find_reader, read_dataset, read_image, read_masks
from casam_cache.datasets.published.ddti import Ddti, fill
from casam_cache.datasets.published.figshare import FigshareBrainTumour
from casam_cache.datasets.published.imis import Imis
from casam_cache.datasets.testing import ReaderContract
from casam_cache.errors import DatasetError


def disc(seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    cy, cx = np.random.default_rng(seed).integers(12, 28, 2)
    return (y - cy) ** 2 + (x - cx) ** 2 < 49


# figshare


def write_mat(path: Path, seed: int, patient: str, kind: int = 2) -> Path:
    """As MATLAB's save -v7.3 does: a user block of 512 bytes, axes reversed, text as numbers of characters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = disc(seed)
    image = (np.random.default_rng(seed).integers(0, 400, mask.shape) + 1500 * mask).astype(np.int16)
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_group("cjdata")
        data["PID"] = np.array([[ord(letter)] for letter in patient], np.uint16)
        data["image"] = image.T
        data["label"] = np.array([[float(kind)]])
        data["tumorBorder"] = np.zeros((1, 8))
        data["tumorMask"] = mask.astype(np.uint8).T
    head = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Thu May 01 2014 HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(head.ljust(124) + b"\x00\x02IM")
    return path


class TestFigshare(ReaderContract):
    reader = FigshareBrainTumour

    def write(self, folder: Path, name: str, seed: int) -> Path:
        return write_mat(folder / f"{ord(name)}.mat", seed, f"MR{name}")


@pytest.fixture
def tumours(tmp_path: Path) -> Path:
    """Eight images of four patients, in two folders as the archives unpack."""
    root = tmp_path / "brain"
    for number in range(1, 9):
        part = "brainTumorDataPublic_1-766" if number < 5 else "brainTumorDataPublic_767-1532"
        write_mat(root / part / f"{number}.mat", number, f"MR04{number // 2:02d}B", 1 + number % 3)
    with h5py.File(root / "cvind.mat", "w", userblock_size=512) as file:
        file["cvind"] = np.ones((1, 8))
    return root


def test_figshare_is_read_as_matlab_shows_it(tumours: Path) -> None:
    dataset = read_dataset(tumours)
    assert dataset.reader.name == "figshare"
    assert dataset.mask_mode == "binary"
    assert len(dataset.samples) == 8
    first = dataset.samples[0]
    assert (first.id, first.group) == ("brainTumorDataPublic_1-766/1", "MR0400B")
    assert dataset.reader.image(tumours, first.source, 10**6).dtype == np.int16
    assert read_image(dataset, first).shape == (40, 48, 3)
    (mask,) = read_masks(dataset, first, (40, 48))
    np.testing.assert_array_equal(mask.bitmap, disc(1))
    assert {sample.group for sample in dataset.samples if sample.split == "test"}


def test_figshare_has_the_kind_of_tumour_as_class(tumours: Path) -> None:
    dataset = read_dataset(tumours, DatasetOptions(masks="classes"))
    kinds = [mask.class_id for sample in dataset.samples for mask in read_masks(dataset, sample)]
    assert kinds == [2, 3, 1, 2, 3, 1, 2, 3]


def test_figshare_names_a_bad_file(tumours: Path) -> None:
    bad = tumours / "brainTumorDataPublic_1-766" / "3.mat"
    bad.write_bytes(bad.read_bytes()[:700])
    dataset = read_dataset(tumours)
    assert len(dataset.samples) == 7
    (problem,) = dataset.problems
    assert problem.path == "brainTumorDataPublic_1-766/3.mat"
    assert "damaged" in problem.message


# DDTI

SQUARE = [{"x": 10, "y": 8}, {"x": 22, "y": 8}, {"x": 22, "y": 18}, {"x": 10, "y": 18}]


def case(marks: list[tuple[str, str]]) -> str:
    """The XML of a case; the JSON lies in it as text."""
    found = "".join(f"<mark><image>{number}</image><svg>{svg}</svg></mark>" for number, svg in marks)
    return f"<case><number>1</number><age>49</age><sex>F</sex><tirads>4a</tirads>{found}</case>"


def svg(*polygons: list[dict[str, int]]) -> str:
    return json.dumps([{"points": points, "annotation": {}, "regionType": "freehand"} for points in polygons])


def write_picture(path: Path, seed: int, size: tuple[int, int] = (40, 48)) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)
    return path


class TestDdti(ReaderContract):
    reader = Ddti

    def write(self, folder: Path, name: str, seed: int) -> Path:
        number = ord(name)
        (folder / f"{number}.xml").write_text(case([("1", svg(SQUARE))]))
        return write_picture(folder / f"{number}_1.jpg", seed)


@pytest.fixture
def thyroid(tmp_path: Path) -> Path:
    root = tmp_path / "DDTI"
    root.mkdir()
    other = [{"x": point["x"] + 12, "y": point["y"] + 10} for point in SQUARE]
    for number in range(1, 6):
        write_picture(root / f"{number}_1.jpg", number)
        (root / f"{number}.xml").write_text(case([("1", svg(SQUARE))]))
    write_picture(root / "2_2.jpg", 22)
    (root / "2.xml").write_text(case([("1", svg(SQUARE, other)), ("2", svg(other))]))
    return root


def test_ddti_has_an_object_a_polygon(thyroid: Path) -> None:
    dataset = read_dataset(thyroid)
    assert dataset.reader.name == "ddti"
    assert [sample.id for sample in dataset.samples] == ["1_1", "2_1", "2_2", "3_1", "4_1", "5_1"]
    assert [sample.group for sample in dataset.samples][1:3] == ["2", "2"]
    masks = list(read_masks(dataset, dataset.samples[1], (40, 48)))
    assert [(mask.class_id, mask.instance) for mask in masks] == [(1, 1), (1, 2)]
    expected = np.zeros((40, 48), bool)
    expected[8:19, 10:23] = True
    np.testing.assert_array_equal(masks[0].bitmap, expected)
    binary = read_dataset(thyroid, DatasetOptions(masks="binary"))
    (union,) = read_masks(binary, binary.samples[1], (40, 48))
    np.testing.assert_array_equal(union.bitmap, masks[0].bitmap | masks[1].bitmap)
    parts = read_dataset(thyroid, DatasetOptions(masks="components"))
    assert len(list(read_masks(parts, parts.samples[1], (40, 48)))) == 1, "the two squares touch"


def test_ddti_keeps_whole_polygons_of_an_annotation_that_breaks_off(thyroid: Path) -> None:
    """Two files of the distribution end in the middle of the region type."""
    (thyroid / "3.xml").write_text(case([("1", svg(SQUARE)[:-8])]))
    (thyroid / "4.xml").write_text(case([("1", svg(SQUARE, SQUARE)[:-80])]))
    (thyroid / "5.xml").write_text(case([("1", svg(SQUARE)[:40])]))
    dataset = read_dataset(thyroid)
    found = {problem.sample: problem.message for problem in dataset.problems if problem.severity == "warning"}
    assert "breaks off" in found["3_1"]
    assert "1 polygon is lost" in found["4_1"]
    assert "damaged" in found["5_1"]
    assert [sample.id for sample in dataset.samples] == ["1_1", "2_1", "2_2", "3_1", "4_1"]
    assert [problem.message for problem in dataset.problems if problem.severity == "error"] == ["no mask"]
    assert len(list(read_masks(dataset, dataset.samples[3], (40, 48)))) == 1


def test_ddti_reports_what_belongs_to_nothing(thyroid: Path) -> None:
    far = [{"x": point["x"] + 500, "y": point["y"]} for point in SQUARE]
    (thyroid / "1.xml").write_text(case([("1", svg(SQUARE, far)), ("7", svg(SQUARE))]))
    (thyroid / "3.xml").write_text("<case><mark>")
    write_picture(thyroid / "9_1.jpg", 9)
    dataset = read_dataset(thyroid, DatasetOptions(unlabelled=True))
    said = [str(problem) for problem in dataset.problems]
    for text in (
        "1 polygons lie outside",
        "the image 7 of its annotation",
        "3.xml: damaged XML",
        "no XML file",
    ):
        assert any(text in line for line in said), (text, said)
    assert {sample.id for sample in dataset.samples if not sample.labelled} == {"3_1", "9_1"}


def test_a_polygon_outside_is_cut_off() -> None:
    bitmap = fill(((-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)), (20, 20))
    assert bitmap[:6, :6].all()
    assert bitmap.sum() == 36


# IMIS-Bench


def write_export(root: Path, names: list[tuple[str, str]], classes: int = 3) -> Path:
    """As the repository's own example: sparse rows, a class each, with the shape in the file's name."""
    for folder in ("image", "label", "imask"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    table = {
        "name": "BTCV", "description": "ct_BTCV", "dimension": "2D", "modality": {"0": "ct"},
        "labels": {"0": "background", **{str(n): f"organ {n}" for n in range(1, classes + 1)}},
        "numTraining": 0, "training": [], "numTest": 0, "test": [],
    }  # fmt: skip
    for number, (name, part) in enumerate(names):
        label = np.zeros((classes, 40, 48, 1), np.int32)
        label[0, ..., 0], label[classes - 1, ..., 0] = disc(number), disc(number + 100)
        file = f"label/x___{name}.({classes}, 40, 48, 1).npz"
        sparse.save_npz(root / file, sparse.csr_matrix(label.reshape(classes, -1)))
        np.save(root / "imask" / f"x___{name}.npy", np.full((40, 48), -1, np.int16))
        write_picture(root / "image" / f"{name}.png", number)
        table[part].append({"image": f"image/{name}.png", "label": file, "imask": f"imask/x___{name}.npy"})
    (root / "dataset.json").write_text(json.dumps(table, indent=4))
    return root


NAMES = [(f"ABD_{case:03d}_{z}", "test" if case == 3 else "training") for case in (1, 2, 3) for z in (64, 74)]


class TestImis(ReaderContract):
    reader = Imis

    def write(self, folder: Path, name: str, seed: int) -> Path:
        known = [(path.stem, "training") for path in folder.glob("image/*.png")]
        write_export(folder, [*known, (name, "training")])
        return write_picture(folder / "image" / f"{name}.png", 1000 + seed)

    def test_files_tell_of_every_change(self) -> None:
        """Another image changes the table as well; what a model proposed is not read and no change."""
        with self._drawn() as folder:
            before = Imis().files(folder)
            np.save(folder / "imask" / "x___a.npy", np.zeros((40, 48), np.int16))
            assert Imis().files(folder) == before
            self.write(folder, "e", 99)
            changed = {name for name, _, _ in set(Imis().files(folder)) - set(before)}
            assert {"dataset.json", "image/e.png", "label/x___e.(3, 40, 48, 1).npz"} <= changed


def test_imis_has_its_split_and_a_mask_a_class(tmp_path: Path) -> None:
    root = write_export(tmp_path / "BTCV", NAMES)
    dataset = read_dataset(root)
    assert dataset.reader.name == "imis"
    assert dataset.mask_mode == "classes"
    assert dataset.split_source == "official"
    assert [(s.id, s.split, s.group) for s in dataset.samples][-1] == ("ABD_003_74", "test", "ABD_003")
    first, last = read_masks(dataset, dataset.samples[0], (40, 48))
    assert (first.class_id, last.class_id) == (1, 3)
    np.testing.assert_array_equal(first.bitmap, disc(0))
    np.testing.assert_array_equal(last.bitmap, disc(100))
    assert any("1 organ 1, 2 organ 2" in note for note in dataset.notes)
    binary = read_dataset(root, DatasetOptions(masks="binary"))
    (union,) = read_masks(binary, binary.samples[0])
    np.testing.assert_array_equal(union.bitmap, disc(0) | disc(100))
    named = read_dataset(root, DatasetOptions(dataset="acdc"))
    assert (named.task, named.notes[0]) == ("ACDC", "ACDC, as IMIS-Bench exports it")


def test_imis_of_one_class_is_binary_and_parts_no_patient(tmp_path: Path) -> None:
    """Where names without their last number part a patient over the split, each image is a group, and it is said."""
    root = write_export(tmp_path / "skin", [("isic_1", "training"), ("isic_2", "test")], classes=1)
    dataset = read_dataset(root)
    assert dataset.mask_mode == "binary"
    assert [sample.group for sample in dataset.samples] == ["isic_1", "isic_2"]
    assert any("no patients can be seen" in note for note in dataset.notes)


def test_imis_reports_what_is_missing_or_differs(tmp_path: Path) -> None:
    root = write_export(tmp_path / "BTCV", NAMES)
    (root / "image" / "ABD_001_64.png").unlink()
    (root / "label" / "x___ABD_001_74.(3, 40, 48, 1).npz").unlink()
    table = json.loads((root / "dataset.json").read_text())
    table["training"].append(table["training"][2])
    table["test"][0]["label"] = table["test"][0]["label"].replace("(3,", "(2,")
    (root / "label" / "x___ABD_003_64.(2, 40, 48, 1).npz").write_bytes(b"")
    (root / "dataset.json").write_text(json.dumps(table))
    dataset = read_dataset(root)
    said = " | ".join(problem.message for problem in dataset.problems)
    for text in ("the image is not there", "is not there", "a second row", "has 2 classes"):
        assert text in said
    assert [sample.id for sample in dataset.samples] == ["ABD_002_64", "ABD_002_74", "ABD_003_74"]
    (root / "dataset.json").write_text((root / "dataset.json").read_text().replace('"labels"', '"names"'))
    with pytest.raises(DatasetError, match="not as IMIS-Bench writes it"):
        read_dataset(root)


def test_imis_does_not_take_others_tables(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}')
    assert not Imis().recognises(tmp_path)
    assert find_reader(tmp_path) is None


# Encoding


@pytest.mark.parametrize("which", ["tumours", "thyroid"])
def test_they_encode(which: str, request: pytest.FixtureRequest, casam: Casam, tiny_checkpoint: Path) -> None:
    root = request.getfixturevalue(which)
    model = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    (report,) = casam.json("encode", root, *model)["tasks"]
    dataset = read_dataset(root)
    assert report["encoded"] == len(dataset.samples)
    assert report["masks"] == sum(1 for sample in dataset.samples for _ in read_masks(dataset, sample))
    assert report["problems"] == []
