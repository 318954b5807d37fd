"""Volumes of every format against the libraries' own reading of the same files."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from volume_files import (
    SHAPE,
    dicom_slice,
    oblique,
    phantom,
    says,
    write_enhanced,
    write_itk,
    write_nifti,
    write_series,
)

from casam_cache.datasets.sample import AXES
from casam_cache.datasets.volumes import Volume, layout_of, read_volume
from casam_cache.datasets.volumes.held import HELD
from casam_cache.datasets.volumes.layout import picture
from casam_cache.datasets.volumes.orientation import axis_codes
from casam_cache.errors import ImageError, OptionError

IMAGE, LABELS = phantom()


def slices(volume: Volume) -> np.ndarray:
    """All values, read slice by slice along k."""
    return np.stack([volume.values(2, k) for k in range(volume.shape[2])], axis=2)


@pytest.mark.parametrize("name", ["plain.nii", "Größe 1.nii.gz"])
@pytest.mark.parametrize("flip", ["", "i", "jk", "ijk"])
def test_nifti_is_what_nibabel_reads(tmp_path: Path, name: str, flip: str) -> None:
    path = write_nifti(tmp_path / name, IMAGE, oblique(flip=flip))
    volume, own = read_volume(path), nibabel.load(path)
    assert volume.shape == own.shape
    assert np.allclose(volume.affine, own.affine)
    assert volume.codes == "".join(nibabel.aff2axcodes(own.affine))
    assert np.allclose(volume.spacing, own.header.get_zooms())
    assert np.array_equal(slices(volume), own.get_fdata())
    assert volume.oriented
    assert not volume.notes


@pytest.mark.parametrize(("slope", "inter"), [(2.0, -1024.0), (0.37, 4.25), (-1.0, 0.5)])
def test_a_scaled_nifti_has_nibabels_values(tmp_path: Path, slope: float, inter: float) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE, oblique(), slope=slope, inter=inter)
    own = nibabel.load(path).get_fdata()
    assert own.min() != IMAGE.min(), "the file is scaled"
    assert np.array_equal(slices(read_volume(path)), own)


def test_big_endian_and_real_numbers(tmp_path: Path) -> None:
    for dtype in (np.int16, np.float32, np.uint8, np.float64):
        path = write_nifti(tmp_path / f"{np.dtype(dtype)}.nii", IMAGE.astype(dtype), np.eye(4), big=True)
        volume = read_volume(path)
        shown = picture(volume, layout_of(volume), 3)
        assert shown.dtype == np.dtype(dtype)
        assert np.array_equal(slices(volume), IMAGE.astype(dtype))


def test_a_nifti_that_does_not_say_how_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(IMAGE, None)
    image.header.set_zooms((0.5, 0.6, 3))
    nibabel.save(image, path)
    volume = read_volume(path)
    assert (volume.oriented, volume.codes) == (False, "")
    assert np.allclose(volume.spacing, (0.5, 0.6, 3))
    assert layout_of(volume).axis == 2
    assert "does not say how it lies" in volume.notes[0]
    with says(OptionError, "does not say how it lies", "--axis 2"):
        layout_of(volume, "coronal")


def test_sform_and_qform_that_differ_are_said(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(IMAGE, oblique())
    image.set_qform(np.diag([1.0, 1, 2, 1]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert np.allclose(volume.affine, oblique(), atol=1e-5)
    assert "sform counts" in volume.notes[0]


def test_units_become_mm(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(IMAGE, np.diag([500.0, 600, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert np.allclose(read_volume(tmp_path / "a.nii").spacing, (0.5, 0.6, 2))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_of_several_channels_one_is_chosen(tmp_path: Path, suffix: str) -> None:
    both = np.stack([IMAGE, -IMAGE], axis=3)
    path = write_nifti(tmp_path / f"a{suffix}", both, oblique())
    with says(ImageError, "2 volumes", "--channels 1 to --channels 2"):
        read_volume(path)
    with says(ImageError, "no channel 3"):
        read_volume(path, channel=2)
    for channel in (0, 1):
        assert np.array_equal(slices(read_volume(path, channel=channel)), both[..., channel])
    single = write_nifti(tmp_path / f"b{suffix}", IMAGE[..., None], oblique())
    assert np.array_equal(slices(read_volume(single)), IMAGE)
    flat = write_nifti(tmp_path / f"c{suffix}", IMAGE[..., 0], oblique())
    assert read_volume(flat).shape == (*SHAPE[:2], 1)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr", "ä b.mha"])
@pytest.mark.parametrize("compress", [False, True])
def test_itk_formats_are_what_simpleitk_reads(tmp_path: Path, name: str, compress: bool) -> None:
    path = write_itk(tmp_path / name, IMAGE, oblique(flip="j"), compress=compress)
    volume = read_volume(path)
    assert np.array_equal(
        slices(volume), sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)
    )
    assert np.array_equal(slices(volume), IMAGE)
    assert np.allclose(volume.affine, oblique(flip="j"))
    assert volume.oriented
    own = sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (3, 5, 2)):
        lps = own.TransformIndexToPhysicalPoint(index)
        assert np.allclose(volume.affine @ (*index, 1), (-lps[0], -lps[1], lps[2], 1))


def test_an_nrrd_without_space_does_not_say_how_it_lies(tmp_path: Path) -> None:
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 3 4 5\nencoding: raw\nspacings: 1 1 2\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(range(60)))
    volume = read_volume(tmp_path / "a.nrrd")
    assert not volume.oriented
    assert np.array_equal(slices(volume).ravel(order="F"), np.arange(60))


def test_numpy_files_keep_their_axes(tmp_path: Path) -> None:
    array = IMAGE.transpose(2, 1, 0)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "b.npz", scan=array, comment=np.array("x"))
    for name in ("a.npy", "b.npz"):
        volume = read_volume(tmp_path / name)
        assert volume.shape == array.shape
        layout = layout_of(volume)
        assert layout.axis == 0
        assert np.array_equal(picture(volume, layout, 2), array[2])
        assert volume.units == "voxels"
    np.savez(tmp_path / "c.npz", a=array, b=array)
    with says(ImageError, "2 arrays"):
        read_volume(tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", np.zeros((20, 20, 3), np.uint8))
    with says(ImageError, "colour picture, or slices 3 pixels wide"):
        read_volume(tmp_path / "d.npy")
    np.save(tmp_path / "e.npy", np.array([{"code": 1}]), allow_pickle=True)
    with pytest.raises(ImageError):
        read_volume(tmp_path / "e.npy")


@pytest.mark.parametrize("flip", ["", "i", "jk"])
def test_a_dicom_series_is_sorted_by_position(tmp_path: Path, flip: str) -> None:
    affine = oblique(flip=flip)
    paths = write_series(tmp_path / "séries 1", IMAGE, affine, slope=2.0, intercept=-1024.0)
    volume = read_volume(tmp_path / "séries 1")
    by_uid = {
        str(data.SOPInstanceUID): pydicom.pixels.apply_rescale(data.pixel_array, data)
        for data in map(pydicom.dcmread, paths)
    }
    assert volume.shape == SHAPE
    for k, plane in enumerate(volume.planes):
        assert np.array_equal(volume.values(2, k), by_uid[plane.uid].T)
        lps = pydicom.dcmread(plane.path).ImagePositionPatient
        assert np.allclose(volume.affine @ (0, 0, k, 1), (-lps[0], -lps[1], lps[2], 1), atol=1e-3)
    itk = sitk.ImageSeriesReader()
    itk.SetFileNames(itk.GetGDCMSeriesFileNames(str(tmp_path / "séries 1")))
    own = itk.Execute()
    assert np.array_equal(np.sort(slices(volume).ravel()), np.sort(sitk.GetArrayFromImage(own).ravel()))
    assert np.allclose(volume.spacing, own.GetSpacing(), atol=1e-3)
    assert not volume.notes
    assert volume.patient == "P1"


def test_monochrome1_is_turned_over_in_pictures_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "a", IMAGE, photometric="MONOCHROME1")
    volume = read_volume(tmp_path / "a")
    layout = layout_of(volume)
    assert np.array_equal(slices(volume), IMAGE)
    assert np.array_equal(picture(volume, layout, 1), -layout.picture(IMAGE[:, :, 1]).astype(float))
    eight = (IMAGE % 200).astype(np.uint8)
    write_series(tmp_path / "b", eight, photometric="MONOCHROME1")
    volume = read_volume(tmp_path / "b")
    assert np.array_equal(picture(volume, layout, 1), 255 - layout.picture(eight[:, :, 1]))


@pytest.mark.parametrize(
    "syntax", [pydicom.uid.ExplicitVRBigEndian, pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.RLELossless]
)
def test_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path / "a", IMAGE, oblique(), syntax=syntax, suffix="")
    assert np.array_equal(slices(read_volume(tmp_path / "a")), IMAGE)


def test_lossless_jpeg(tmp_path: Path) -> None:
    import imagecodecs

    values = (IMAGE + 1000).astype(np.uint16)
    for path in write_series(tmp_path / "a", values):
        data = pydicom.dcmread(path)
        code = imagecodecs.ljpeg_encode(data.pixel_array, bitspersample=16)
        data.PixelData = pydicom.encaps.encapsulate([code])
        data["PixelData"].is_undefined_length = True
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        data.save_as(path)
    assert np.array_equal(slices(read_volume(tmp_path / "a")), values)


def test_an_enhanced_multi_frame_file(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "a.dcm", IMAGE, oblique(), slope=2, intercept=-5)
    volume = read_volume(path)
    assert np.array_equal(slices(volume), IMAGE.astype(int) * 2 - 5)
    assert np.allclose(volume.affine, oblique(), atol=1e-3)
    assert [plane.frame for plane in volume.planes] == list(reversed(range(SHAPE[2])))


def test_frames_without_a_position_keep_their_order(tmp_path: Path) -> None:
    dicom_slice(tmp_path / "cine.dcm", IMAGE.transpose(2, 1, 0))
    volume = read_volume(tmp_path / "cine.dcm")
    assert np.array_equal(slices(volume), IMAGE)
    assert not volume.oriented
    assert np.array_equal(picture(volume, layout_of(volume), 2), IMAGE[:, :, 2].T)


def test_missing_and_doubled_slices_are_said(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", IMAGE, leave_out=(3, 4))
    copy = tmp_path / "a" / "zz copy.dcm"
    copy.write_bytes(paths[0].read_bytes())
    (tmp_path / "a" / "zz broken.dcm").write_bytes(paths[1].read_bytes()[:200])
    volume = read_volume(tmp_path / "a")
    text = "; ".join(volume.notes)
    assert "2 slices missing between" in text
    assert "zz copy.dcm has the instance UID of" in text
    assert "zz broken.dcm cannot be read" in text
    assert volume.shape[2] == SHAPE[2] - 2
    assert volume.spacing[2] == pytest.approx(2.5)


def test_several_pictures_at_one_position(tmp_path: Path) -> None:
    uid = pydicom.uid.generate_uid()
    write_series(tmp_path / "s" / "a", IMAGE, series=uid, EchoNumbers=1)
    write_series(tmp_path / "s" / "b", -IMAGE, series=uid, EchoNumbers=2)
    with says(ImageError, "2 pictures at each of 7 positions", "--channels 1 to --channels 2"):
        read_volume(tmp_path / "s")
    assert np.array_equal(slices(read_volume(tmp_path / "s", channel=1)), -IMAGE)
    (tmp_path / "s" / "b" / "IM 000-é.dcm").unlink()
    with says(ImageError, "6 of 7 positions hold several pictures"):
        read_volume(tmp_path / "s", channel=1)


def test_several_series_in_one_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "s" / "a", IMAGE, series="1.2.3", description="Portal venös")
    write_series(tmp_path / "s" / "b", -IMAGE, series="1.2.4", description="native")
    with says(
        ImageError, "2 DICOM series in one folder: 'Portal venös' CT of 7 files (1.2.3)", "--series 1.2.3"
    ):
        read_volume(tmp_path / "s")
    for series, expected in (("1.2.3", IMAGE), ("native", -IMAGE)):
        assert np.array_equal(slices(read_volume(tmp_path / "s", series=series)), expected)
    with says(ImageError, "no series 'other'; there are: 'Portal venös'"):
        read_volume(tmp_path / "s", series="other")
    with says(ImageError, "2 series '2'"):
        read_volume(tmp_path / "s", series="2")


def test_a_localiser_among_the_slices_is_says(tmp_path: Path) -> None:
    write_series(tmp_path / "s", IMAGE, series="1.2.3")
    dicom_slice(
        tmp_path / "s" / "scout.dcm", np.ascontiguousarray(IMAGE[:, :, 0].T), series="1.2.3",
        position=(0, 0, 0), orientation=(0, 1, 0, 0, 0, -1),
    )  # fmt: skip
    with says(ImageError, "several directions"):
        read_volume(tmp_path / "s")


def test_slices_with_scales_of_their_own(tmp_path: Path) -> None:
    for k in range(3):
        dicom_slice(
            tmp_path / "s" / f"{k}.dcm", np.ascontiguousarray(IMAGE[:, :, k].T), series="1.2.3",
            position=(0, 0, k), slope=1.5 + k, intercept=k,
        )  # fmt: skip
    found = slices(read_volume(tmp_path / "s"))
    for k in range(3):
        assert np.allclose(found[:, :, k], IMAGE[:, :, k] * (1.5 + k) + k)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.dcm", "a.mha", "a.nrrd", "a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"abc", bytes(128) + b"DICM" + bytes(range(200))])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with says(ImageError, name):
        read_volume(tmp_path / name)


def test_what_is_no_file(tmp_path: Path) -> None:
    import os

    with says(ImageError, "there is no such file"):
        read_volume(tmp_path / "a.nii")
    os.mkfifo(tmp_path / "b.nii.gz")
    with says(ImageError, "not a regular file"):
        read_volume(tmp_path / "b.nii.gz")


def test_special_files_of_a_series_are_left_out(tmp_path: Path) -> None:
    import os

    write_series(tmp_path / "s", IMAGE)
    os.mkfifo(tmp_path / "s" / "pipe.dcm")
    (tmp_path / "s" / "zero.dcm").symlink_to("/dev/zero")
    volume = read_volume(tmp_path / "s")
    assert np.array_equal(slices(volume), IMAGE)
    assert [note.split()[0] for note in volume.notes] == ["pipe.dcm", "zero.dcm"]
    with says(ImageError, "pipe.dcm: not a regular file"):
        read_volume(tmp_path / "s" / "pipe.dcm")


def test_a_decode_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE, np.eye(4))
    over = Event()
    monkeypatch.setenv("CASAM_DECODE_SECONDS", "0.1")
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "get_unscaled", lambda self: over.wait(60))
    try:
        with says(ImageError, "a.nii.gz: not decoded after 0.1 seconds"):
            read_volume(path).values(2, 0)
    finally:
        over.set()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE, np.eye(4))
    assert np.array_equal(slices(read_volume(path)), IMAGE)
    write_nifti(path, IMAGE + 7, np.eye(4))
    assert np.array_equal(slices(read_volume(path)), IMAGE + 7)


def test_slices_of_a_compressed_volume_decode_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE, np.eye(4))
    HELD.clear()
    reads: list[int] = []
    whole = nibabel.arrayproxy.ArrayProxy.get_unscaled
    monkeypatch.setattr(
        nibabel.arrayproxy.ArrayProxy, "get_unscaled", lambda self: (reads.append(1), whole(self))[1]
    )
    for k in range(SHAPE[2]):
        read_volume(path).values(2, k)
    assert len(reads) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.floats(-30, 30),
    st.sampled_from(AXES),
)
def test_pictures_lie_alike_however_the_file_is_stored(
    order: list[int], signs: tuple[int, ...], degrees: float, axis: str
) -> None:
    """The same patient, stored with other axes and other directions, gives the same pictures."""
    base = Volume(Path("a"), "nifti", SHAPE, oblique(degrees=degrees), object(), lambda: IMAGE)
    stored, affine = IMAGE.transpose(order), base.affine[:, [*order, 3]].copy()
    for n, sign in enumerate(signs):
        if sign < 0:
            stored = np.flip(stored, n)
            affine[:3, 3] += affine[:3, n] * (stored.shape[n] - 1)
            affine[:3, n] *= -1
    other = Volume(Path("b"), "nifti", stored.shape, affine, object(), lambda: stored)
    assert axis_codes(affine) == "".join(nibabel.aff2axcodes(affine))
    layout = layout_of(other, axis)
    same = layout_of(base, layout.plane)
    count = stored.shape[layout.axis]
    turned = bool(np.dot(affine[:3, layout.axis], base.affine[:3, same.axis]) < 0)
    again = np.zeros(stored.shape, stored.dtype)
    for index in range(count):
        shown = picture(other, layout, index)
        assert np.array_equal(shown, picture(base, same, count - 1 - index if turned else index))
        layout.place(again, index, shown)
    assert np.array_equal(again, stored)


def test_axial_pictures_have_the_patients_left_at_the_right() -> None:
    ras = np.zeros((3, 4, 5), np.uint8)
    ras[0, 3, 4] = 1  # left, front, head
    volume = Volume(Path("a"), "nifti", (3, 4, 5), np.eye(4), object(), lambda: ras)
    for plane, index, row, column in (("axial", 4, 0, -1), ("coronal", 3, 0, -1), ("sagittal", 0, 0, 0)):
        shown = picture(volume, layout_of(volume, plane), index)
        assert shown[row, column] == 1, plane
        assert shown.sum() == 1
