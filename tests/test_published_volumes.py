"""Published datasets of volumes, as nibabel and SimpleITK write them: ACDC, MSD, Promise12, BTCV, AMOS."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import Casam

from casam_cache.datasets import DatasetOptions, find_reader, find_tasks, read_dataset, read_image, read_masks
from casam_cache.errors import CasamError

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])
SHAPE = (30, 36, 5)


def phantom(
    seed: int, classes: int = 3, shape: tuple[int, int, int] = SHAPE
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels [i, j, k] and labels: nested boxes in all slices but the first and the last."""
    labels = np.zeros(shape, np.uint8)
    for value in range(1, classes + 1):
        labels[4 + 3 * value : 24 - 2 * value, 6 + 2 * value : 30 - 4 * value, 1:-1] = value
    image = np.random.default_rng(seed).integers(0, 60, shape) + 100 * labels.astype(int)
    return image.astype(np.int16), labels


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), path)


def patient(root: Path, number: int, frames: tuple[int, int] = (1, 12)) -> Path:
    name = f"patient{number:03d}"
    folder = root / name
    for frame in frames:
        image, labels = phantom(100 * number + frame)
        save(folder / f"{name}_frame{frame:02d}.nii.gz", image)
        save(folder / f"{name}_frame{frame:02d}_gt.nii.gz", labels)
    save(folder / f"{name}_4d.nii.gz", np.zeros((*SHAPE, 3), np.int16))
    (folder / "Info.cfg").write_text(
        f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
    )
    return folder


def msd(root: Path, name: str, labels: dict[str, str], modality: dict[str, str], cases: int = 4) -> Path:
    channels = len(modality)
    for case in range(cases):
        image, mask = phantom(case, len(labels) - 1)
        stacked = np.stack([image, 500 - image], axis=-1) if channels == 2 else image
        save(root / "imagesTr" / f"{name.lower()}_{case:02d}.nii.gz", stacked)
        save(root / "labelsTr" / f"{name.lower()}_{case:02d}.nii.gz", mask)
    save(root / "imagesTs" / f"{name.lower()}_90.nii.gz", stacked)
    (root / "dataset.json").write_text(json.dumps({
        "name": name, "description": name, "reference": "", "licence": "CC-BY-SA 4.0", "release": "1.0 04/05/2018",
        "tensorImageSize": "4D", "modality": modality, "labels": labels, "numTraining": cases, "numTest": 1,
        "training": [{"image": f"./imagesTr/{name.lower()}_{case:02d}.nii.gz",
                      "label": f"./labelsTr/{name.lower()}_{case:02d}.nii.gz"} for case in range(cases)],
        "test": [f"./imagesTs/{name.lower()}_90.nii.gz"],
    }))  # fmt: skip
    return root


def prostate(root: Path) -> Path:
    return msd(root, "PROSTATE", {"0": "background", "1": "PZ", "2": "TZ"}, {"0": "T2", "1": "ADC"})


def promise(root: Path, cases: range, labelled: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for case in cases:
        image, labels = phantom(case, 1)
        for name, voxels in (
            (f"Case{case:02d}", image),
            (f"Case{case:02d}_segmentation", labels.astype(np.int8)),
        ):
            if labelled or name == f"Case{case:02d}":
                volume = SimpleITK.GetImageFromArray(voxels.transpose(2, 1, 0))
                volume.SetSpacing((0.625, 0.625, 3.6))
                SimpleITK.WriteImage(volume, str(root / f"{name}.mhd"))
    return root


# ACDC


@pytest.fixture
def acdc(tmp_path: Path) -> Path:
    """As the archive unpacks: two patients train, one tests."""
    for number in (1, 2):
        patient(tmp_path / "ACDC" / "database" / "training", number)
    patient(tmp_path / "ACDC" / "database" / "testing", 101, (1, 14))
    (tmp_path / "ACDC" / "database" / "MANDATORY_CITATION.md").write_text("please cite")
    return tmp_path / "ACDC" / "database"


def test_acdc_has_its_frames_patients_and_split(acdc: Path) -> None:
    dataset = read_dataset(acdc)
    assert dataset.reader.name == "acdc"
    assert dataset.mask_mode == "classes"
    assert dataset.values.values == (0, 1, 2, 3)
    assert {sample.group: sample.split for sample in dataset.samples} == {
        "patient001": "train", "patient002": "train", "patient101": "test",
    }  # fmt: skip
    assert len(dataset.samples) == 3 * 2 * 3, "slices with labels of two frames a patient"
    assert dataset.problems == ()
    assert "4d" not in " ".join(sample.source for sample in dataset.samples)
    image, labels = phantom(101)
    first = dataset.samples[0]
    assert "patient001_frame01" in first.id
    masks = list(read_masks(dataset, first))
    assert [mask.class_id for mask in masks] == [1, 2, 3]
    assert [mask.bitmap.sum() for mask in masks] == [(labels[:, :, 1] == value).sum() for value in (1, 2, 3)]
    assert read_image(dataset, first).shape[:2] == masks[0].bitmap.shape
    assert image.shape == SHAPE


def test_acdc_is_found_by_name_and_counted(acdc: Path) -> None:
    assert find_tasks(acdc.parent, dataset="ACDC") == [acdc]
    dataset = read_dataset(acdc, DatasetOptions(dataset="ACDC"))
    assert dataset.task == "ACDC"
    assert "train / test images: 12 / 6; the paper has 1,632 / 177" in dataset.notes


def test_acdc_of_training_alone_is_split_by_patient(acdc: Path) -> None:
    dataset = read_dataset(acdc / "training", DatasetOptions(test_fraction=0.5))
    assert dataset.reader.name == "acdc"
    assert sorted({(sample.group, sample.split) for sample in dataset.samples}, key=lambda pair: pair[1]) in (
        [("patient001", "test"), ("patient002", "train")],
        [("patient002", "test"), ("patient001", "train")],
    )


def test_acdc_says_where_info_and_files_differ(acdc: Path) -> None:
    folder = acdc / "training" / "patient001"
    (folder / "Info.cfg").write_text("ED: 1\nES: 20\nGroup: NOR\n")
    (acdc / "training" / "patient002" / "Info.cfg").unlink()
    (acdc / "testing" / "patient101" / "patient101_frame14.nii.gz").unlink()
    dataset = read_dataset(acdc)
    said = {problem.path.rpartition("/")[2]: problem.message for problem in dataset.problems}
    assert "frame 12 is neither ED nor ES" in said["patient001_frame12_gt.nii.gz"]
    assert any("ES is frame 20" in problem.message for problem in dataset.problems)
    assert any("every frame with labels is read" in problem.message for problem in dataset.problems)
    assert said["patient101_frame14_gt.nii.gz"] == "labels without an image"
    assert len(dataset.samples) == 15


# MSD


def test_the_prostate_is_read_in_t2_unless_another_channel_is_asked_for(tmp_path: Path) -> None:
    root = prostate(tmp_path / "Task05_Prostate")
    dataset = read_dataset(root)
    assert dataset.reader.name == "msd"
    assert any("channel 1 of 2, T2; --channels 2 reads ADC" in note for note in dataset.notes)
    assert any("imagesTs/" in note for note in dataset.notes)
    assert {sample.group for sample in dataset.samples} == {f"prostate_{case:02d}" for case in range(4)}
    sample = dataset.samples[0]
    pixels = dataset.reader.image(root, sample.source, 10**6)
    image, _ = phantom(0, 2)
    assert sorted(pixels.ravel()) == sorted(image[:, :, 1].ravel())
    adc = read_dataset(root, DatasetOptions(channels="2"))
    other = adc.reader.image(root, adc.samples[0].source, 10**6)
    assert sorted(other.ravel()) == sorted((500 - image[:, :, 1]).ravel())
    assert not any("channel 1 of 2" in note for note in adc.notes)


def test_the_spleen_is_found_among_other_tasks(tmp_path: Path) -> None:
    prostate(tmp_path / "msd" / "Task05_Prostate")
    root = msd(tmp_path / "msd" / "Task09_Spleen", "Spleen", {"0": "background", "1": "spleen"}, {"0": "CT"})
    (folder,) = find_tasks(tmp_path / "msd", dataset="MSD_Spleen")
    assert folder == root
    dataset = read_dataset(folder, DatasetOptions(dataset="MSD_Spleen"))
    assert dataset.task == "MSD_Spleen"
    assert dataset.mask_mode == "binary"
    assert len(dataset.samples) == 4 * 3
    assert dataset.notes[0] == "MSD_Spleen, in the layout in which it is distributed"


def test_another_task_of_several_channels_says_that_one_must_be_chosen(tmp_path: Path) -> None:
    root = msd(tmp_path / "Task01", "BRATS", {"0": "background", "1": "edema"}, {"0": "FLAIR", "1": "T1w"})
    with pytest.raises(CasamError) as caught:
        read_dataset(root)
    assert "--channels" in f"{caught.value.message} {caught.value.hint}"


# Promise12


def test_promise12_has_a_group_a_case(tmp_path: Path) -> None:
    root = promise(tmp_path / "training_data", range(4))
    dataset = read_dataset(root)
    assert dataset.reader.name == "promise12"
    assert {sample.group for sample in dataset.samples} == {"Case00", "Case01", "Case02", "Case03"}
    assert len(dataset.samples) == 12
    assert dataset.mask_mode == "binary"
    (mask,) = read_masks(dataset, dataset.samples[0])
    assert mask.bitmap.sum() == (phantom(0, 1)[1][:, :, 1] > 0).sum()
    assert dataset.problems == ()


def test_promise12_in_parts_leaves_test_cases_out(tmp_path: Path) -> None:
    """The parts of the first release, and test data that count from 0 again."""
    promise(tmp_path / "PROMISE12" / "TrainingData_Part1", range(2))
    promise(tmp_path / "PROMISE12" / "TrainingData_Part2", range(2, 4))
    promise(tmp_path / "PROMISE12" / "TestData", range(2), labelled=False)
    root = tmp_path / "PROMISE12"
    dataset = read_dataset(root, DatasetOptions(dataset="Promise12"))
    assert len({sample.group for sample in dataset.samples}) == 4
    assert any("2 cases without a segmentation" in note for note in dataset.notes)
    assert any("the paper has 712 / 66" in note for note in dataset.notes)
    whole = read_dataset(root, DatasetOptions(unlabelled=True))
    assert {s.group for s in whole.samples if not s.labelled} == {"TestData/Case00", "TestData/Case01"}


# BTCV and AMOS


def test_btcv_pairs_by_number(tmp_path: Path) -> None:
    for number in range(1, 4):
        image, labels = phantom(number)
        save(tmp_path / "RawData" / "Training" / "img" / f"img{number:04d}.nii.gz", image)
        save(tmp_path / "RawData" / "Training" / "label" / f"label{number:04d}.nii.gz", labels)
    (folder,) = find_tasks(tmp_path / "RawData", dataset="BTCV")
    dataset = read_dataset(folder, DatasetOptions(dataset="BTCV"))
    assert dataset.reader.name == "btcv"
    assert {sample.group for sample in dataset.samples} == {"0001", "0002", "0003"}
    assert len(dataset.samples) == 9


def test_amos_reads_training_and_validation(tmp_path: Path) -> None:
    for part, numbers in {"Tr": (1, 4), "Va": (8,), "Ts": (2,)}.items():
        for number in numbers:
            image, labels = phantom(number)
            save(tmp_path / "amos22" / f"images{part}" / f"amos_{number:04d}.nii.gz", image)
            if part != "Ts":
                save(tmp_path / "amos22" / f"labels{part}" / f"amos_{number:04d}.nii.gz", labels)
    stated = {"name": "AMOS", "tensorImageSize": "3D", "modality": {"0": "CT"}, "labels": {"0": "background"}}
    (tmp_path / "amos22" / "dataset.json").write_text(json.dumps(stated))
    reader = find_reader(tmp_path / "amos22")
    assert reader is not None
    assert reader.name == "amos"
    dataset = read_dataset(tmp_path / "amos22")
    assert {sample.group for sample in dataset.samples} == {"amos_0001", "amos_0004", "amos_0008"}
    assert any("1 volumes of imagesTs/ have no public masks" in note for note in dataset.notes)


def test_it_encodes_by_name(acdc: Path, casam: Casam, tiny_checkpoint: Path) -> None:
    model = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    (report,) = casam.json("encode", acdc.parent, *model, "--dataset", "acdc")["tasks"]
    assert (report["task"], report["encoded"], report["masks"]) == ("ACDC", 18, 54)
    assert "ACDC, in the layout in which it is distributed" in casam.err
