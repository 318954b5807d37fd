"""Datasets of volumes: every layout read into slices, with the labels where the libraries put them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from volume_files import (
    oblique,
    phantom,
    says,
    write_itk,
    write_nifti,
    write_patient,
    write_segmentation,
    write_series,
)

from casam_cache.datasets import Dataset, DatasetOptions, find_reader, read_dataset, read_image, read_masks
from casam_cache.datasets.testing import ReaderContract
from casam_cache.datasets.volumes import layout_of, read_volume
from casam_cache.datasets.volumes.slices import SliceName
from casam_cache.errors import DatasetError, ImageError, OptionError

KEEP = DatasetOptions(test_fraction=0, slices="all")


def write_pair(folder: Path, name: str, seed: int, *, images: str = "images", labels: str = "labels") -> Path:
    image, label = phantom(seed)
    write_nifti(folder / labels / f"{name}.nii.gz", label, oblique())
    return write_nifti(folder / images / f"{name}.nii.gz", image, oblique())


def labels_of(dataset: Dataset, case: str) -> np.ndarray:
    """The masks of all slices of a case, put back into its voxels."""
    record = next(record for record in dataset.volumes if record["name"] == case)
    found = np.zeros(record["shape"], np.int32)
    for sample in dataset.samples:
        if sample.id.rpartition("/")[0] == case:
            name = SliceName.parse(sample.source)
            _, layout = name.open(dataset.root)
            shown = np.zeros(read_image(dataset, sample).shape[:2], np.int32)
            for mask in read_masks(dataset, sample, (shown.shape[0], shown.shape[1])):
                shown[mask.bitmap] = mask.class_id
            layout.place(found, name.index, shown)
    return found


class TestFolder(ReaderContract):
    reader = "volume-folder"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        return write_pair(folder, name, seed)


class TestNnunet(ReaderContract):
    reader = "nnunet"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        image, label = phantom(seed)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", label, oblique())
        return write_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", image, oblique())


class TestDicom(ReaderContract):
    reader = "dicom"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        write_patient(folder / name, seed)
        return folder / name / "SEG" / "seg.dcm"


@pytest.mark.parametrize("axis", [None, "coronal", "sagittal", "0", "1", "2"])
def test_masks_lie_on_the_voxels_that_they_label(tmp_path: Path, axis: str | None) -> None:
    write_pair(tmp_path, "Größe 1", 3)
    dataset = read_dataset(tmp_path, DatasetOptions(test_fraction=0, axis=axis))
    assert dataset.mask_mode == "classes"
    assert np.array_equal(labels_of(dataset, "Größe 1"), phantom(3)[1])
    marks = {sample.id.split("/")[1][:3] for sample in dataset.samples}
    assert marks == {{"coronal": "cor", "1": "cor", "sagittal": "sag", "0": "sag"}.get(axis or "", "000")}


def test_the_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    path = write_pair(tmp_path, "a", 3)
    dataset = read_dataset(tmp_path, KEEP)
    own, layout = nibabel.load(path).get_fdata(), layout_of(read_volume(path))
    low, high = np.percentile(own, (0.5, 99.5))
    for k, sample in enumerate(dataset.samples):
        expected = (np.clip(layout.picture(own[:, :, k]), low, high) - low) * 255 / (high - low)
        assert np.abs(read_image(dataset, sample)[..., 0] - expected).max() < 1.01


def test_one_window_a_volume(tmp_path: Path) -> None:
    """The same value is the same grey in every slice, also where a slice alone would have another window."""
    image, label = phantom(0)
    image[:, :, 0] = 0
    write_nifti(tmp_path / "images" / "a.nii", image, np.eye(4))
    write_nifti(tmp_path / "labels" / "a.nii", label, np.eye(4))
    dataset = read_dataset(tmp_path, KEEP)
    first, second = (read_image(dataset, sample) for sample in dataset.samples[:2])
    grey = np.unique(first)
    assert len(grey) == 1
    assert grey[0] > 0, "0 is not the lowest value of this volume"
    layout = layout_of(read_volume(tmp_path / "images" / "a.nii"))
    same = layout.picture(image[:, :, 1]) == 0
    assert np.array_equal(np.unique(second[same]), grey)


@pytest.mark.parametrize(
    ("window", "low", "high"),
    [("ct:soft", -160, 240), ("full", None, None), ("-50,100", -50, 100), ("ct:lung", -1350, 150)],
)
def test_windows(tmp_path: Path, window: str, low: float | None, high: float | None) -> None:
    write_pair(tmp_path, "a", 0)
    dataset = read_dataset(tmp_path, KEEP)
    image, layout = phantom(0)[0].astype(float), layout_of(read_volume(tmp_path / "images" / "a.nii.gz"))
    low, high = image.min() if low is None else low, image.max() if high is None else high
    expected = (np.clip(layout.picture(image[:, :, 2]), low, high) - low) * 255 / (high - low)
    found = read_image(dataset, dataset.samples[2], window)[..., 0]
    assert np.abs(found - expected).max() < 1.01
    assert found.std() > 5


def test_monochrome1_is_shown_turned_over(tmp_path: Path) -> None:
    image, _ = phantom(0)
    for name, photometric in (("a", "MONOCHROME1"), ("b", "MONOCHROME2")):
        write_series(tmp_path / name, image, oblique(), photometric=photometric, patient=name)
    dataset = read_dataset(tmp_path, DatasetOptions(unlabelled=True))
    one, two = (next(s for s in dataset.samples if s.id == f"{name}/0003") for name in "ab")
    for window in ("auto", "full", "-50,100"):
        turned = read_image(dataset, one, window).astype(int)
        assert np.abs(255 - turned - read_image(dataset, two, window)).max() <= 1
        assert turned.std() > 5


@pytest.mark.parametrize(
    ("slices", "taken"),
    [
        (None, [1, 2, 3, 4, 5]),
        ("nonempty", [1, 2, 3, 4, 5]),
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("every:3", [0, 3, 6]),
    ],
)
def test_slices(tmp_path: Path, slices: str | None, taken: list[int]) -> None:
    write_pair(tmp_path, "a", 0)
    dataset = read_dataset(tmp_path, DatasetOptions(slices=slices, test_fraction=0))
    assert [int(sample.id[-4:]) for sample in dataset.samples] == taken
    assert f"{len(taken)} of 7" in " ".join(dataset.notes)


def test_options_are_checked() -> None:
    for wrong in ({"slices": "every:0"}, {"slices": "some"}, {"axis": "front"}):
        with says(OptionError, "available:"):
            DatasetOptions(**wrong)


def test_patients_stay_together(tmp_path: Path) -> None:
    for seed, name in enumerate(("p1_a", "p1_b", "p2_a", "p3_a")):
        write_pair(tmp_path, name, seed)
    dataset = read_dataset(tmp_path, DatasetOptions(test_fraction=0.5, group_regex=r"^(p\d)"))
    assert {sample.group for sample in dataset.samples} == {"p1", "p2", "p3"}
    (tmp_path / "split.csv").write_text("id,split,group\np1_a.nii.gz,train,x\np1_b,train,x\np2_a,test,y\n")
    dataset = read_dataset(tmp_path)
    assert {sample.id[:4]: (sample.split, sample.group) for sample in dataset.samples} == {
        "p1_a": ("train", "x"), "p1_b": ("train", "x"), "p2_a": ("test", "y"),
    }  # fmt: skip
    assert any("no row for 'p3_a'" in str(problem) for problem in dataset.problems)


def test_split_folders(tmp_path: Path) -> None:
    write_pair(tmp_path / "train", "a", 0)
    write_pair(tmp_path / "train", "b", 0)
    write_pair(tmp_path / "test", "a", 1)
    with says(DatasetError, "the group 'a' is parted"):
        read_dataset(tmp_path)
    shutil.move(tmp_path / "test" / "images" / "a.nii.gz", tmp_path / "test" / "images" / "c.nii.gz")
    shutil.move(tmp_path / "test" / "labels" / "a.nii.gz", tmp_path / "test" / "labels" / "c.nii.gz")
    dataset = read_dataset(tmp_path, DatasetOptions(val_fraction=0.5))
    assert {sample.id[:6]: sample.split for sample in dataset.samples}["test/c"] == "test"
    assert {sample.split for sample in dataset.samples} == {"train", "val", "test"}


def test_labels_in_other_axes_are_turned_and_that_is_said(tmp_path: Path) -> None:
    image, label = phantom(0)
    affine = oblique()
    write_nifti(tmp_path / "images" / "a.nii", image, affine)
    turned = np.flip(label.transpose(1, 0, 2), 2)
    other = affine[:, [1, 0, 2, 3]].copy()
    other[:3, 3] += other[:3, 2] * (label.shape[2] - 1)
    other[:3, 2] *= -1
    write_nifti(tmp_path / "labels" / "a.nii", turned, other)
    dataset = read_dataset(tmp_path, KEEP)
    assert np.array_equal(labels_of(dataset, "a"), label)
    assert "turned to the image's" in str(dataset.problems[0])


@pytest.mark.parametrize("wrong", ["shape", "moved", "spacing", "rotated"])
def test_labels_of_another_grid_are_refused_by_name(tmp_path: Path, wrong: str) -> None:
    write_pair(tmp_path, "good", 1)
    image, label = phantom(0)
    affine = oblique()
    write_nifti(tmp_path / "images" / "bad.nii", image, affine)
    if wrong == "shape":
        label = label[:, :, :-1]
    elif wrong == "moved":
        affine[0, 3] += 1
    elif wrong == "spacing":
        affine[:3, 2] *= 1.05
    else:
        affine = oblique(degrees=25)
    write_nifti(tmp_path / "labels" / "bad.nii", label, affine)
    dataset = read_dataset(tmp_path, KEEP)
    assert {sample.group for sample in dataset.samples} == {"good"}
    (problem,) = dataset.problems
    assert problem.path == "labels/bad.nii"
    assert "another grid than their image bad.nii" in problem.message
    assert problem.severity == "error"


def test_real_labels(tmp_path: Path) -> None:
    image, label = phantom(0)
    for name, values in (("whole", label.astype(np.float32)), ("broken", label * 0.5)):
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image, oblique())
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", values.astype(np.float32), oblique())
    dataset = read_dataset(tmp_path, KEEP)
    assert np.array_equal(labels_of(dataset, "whole"), label)
    assert "fractional or NaN values, e.g. 0.5" in str(dataset.problems[0])
    assert "labels/broken.nii.gz" in str(dataset.problems[0])


def test_a_label_that_counts_nowhere_and_another_background(tmp_path: Path) -> None:
    image, label = phantom(0)
    write_nifti(tmp_path / "images" / "a.nii", image, oblique())
    write_nifti(tmp_path / "labels" / "a.nii", label, oblique())
    dataset = read_dataset(tmp_path, DatasetOptions(ignore="2", slices="all", test_fraction=0))
    assert dataset.mask_mode == "binary"
    assert np.array_equal(labels_of(dataset, "a"), label == 1)
    reader, layout = dataset.reader, layout_of(read_volume(tmp_path / "images" / "a.nii"))
    for k, sample in enumerate(dataset.samples):
        ignored, expected = reader.ignored(dataset, sample), layout.picture(label[:, :, k]) == 2
        assert np.array_equal(expected, np.zeros_like(expected) if ignored is None else ignored)
    turned = read_dataset(tmp_path, DatasetOptions(background="1", slices="all", test_fraction=0))
    assert np.array_equal(labels_of(turned, "a"), np.choose(label, [1, 0, 2]))
    odd = read_dataset(tmp_path, DatasetOptions(ignore="9"))
    assert "no label has this value" in str(odd.problems[0])


def test_volumes_beside_their_labels(tmp_path: Path) -> None:
    for seed in range(2):
        image, label = phantom(seed)
        write_itk(tmp_path / f"scan{seed:02d}.mhd", image, oblique())
        write_itk(tmp_path / f"scan{seed:02d}_segmentation.mhd", label, oblique())
    dataset = read_dataset(tmp_path, KEEP)
    assert dataset.read_by.name == "volume-folder"  # type: ignore[union-attr]
    assert not dataset.problems
    for seed in range(2):
        assert np.array_equal(labels_of(dataset, f"scan{seed:02d}"), phantom(seed)[1])


def test_without_labels(tmp_path: Path) -> None:
    for seed in range(2):
        write_nifti(tmp_path / "scans" / f"{seed}.nii.gz", phantom(seed)[0], oblique())
    with says(DatasetError, "no volume has labels", "--unlabelled"):
        read_dataset(tmp_path / "scans")
    dataset = read_dataset(tmp_path / "scans", DatasetOptions(unlabelled=True))
    assert len(dataset.samples) == 14
    assert not any(sample.labelled for sample in dataset.samples)
    one = read_dataset(tmp_path / "scans" / "1.nii.gz")
    assert (one.task, len(one.samples), one.samples[0].id) == ("1", 7, "1/0000")
    assert np.array_equal(
        read_image(one, one.samples[2]),
        read_image(dataset, next(s for s in dataset.samples if s.id == "1/0002")),
    )


def test_one_file_and_one_wrong_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with says(DatasetError, "a file, not a folder"):
        read_dataset(tmp_path / "notes.txt")
    (tmp_path / "a.nii.gz").write_text("hello")
    with says(DatasetError, "a.nii.gz"):
        read_dataset(tmp_path / "a.nii.gz")


def test_nnunet_channels_are_chosen_by_name(tmp_path: Path) -> None:
    image, label = phantom(0)
    for channel in (0, 1):
        write_nifti(tmp_path / "imagesTr" / f"p_{channel:04d}.nii.gz", image + channel, oblique())
    write_nifti(tmp_path / "labelsTr" / "p.nii.gz", label, oblique())
    stated = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "PZ": 1, "ignore": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    with says(DatasetError, "1 is _0000 (T2), 2 is _0001 (ADC)", "--channels 1"):
        read_dataset(tmp_path)
    dataset = read_dataset(tmp_path, DatasetOptions(channels="2"))
    assert dataset.samples[0].source == "imagesTr/p_0001.nii.gz#slice=1;axis=2"
    assert "dataset.json names the labels: 0 background, 1 PZ, 2 ignore" in dataset.notes
    with says(OptionError, "of volumes one channel is read"):
        read_dataset(tmp_path, DatasetOptions(channels="1,2,3"))


def test_nnunet_with_its_test_folder(tmp_path: Path) -> None:
    for name, folder in (("a", "Tr"), ("b", "Tr"), ("c", "Ts")):
        write_pair(tmp_path, name, 0, images=f"images{folder}", labels=f"labels{folder}")
    (tmp_path / "imagesTr" / "._a.nii.gz").write_text("litter of macOS")
    dataset = read_dataset(tmp_path)
    assert {(sample.group, sample.split) for sample in dataset.samples} == {
        ("a", "train"), ("b", "train"), ("c", "test"),
    }  # fmt: skip
    shutil.rmtree(tmp_path / "labelsTs")
    dataset = read_dataset(tmp_path, DatasetOptions(test_fraction=0))
    assert {sample.group for sample in dataset.samples} == {"a", "b"}
    assert any("imagesTs/ have no labels" in note for note in dataset.notes)


def test_four_axes_name_the_option(tmp_path: Path) -> None:
    image, label = phantom(0)
    write_nifti(tmp_path / "imagesTr" / "prostate_00.nii.gz", np.stack([image, -image], 3), oblique())
    write_nifti(tmp_path / "labelsTr" / "prostate_00.nii.gz", label, oblique())
    with says(
        DatasetError, "2 volumes (channels or time points) in one file", "--channels 1 to --channels 2"
    ):
        read_dataset(tmp_path)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_dicom_segmentations_lie_on_their_slices(tmp_path: Path, kind: str) -> None:
    image, label = phantom(0)
    paths = write_series(tmp_path / "p 1" / "CT é", image, oblique(), slope=1.0, intercept=-1024.0)
    write_segmentation(tmp_path / "p 1" / "seg.dcm", paths, label, ("liver", "tumour"), kind=kind)
    dataset = read_dataset(tmp_path, DatasetOptions(test_fraction=0))
    assert np.array_equal(labels_of(dataset, "p 1/CT é"), label)
    assert len(dataset.samples) == 5
    assert {sample.group for sample in dataset.samples} == {"P1"}
    assert "segments: 1 liver, 2 tumour" in dataset.notes


def test_a_segmentation_of_a_series_that_lost_slices(tmp_path: Path) -> None:
    image, label = phantom(0)
    paths = write_series(tmp_path / "p" / "CT", image, oblique())
    write_segmentation(tmp_path / "p" / "seg.dcm", paths, label, ("liver", "tumour"))
    kept = [k for k in range(7) if k != 3]
    paths[3].unlink()
    dataset = read_dataset(tmp_path, KEEP)
    assert np.array_equal(labels_of(dataset, "p/CT"), label[:, :, kept])
    said = " ".join(map(str, dataset.problems))
    assert "1 slice missing between" in said
    assert "frames lie on slices that the series does not have" in said


def test_segments_are_numbered_alike_in_all_files(tmp_path: Path) -> None:
    image, label = phantom(0)
    for patient, names, labels in (
        ("a", ("liver", "tumour"), label),
        ("b", ("tumour", "liver"), (3 - label) * (label > 0)),
    ):
        paths = write_series(tmp_path / patient, image, oblique(), patient=patient)
        write_segmentation(tmp_path / "segs" / f"{patient}.dcm", paths, labels, names)
    dataset = read_dataset(tmp_path, DatasetOptions(test_fraction=0))
    for patient in "ab":
        assert np.array_equal(labels_of(dataset, patient), label)
    assert "classes go by their names: 1 liver, 2 tumour" in " ".join(dataset.notes)


def test_other_series_and_other_segmentations(tmp_path: Path) -> None:
    write_patient(tmp_path / "a", 0)
    image, label = phantom(1)
    scout = write_series(tmp_path / "a" / "scout", image, oblique(), patient="a", description="Scout")
    dataset = read_dataset(tmp_path, DatasetOptions(test_fraction=0))
    assert {sample.id.rpartition("/")[0] for sample in dataset.samples} == {"a/CT 1"}
    assert any("no segmentation of the series 'Scout'" in note for note in dataset.notes)
    kept = read_dataset(tmp_path, DatasetOptions(test_fraction=0, unlabelled=True))
    assert {sample.id.rpartition("/")[0] for sample in kept.samples} == {"a/CT 1", "a/scout"}
    write_segmentation(tmp_path / "far.dcm", scout, label, ("x", "y"))
    for path in scout:
        path.unlink()
    dataset = read_dataset(tmp_path, DatasetOptions(test_fraction=0))
    assert any("drawn on the series" in str(problem) for problem in dataset.problems)


def test_two_segmentations_of_one_series_are_refused(tmp_path: Path) -> None:
    paths = write_patient(tmp_path / "a", 0)
    write_segmentation(tmp_path / "a" / "SEG" / "again.dcm", paths, phantom(0)[1], ("liver", "tumour"))
    with says(
        DatasetError, "2 segmentations of one series", "segment 'liver'", "a/SEG/again.dcm, a/SEG/seg.dcm"
    ):
        read_dataset(tmp_path)


def test_segments_that_overlap_are_refused_by_name(tmp_path: Path) -> None:
    image, label = phantom(0)
    paths = write_series(tmp_path / "a", image, oblique())
    both = np.stack([label > 0, label == 2], axis=-1)
    write_segmentation(tmp_path / "seg.dcm", paths, both, ("liver", "tumour"))
    with says(DatasetError, "the segments 1 'liver' and 2 'tumour' overlap, in 21 pixels of slice 2"):
        read_dataset(tmp_path)


def test_references_and_positions_that_disagree(tmp_path: Path) -> None:
    paths = write_patient(tmp_path / "a", 0)
    data = pydicom.dcmread(tmp_path / "a" / "SEG" / "seg.dcm")
    for group in data.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPInstanceUID = pydicom.dcmread(paths[2]).SOPInstanceUID
    data.save_as(tmp_path / "a" / "SEG" / "seg.dcm")
    with says(DatasetError, "a frame refers to slice 2", "disagree"):
        read_dataset(tmp_path)


def test_dicom_folders_among_images(tmp_path: Path) -> None:
    """A series a folder in images/, its labels as converters write them: NIfTI with rows the other way."""
    image, label = phantom(0)
    affine = oblique()
    write_series(tmp_path / "images" / "p1", image, affine)
    flipped = affine.copy()
    flipped[:3, 3] += flipped[:3, 1] * (label.shape[1] - 1)
    flipped[:3, 1] *= -1
    write_nifti(tmp_path / "labels" / "p1.nii.gz", np.flip(label, 1), flipped)
    dataset = read_dataset(tmp_path, KEEP)
    assert dataset.read_by.name == "volume-folder"  # type: ignore[union-attr]
    assert np.array_equal(labels_of(dataset, "p1"), label)


def test_single_pictures_in_dicom_and_numpy(tmp_path: Path) -> None:
    from volume_files import dicom_slice

    rng = np.random.default_rng(0)
    for n in range(3):
        pixels, mask = rng.integers(0, 1000, (12, 15)).astype(np.uint16), np.zeros((12, 15), np.uint8)
        mask[2:5, 3 + n : 9] = 1
        dicom_slice(tmp_path / "d" / "images" / f"{n}.dcm", pixels)
        dicom_slice(tmp_path / "d" / "masks" / f"{n}.dcm", mask)
        for folder, array in (("images", pixels), ("masks", mask)):
            (tmp_path / "n" / folder).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "n" / folder / f"{n}.npy", array)
    for kind, reader in (("d", None), ("n", None), ("n", "numpy-volumes")):
        dataset = read_dataset(tmp_path / kind, DatasetOptions(test_fraction=0), reader=reader)
        assert [sample.id for sample in dataset.samples] == ["0", "1", "2"]
        for n, sample in enumerate(dataset.samples):
            (found,) = read_masks(dataset, sample, read_image(dataset, sample).shape[:2])
            assert found.bitmap.shape == (12, 15)
            assert np.array_equal(np.argwhere(found.bitmap)[0], (2, 3 + n))


def test_who_reads_what(tmp_path: Path) -> None:
    write_pair(tmp_path / "v", "a", 0)
    write_patient(tmp_path / "d" / "a", 0)
    write_pair(tmp_path / "n", "a", 0, images="imagesTr", labels="labelsTr")
    for folder, name in (("v", "volume-folder"), ("d", "dicom"), ("n", "nnunet")):
        reader = find_reader(tmp_path / folder)
        assert reader is not None
        assert reader.name == name
    assert find_reader(tmp_path) is None


def test_names_of_slices() -> None:
    for name in (SliceName("a#b/c.nii", 3, 1), SliceName("a", 0, 2, 1, "1.2.3"), SliceName("", 12, 0)):
        assert SliceName.parse(str(name)) == name
    for wrong in ("a.nii", "a.nii#x", "a#slice=1"):
        with says(ImageError, "not the name of a slice"):
            SliceName.parse(wrong)
