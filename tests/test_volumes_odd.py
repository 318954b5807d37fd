"""Volumes as hospitals and tools leave them behind: misnamed, half written, with more beside them than was meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from volume_files import (
    SHAPE,
    dicom_slice,
    oblique,
    phantom,
    says,
    write_itk,
    write_nifti,
    write_patient,
    write_segmentation,
    write_series,
)

from casam_cache.datasets import DatasetOptions, read_image, read_masks
from casam_cache.datasets.readers import find_tasks, read_dataset
from casam_cache.datasets.testing import ReaderContract
from casam_cache.datasets.volumes import read_volume
from casam_cache.datasets.volumes.held import Held
from casam_cache.datasets.volumes.labels import read_labels, whole_numbers
from casam_cache.datasets.volumes.slices import SliceName
from casam_cache.datasets.volumes.windows import volume_window
from casam_cache.errors import DatasetError, ImageError


def test_gzip_that_the_name_does_not_say(tmp_path: Path) -> None:
    voxels = phantom()[0]
    hidden = write_nifti(tmp_path / "a.nii.gz", voxels).rename(tmp_path / "a.nii")
    plain = write_nifti(tmp_path / "b.nii", voxels).rename(tmp_path / "b.nii.gz")
    with says(ImageError, str(hidden), "rename it to a.nii.gz"):
        read_volume(hidden)
    with says(ImageError, str(plain), "rename it to b.nii "):
        read_volume(plain)
    assert np.array_equal(read_volume(hidden.rename(tmp_path / "a.nii.gz")).array(), voxels)
    assert np.array_equal(read_volume(plain.rename(tmp_path / "b.nii")).array(), voxels)


def test_labels_that_are_whole_but_for_their_storage(tmp_path: Path) -> None:
    image, labels = phantom()
    volume = read_volume(write_nifti(tmp_path / "a.nii", image, oblique()))
    path = write_nifti(tmp_path / "b.nii", (labels > 0).astype(np.uint8) * 255, oblique(), slope=1 / 255)
    found = whole_numbers(read_labels(path, volume).values(2, 3), path)
    assert np.array_equal(found, labels[:, :, 3] > 0)
    with says(ImageError, "fractional", "0.9999"):
        whole_numbers(np.array([0.0, 1.0, 0.9999]), path)
    with says(ImageError, "nan"):
        whole_numbers(np.array([0.0, np.nan]), path)


@pytest.mark.parametrize("name", ["b.nii.gz", "b.nrrd"])
def test_labels_of_several_layers_are_not_about_channels(tmp_path: Path, name: str) -> None:
    image, labels = phantom()
    volume = read_volume(write_itk(tmp_path / "a.nrrd", image, oblique()))
    layers = np.stack([labels == 1, labels == 2], -1).astype(np.uint8)
    path = tmp_path / name
    if name.endswith("gz"):
        write_nifti(path, layers, volume.affine)
    else:
        found = sitk.GetImageFromArray(layers.transpose(2, 1, 0, 3).copy(), isVector=True)
        found.CopyInformation(sitk.ReadImage(str(tmp_path / "a.nrrd")))
        sitk.WriteImage(found, str(path))
    with says(ImageError, str(path), "one label volume of three axes"):
        read_labels(path, volume)
    with pytest.raises(ImageError) as caught:
        read_labels(path, volume)
    assert "--channels" not in str(caught.value)


def test_a_volume_that_breaks_off_is_decoded_once() -> None:
    held, times = Held(), []

    def load() -> np.ndarray:
        times.append(1)
        raise ImageError("a.nii.gz: it breaks off")

    for _ in range(3):
        with pytest.raises(ImageError, match="breaks off"):
            held.get("a", load)
    assert len(times) == 1


@pytest.mark.parametrize("mark", [".seg", "-label", "_seg"])
def test_labels_by_the_marks_of_tools(tmp_path: Path, mark: str) -> None:
    for number in range(2):
        image, labels = phantom(number)
        write_itk(tmp_path / f"c{number}.nrrd", image, oblique())
        write_itk(tmp_path / f"c{number}{mark}.nrrd", labels, oblique())
    dataset = read_dataset(tmp_path)
    assert not dataset.problems
    assert {sample.masks for sample in dataset.samples} == {(f"c{n}{mark}.nrrd",) for n in range(2)}


def test_labels_of_other_names_are_named_where_no_volume_has_any(tmp_path: Path) -> None:
    image, labels = phantom()
    write_nifti(tmp_path / "images" / "a.nii.gz", image)
    write_nifti(tmp_path / "labels" / "a_drawn.nii.gz", labels)
    with says(DatasetError, "no volume has labels", "images/a.nii.gz", "labels/a_drawn.nii.gz fits no image"):
        read_dataset(tmp_path)


def test_a_disc_with_its_viewer_is_one_dataset(tmp_path: Path) -> None:
    for number in range(2):
        write_patient(tmp_path / f"PA{number}", number, suffix="")
    viewer = tmp_path / "VIEWER" / "logo.bmp"
    viewer.parent.mkdir()
    viewer.write_bytes(b"BM")
    assert len(find_tasks(tmp_path)) == 2  # pictures among DICOM may be anything
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert find_tasks(tmp_path) == [tmp_path]
    dataset = read_dataset(tmp_path)
    assert {sample.group for sample in dataset.samples} == {"PA0", "PA1"}


def test_dicom_without_segmentation_says_what_is_wanted(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "p" / "CT", phantom()[0])
    with says(DatasetError, "no volume has labels", "DICOM-SEG", "--unlabelled"):
        read_dataset(tmp_path)
    write_segmentation(tmp_path / "seg.dcm", paths, phantom()[1], ("a", "b"))
    assert read_dataset(tmp_path).samples


def test_a_localiser_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom()[0])
    header = pydicom.dcmread(paths[0])
    scout = tmp_path / "scout.dcm"
    place = {
        "series": str(header.SeriesInstanceUID),
        "position": (0, 0, 0),
        "orientation": (1, 0, 0, 0, 0, -1),
    }
    dicom_slice(scout, np.zeros((16, 20), np.int16), **place)
    with says(ImageError, "directions", "1 of 8", "scout.dcm"):
        read_volume(tmp_path)
    dicom_slice(scout, np.zeros((40, 50), np.int16), **place)
    with says(ImageError, "sizes", "20 x 16, 50 x 40", "1 of 8", "scout.dcm"):
        read_volume(tmp_path)
    scout.unlink()
    assert read_volume(tmp_path).shape == phantom()[0].shape


def two_values(folder: Path, padding: int, *, dicom: bool, **more: object) -> tuple[float, float]:
    """The window of a volume from 0 to 99 with padding in a fifth of it."""
    voxels = np.resize(np.arange(100, dtype=np.int16), SHAPE)
    voxels[:4] = padding
    if not dicom:
        return volume_window(read_volume(write_nifti(folder / "a.nii.gz", voxels)), "auto")
    for path in write_series(folder, voxels):
        header = pydicom.dcmread(path)
        header.add_new("PixelPaddingValue", "SS", padding)
        header.save_as(path)
    return volume_window(read_volume(folder), "auto")


@pytest.mark.parametrize("padding", [-32768, -3024, -2000])
def test_padding_around_a_field_of_view_is_no_value(tmp_path: Path, padding: int) -> None:
    for dicom in (True, False):
        low, high = two_values(tmp_path / str(dicom), padding, dicom=dicom)
        assert -1 < low < 5
        assert 95 < high < 100
    low, _ = two_values(tmp_path / "near", -50, dicom=False)  # may as well be a value
    assert low == -50
    low, _ = two_values(tmp_path / "said", -50, dicom=True)
    assert low >= 0


def test_slices_of_the_plane_that_was_acquired_are_proposed(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 3.0, 0], [-0.9, 0, 0, 0], [0, -0.9, 0, 0], [0, 0, 0, 1]])
    for number in range(2):
        image, labels = phantom(number)
        write_nifti(tmp_path / "images" / f"{number}.nii.gz", image, affine)
        write_nifti(tmp_path / "labels" / f"{number}.nii.gz", labels, affine)
    dataset = read_dataset(tmp_path)
    assert any("2 volumes were acquired sagittal" in note for note in dataset.notes)
    dataset = read_dataset(tmp_path, DatasetOptions(axis="sagittal"))
    assert not any("acquired" in note for note in dataset.notes)
    assert read_image(dataset, dataset.samples[0]).shape[:2] == (SHAPE[1], SHAPE[0])


def write_named(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        image, labels = phantom(number)
        write_nifti(folder / "images" / f"{name}.nii.gz", image)
        write_nifti(folder / "labels" / f"{name}.nii.gz", labels)
    return folder


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["p1_ED", "p1_ES", "p2_ED", "p2_ES", "p3_ED"], True),
        (["p1/pre", "p1/post", "p2/pre", "p2/post"], True),
        (["site1_001", "site1_002", "site1_003", "site2_004"], False),
        (["liver_1", "liver_2", "liver_3"], False),
        (["a", "b"], False),
    ],
)
def test_names_that_look_like_one_patient_are_asked_about(
    tmp_path: Path, names: list[str], alike: bool
) -> None:
    write_named(tmp_path, names)
    said = [problem for problem in read_dataset(tmp_path).problems if "one patient" in problem.message]
    assert bool(said) == alike
    if said:
        regex = said[0].hint.split("'")[1]
        dataset = read_dataset(tmp_path, DatasetOptions(group_regex=regex))
        assert {sample.group for sample in dataset.samples} == {name[:2] for name in names}
        assert not any("one patient" in problem.message for problem in dataset.problems)


def test_patients_without_a_name_of_their_own_are_said_to_be_one(tmp_path: Path) -> None:
    for number in range(3):
        paths = write_series(tmp_path / f"p{number}" / "CT", phantom(number)[0], patient="ANONYMOUS")
        write_segmentation(tmp_path / f"p{number}" / "seg.dcm", paths, phantom(number)[1], ("a", "b"))
    said = [problem for problem in read_dataset(tmp_path).problems if "one patient" in problem.message]
    assert "ANONYMOUS" in said[0].message
    assert "--group-regex" in said[0].hint
    dataset = read_dataset(tmp_path, DatasetOptions(group_regex="^(p.)"))
    assert {sample.group for sample in dataset.samples} == {"p0", "p1", "p2"}
    assert not dataset.problems


def test_what_is_odd_about_all_volumes_is_said_once(tmp_path: Path) -> None:
    for number in range(5):
        image, labels = phantom(number)
        write_nifti(tmp_path / "images" / f"{number}.nii.gz", image, oblique())
        write_nifti(tmp_path / "labels" / f"{number}.nii.gz", labels)
    [said] = [problem for problem in read_dataset(tmp_path).problems if problem.severity == "warning"]
    assert said.path == "labels/0.nii.gz"
    assert "4 more volumes" in said.message


def write_cases(folder: Path, *names: str, count: int = 3) -> Path:
    """Cases by names with {} for their number; the last is of the labels."""
    for number in range(count):
        image, labels = phantom(number)
        for name in names:
            voxels = labels if name == names[-1] else image
            write_nifti(folder / f"{name.replace('{}', f'{number:03d}')}.nii.gz", voxels, oblique())
    return folder


def test_words_in_front_of_names(tmp_path: Path) -> None:
    dataset = read_dataset(write_cases(tmp_path, "volume-{}", "segmentation-{}"))
    assert {(s.source.partition("#")[0], *s.masks) for s in dataset.samples} == {
        (f"volume-{n:03d}.nii.gz", f"segmentation-{n:03d}.nii.gz") for n in range(3)
    }
    write_nifti(tmp_path / "masked_brain.nii.gz", phantom()[0])
    assert [problem.path for problem in read_dataset(tmp_path).problems] == [
        "masked_brain.nii.gz"
    ]  # no labels


@pytest.mark.parametrize(
    "names", [("case_{}/imaging", "case_{}/segmentation"), ("case_{}/case_{}", "case_{}/case_{}-seg")]
)
def test_a_folder_a_patient(tmp_path: Path, names: tuple[str, str]) -> None:
    write_cases(tmp_path, *names)
    assert find_tasks(tmp_path) == [tmp_path]
    dataset = read_dataset(tmp_path)
    assert {sample.group for sample in dataset.samples} == {"case_000", "case_001", "case_002"}
    assert any("a folder a patient: case_000/" in note for note in dataset.notes)
    assert not dataset.problems


def test_of_several_images_of_a_patient_one_is_chosen(tmp_path: Path) -> None:
    write_cases(tmp_path, "B_{}/B_{}_t1", "B_{}/B_{}_t2", "B_{}/B_{}_seg")
    with says(DatasetError, "1 is t1, 2 is t2", "--channels 1"):
        read_dataset(tmp_path)
    with says(DatasetError, "1 is t1, 2 is t2"):
        read_dataset(tmp_path, DatasetOptions(channels="3"))
    (tmp_path / "B_001" / "B_001_t2.nii.gz").unlink()
    dataset = read_dataset(tmp_path, DatasetOptions(channels="2"))
    assert {s.source.partition("#")[0] for s in dataset.samples} == {
        f"B_{n}/B_{n}_t2.nii.gz" for n in ("000", "002")
    }
    assert [(problem.path, problem.message) for problem in dataset.problems] == [("B_001", "no image 't2'")]


def test_folders_of_several_labels_are_datasets_of_their_own(tmp_path: Path) -> None:
    for name in ("liver", "spleen"):
        write_cases(tmp_path / name, "c{}", "c{}_seg")
    assert len(find_tasks(tmp_path)) == 2


class TestPatients(ReaderContract):
    reader = "volume-patients"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        image, labels = phantom(seed)
        write_nifti(folder / name / "mask.nii.gz", labels, oblique())
        return write_nifti(folder / name / "ct.nii.gz", image, oblique())


def write_two_segmentations(folder: Path, first: str = "liver", second: str = "tumour") -> np.ndarray:
    """A series with a DICOM-SEG an object, which overlap; bool (I, J, K, 2)."""
    image, labels = phantom()
    paths = write_series(folder / "CT", image, oblique())
    objects = np.stack([labels > 0, labels == 2], axis=-1)
    for number, name in enumerate((first, second)):
        file = folder / "SEG" / f"{number}.dcm"
        write_segmentation(file, paths, objects[..., number].astype(np.uint8), (name,))
    return objects


def test_several_segmentations_of_a_series_may_overlap(tmp_path: Path) -> None:
    objects = write_two_segmentations(tmp_path)
    dataset = read_dataset(tmp_path)
    assert not dataset.problems
    assert any("1 series have several segmentations" in note for note in dataset.notes)
    found = np.zeros_like(objects)
    for sample in dataset.samples:
        name = SliceName.parse(sample.source)
        volume, layout = name.open(tmp_path)
        size = (volume.shape[layout.rows], volume.shape[layout.columns])
        shown = list(read_masks(dataset, sample, size))
        assert [mask.class_id for mask in shown] == sorted(mask.class_id for mask in shown)
        for mask in shown:
            layout.place(found[..., mask.class_id - 1], name.index, mask.bitmap)
    assert np.array_equal(found, objects)


def test_overlapping_segmentations_are_one_object_or_none_of_their_own(tmp_path: Path) -> None:
    objects = write_two_segmentations(tmp_path)
    dataset = read_dataset(tmp_path, DatasetOptions(masks="binary"))
    area = sum(mask.bitmap.sum() for sample in dataset.samples for mask in read_masks(dataset, sample))
    assert area == objects.any(axis=-1).sum()
    dataset = read_dataset(tmp_path, DatasetOptions(masks="instances"))
    with says(ImageError, "overlaps", "--masks classes"):
        for sample in dataset.samples:
            list(read_masks(dataset, sample))


def test_the_same_segment_in_two_files_is_not_put_together(tmp_path: Path) -> None:
    write_two_segmentations(tmp_path, "liver", "liver")
    with says(DatasetError, "2 segmentations of one series", "'liver'", "keep the one that is meant"):
        read_dataset(tmp_path)


def test_one_name_of_two_numbers_is_one_class(tmp_path: Path) -> None:
    for number, names in enumerate((("liver", "tumour"), ("cyst", "liver"))):
        paths = write_series(tmp_path / f"{number}" / "CT", phantom(number)[0], patient=f"{number}")
        write_segmentation(tmp_path / f"{number}" / "seg.dcm", paths, phantom(number)[1], names)
    notes = read_dataset(tmp_path).notes
    assert any("classes go by their names: 1 cyst, 2 liver, 3 tumour" in note for note in notes)


def test_a_tilted_gantry_is_said(tmp_path: Path) -> None:
    affine = np.diag([0.8, 0.9, 2.5, 1.0])
    write_series(tmp_path / "straight", phantom()[0], affine)
    affine[1, 2] = 0.9
    write_series(tmp_path / "tilted", phantom()[0], affine)
    assert read_volume(tmp_path / "straight").notes == ()
    volume = read_volume(tmp_path / "tilted")
    assert "tilted 20 degrees" in volume.notes[0]
    assert np.allclose(volume.affine, affine)


def test_labels_saved_without_the_header_of_their_image(tmp_path: Path) -> None:
    image, labels = phantom()
    volume = read_volume(write_nifti(tmp_path / "a.nii.gz", image, oblique()))
    path = write_nifti(tmp_path / "b.nii.gz", labels, np.eye(4))
    with says(ImageError, str(path), "another grid", "image.affine", "resample"):
        read_labels(path, volume)
    write_nifti(path, labels, volume.affine)  # as the hint says
    assert np.array_equal(read_labels(path, volume).array(), labels)
    write_nifti(path, labels[:, :, :-1], volume.affine)
    with pytest.raises(ImageError) as caught:
        read_labels(path, volume)
    assert "image.affine" not in str(caught.value)


def test_a_header_that_breaks_off_anywhere_is_a_damaged_file(tmp_path: Path) -> None:
    """pydicom decodes an element when it is asked for, so a cut within a number shows only then."""
    whole = write_series(tmp_path / "whole", phantom()[0])[0]
    data = whole.read_bytes()
    end = data.index(b"\xe0\x7f\x10\x00")  # the pixels
    file = tmp_path / "cut.dcm"
    # within the last elements: numbers, of which one is cut in two
    for length in [*range(132, end - 130, 23), *range(end - 130, end)]:
        file.write_bytes(data[:length])
        with pytest.raises(
            ImageError
        ):  # at once, or where the header is whole enough when its picture is wanted
            read_volume(file).array()
