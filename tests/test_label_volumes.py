"""Label maps go back onto the voxels they were predicted on, whatever the format and however the source lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from volume_files import dicom_slice, oblique, write_enhanced, write_itk, write_series

from casam_cache.datasets.label_volumes import check_format, default_suffix, label_files
from casam_cache.datasets.volumes import Volume, layout_of, read_volume
from casam_cache.datasets.volumes.layout import PLANES, picture
from casam_cache.datasets.volumes.orientation import LPS_TO_RAS
from casam_cache.errors import ImageError, OptionError

ORDERS = st.permutations([0, 1, 2])
SIGNS = st.tuples(*[st.sampled_from([1, -1])] * 3)
ANGLES = st.tuples(*[st.integers(-40, 40)] * 3)


SHAPE = (11, 14, 9)


def phantom() -> np.ndarray:
    """int16 (I, J, K): three blocks of values 300, 600 and 900 that no mirror or turn maps to themselves."""
    voxels = np.full(SHAPE, -50, np.int16)
    voxels[1:5, 2:10, 1:7] = 300
    voxels[6:10, 1:4, 2:8] = 600
    voxels[2:4, 11:13, 7:] = 900
    return voxels


def truth(voxels: np.ndarray) -> np.ndarray:
    """uint8, the number of each voxel's block."""
    return np.maximum(np.rint(voxels) // 300, 0).astype(np.uint8)


def turned(angles: Sequence[float], signs: Sequence[int], order: Sequence[int]) -> np.ndarray:
    """An affine turned by angles in degrees, axes in another order, some of them running backwards."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = (turn @ np.diag(signs))[:, list(order)] * (0.7, 0.9, 2.5)
    affine[:3, 3] = (-31.25, 17.5, 102.75)
    return affine


def predicted(volume: Volume, axis: str | None) -> np.ndarray:
    """What `casam predict` would write if it found every block exactly: each picture thresholded on its own."""
    layout = layout_of(volume, axis)
    labels = np.zeros(volume.shape, np.uint16)
    for index in range(volume.shape[layout.axis]):
        layout.place(labels, index, truth(picture(volume, layout, index)))
    return labels


def write(files: list[tuple[Path, bytes]]) -> Path:
    for path, data in files:
        path.write_bytes(data)
    return files[0][0]


def world(labels: np.ndarray, affine: np.ndarray, number: int) -> np.ndarray:
    """Places of the voxels of an object, mm, sorted."""
    places = np.argwhere(labels == number) @ affine[:3, :3].T + affine[:3, 3]
    return places[np.lexsort(np.round(places, 3).T)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    order=ORDERS, signs=SIGNS, angles=ANGLES, axis=st.sampled_from(sorted(PLANES)),
    codes=st.sampled_from([(1, 0), (0, 1), (2, 1), (4, 3)]), big=st.booleans(),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)  # fmt: skip
def test_nifti_round_trip(tmp_path_factory, order, signs, angles, axis, codes, big, suffix):
    folder = tmp_path_factory.mktemp("nifti")
    voxels, affine = phantom(), turned(angles, signs, order)
    header = nibabel.Nifti1Header(endianness=">" if big else "<")
    image = nibabel.Nifti1Image(voxels, affine, header)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"asymmetric"
    image.header.set_slope_inter(2, -10)
    nibabel.save(image, folder / f"ct{suffix}")

    volume = read_volume(folder / f"ct{suffix}")
    out = write(label_files(volume, predicted(volume, axis), folder / "mask.nii.gz"))
    source, found = nibabel.load(folder / f"ct{suffix}"), nibabel.load(out)
    stored = np.asarray(source.dataobj)
    assert np.array_equal(np.asarray(found.dataobj), truth(stored))
    assert found.get_data_dtype() == np.uint8
    assert np.array_equal(found.affine, source.affine)
    for form in ("get_sform", "get_qform"):
        for one, other in zip(
            getattr(found, form)(coded=True), getattr(source, form)(coded=True), strict=True
        ):
            assert np.array_equal(one, other)
    assert found.header.get_xyzt_units() == ("mm", "sec")
    assert found.header["descrip"] == source.header["descrip"]
    assert found.header.get_slope_inter() in ((1, 0), (None, None))


def test_a_time_point_and_one_slice_keep_their_place(tmp_path: Path):
    voxels = np.stack([np.zeros(SHAPE, np.int16), phantom()], axis=-1)
    nibabel.save(nibabel.Nifti1Image(voxels, oblique()), tmp_path / "four.nii.gz")
    nibabel.save(nibabel.Nifti1Image(phantom()[..., 3], oblique()), tmp_path / "flat.nii.gz")
    four = read_volume(tmp_path / "four.nii.gz", channel=1)
    found = nibabel.load(write(label_files(four, predicted(four, None), tmp_path / "m.nii.gz")))
    assert np.array_equal(np.asarray(found.dataobj), truth(phantom()))
    assert np.array_equal(found.affine, nibabel.load(tmp_path / "four.nii.gz").affine)
    flat = read_volume(tmp_path / "flat.nii.gz")
    found = nibabel.load(write(label_files(flat, predicted(flat, None), tmp_path / "f.nii.gz")))
    assert found.shape == SHAPE[:2]
    assert np.array_equal(np.asarray(found.dataobj), truth(phantom()[..., 3]))


def test_nifti2_and_pairs_become_what_they_can(tmp_path: Path):
    nibabel.save(nibabel.Nifti2Image(phantom(), oblique()), tmp_path / "two.nii")
    nibabel.save(nibabel.Nifti1Pair(phantom(), oblique()), tmp_path / "pair.hdr")
    for name, kind in (("two.nii", nibabel.Nifti2Image), ("pair.hdr", nibabel.Nifti1Image)):
        volume = read_volume(tmp_path / name)
        found = nibabel.load(write(label_files(volume, predicted(volume, "coronal"), tmp_path / "m.nii.gz")))
        assert type(found) is kind
        assert np.array_equal(np.asarray(found.dataobj), truth(phantom()))
        assert np.array_equal(found.affine, nibabel.load(tmp_path / name).affine)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    order=ORDERS, signs=SIGNS, angles=ANGLES, axis=st.sampled_from(sorted(PLANES)),
    source=st.sampled_from([".nrrd", ".mha", ".mhd"]), target=st.sampled_from([".nrrd", ".mha", ".mhd", ".nii.gz"]),
)  # fmt: skip
def test_itk_round_trip(tmp_path_factory, order, signs, angles, axis, source, target):
    folder = tmp_path_factory.mktemp("itk")
    write_itk(folder / f"ct{source}", phantom(), turned(angles, signs, order))
    image = SimpleITK.ReadImage(str(folder / f"ct{source}"))

    volume = read_volume(folder / f"ct{source}")
    out = write(label_files(volume, predicted(volume, axis), folder / f"mask{target}")[::-1])
    found = SimpleITK.ReadImage(str(folder / f"mask{target}"))
    assert out.parent == folder
    assert np.array_equal(SimpleITK.GetArrayFromImage(found).transpose(2, 1, 0), truth(phantom()))
    close = 1e-4 if target == ".nii.gz" else 1e-6
    assert np.allclose(found.GetOrigin(), image.GetOrigin(), atol=close)
    assert np.allclose(found.GetSpacing(), image.GetSpacing(), atol=close)
    assert np.allclose(found.GetDirection(), image.GetDirection(), atol=close)


@pytest.mark.parametrize("axis", sorted(PLANES))
@pytest.mark.parametrize(("degrees", "flip"), [(0, "k"), (25, ""), (-40, "ik")])
def test_dicom_round_trip(tmp_path: Path, axis: str, degrees: float, flip: str):
    affine = oblique(degrees=degrees, flip=flip)
    stored = (phantom() + 1000) // 2
    write_series(tmp_path / "ct", stored.astype(np.int16), affine, slope=2, intercept=-1000)
    volume = read_volume(tmp_path / "ct")
    labels = predicted(volume, axis)
    seg = highdicom.seg.segread(
        write(label_files(volume, labels, tmp_path / "m.dcm", {1: "liver", 2: "spleen"}))
    )
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == [
        "liver", "spleen", "object 3",
    ]  # fmt: skip
    instances = {}
    for path in (tmp_path / "ct").iterdir():
        data = pydicom.dcmread(path)
        instances[data.SOPInstanceUID] = truth(data.pixel_array * 2 - 1000)
    assert {uid for _, _, uid in seg.get_source_image_uids()} == set(instances)
    # By the instances it refers to, which no sorting can turn over.
    frames = seg.get_pixels_by_source_instance(
        list(instances), combine_segments=True, ignore_spatial_locations=True
    )
    for frame, expected in zip(frames, instances.values(), strict=True):
        assert np.array_equal(frame, expected)
    # And by places in the patient.
    box = seg.get_volume(combine_segments=True)
    for number in (1, 2, 3):
        assert np.allclose(
            world(box.array, box.affine, number),
            world(truth(phantom()), LPS_TO_RAS @ affine, number),
            atol=1e-3,
        )
    first = pydicom.dcmread(next((tmp_path / "ct").iterdir()))
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(seg, name) == getattr(first, name)
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    [(_, again)] = label_files(volume, labels, tmp_path / "m.dcm")
    assert pydicom.dcmread(tmp_path / "m.dcm").SOPInstanceUID.encode() in again

    found = nibabel.load(write(label_files(volume, labels, tmp_path / "m.nii.gz")))
    for number in (1, 2, 3):
        expected = world(truth(phantom()), affine, number)
        assert np.allclose(world(np.asarray(found.dataobj), found.affine, number), expected, atol=1e-3)


def test_an_enhanced_file_keeps_the_order_of_its_frames(tmp_path: Path):
    affine = oblique()
    write_enhanced(tmp_path / "ct.dcm", phantom(), affine)
    volume = read_volume(tmp_path / "ct.dcm")
    seg = highdicom.seg.segread(write(label_files(volume, predicted(volume, "sagittal"), tmp_path / "m.dcm")))
    box = seg.get_volume(combine_segments=True)
    for number in (1, 2, 3):
        expected = world(truth(phantom()), LPS_TO_RAS @ affine, number)
        assert np.allclose(world(box.array, box.affine, number), expected, atol=1e-3)


def test_frames_that_a_dicom_seg_would_lose_are_refused(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 20, 16), dtype=np.uint8)
    dicom_slice(
        tmp_path / "us.dcm", pixels
    )  # frames in a class that has none: highdicom takes the first alone
    volume = read_volume(tmp_path / "us.dcm")
    labels = np.zeros(volume.shape, np.uint8)
    labels[2:5, 3:9] = 1
    with pytest.raises(ImageError, match="not all frames"):
        label_files(volume, labels, tmp_path / "m.dcm")


def test_a_dicom_without_prediction_or_place_says_what_to_do(tmp_path: Path):
    write_series(tmp_path / "ct", phantom(), oblique())
    volume = read_volume(tmp_path / "ct")
    with pytest.raises(ImageError, match="no voxel was predicted") as error:
        label_files(volume, np.zeros(volume.shape, np.uint8), tmp_path / "m.dcm")
    assert "nii.gz" in error.value.hint
    for path in (tmp_path / "ct").iterdir():
        data = pydicom.dcmread(path)
        del data.StudyInstanceUID
        data.save_as(path)
    volume = read_volume(tmp_path / "ct")
    with pytest.raises(ImageError, match="no DICOM-SEG can be made for it") as error:
        label_files(volume, predicted(volume, None), tmp_path / "m.dcm")
    assert "nii.gz" in error.value.hint


def test_numpy_stacks_go_back_as_arrays_or_pages(tmp_path: Path):
    stack = np.ascontiguousarray(phantom().transpose(2, 1, 0))
    np.save(tmp_path / "ct.npy", stack)
    volume = read_volume(tmp_path / "ct.npy")
    labels = predicted(volume, None)
    assert np.array_equal(np.load(write(label_files(volume, labels, tmp_path / "m.npy"))), truth(stack))
    assert np.array_equal(
        tifffile.imread(write(label_files(volume, labels, tmp_path / "m.tif"))), truth(stack)
    )


def test_many_objects_are_16_bit(tmp_path: Path):
    nibabel.save(nibabel.Nifti1Image(phantom(), oblique()), tmp_path / "ct.nii.gz")
    volume = read_volume(tmp_path / "ct.nii.gz")
    labels = predicted(volume, None)
    labels[0, 0, 0] = 40_000
    found = nibabel.load(write(label_files(volume, labels, tmp_path / "m.nii.gz")))
    assert found.get_data_dtype() == np.uint16
    assert np.asarray(found.dataobj)[0, 0, 0] == 40_000


def test_formats_are_checked_by_name(tmp_path: Path):
    nibabel.save(nibabel.Nifti1Image(phantom(), oblique()), tmp_path / "ct.nii.gz")
    volume = read_volume(tmp_path / "ct.nii.gz")
    assert default_suffix(volume) == ".nii.gz"
    assert check_format(volume, Path("a.b.NII.GZ")) == ".nii.gz"
    with pytest.raises(OptionError, match="not written so") as error:
        check_format(volume, Path("mask.png"))
    assert ".nii.gz" in error.value.hint
    with pytest.raises(ValueError, match="labels of shape"):
        label_files(volume, np.zeros((2, 3, 4), np.uint8), tmp_path / "m.nii")
