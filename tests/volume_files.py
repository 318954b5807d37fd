"""Volumes as scanners and tools write them, by the real libraries: an asymmetric phantom in every format."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from casam_cache.errors import CasamError

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SHAPE = (20, 16, 7)  # i, j, k: all different, so that a mixed-up axis shows


def phantom(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image int16 and labels uint8 (0, 1, 2), (I, J, K), alike under no turn and no mirror; the last slice is empty."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    i, j, k = shape
    labels[2 : i // 2, 3 : j // 2, 1 : k - 1] = 1
    labels[2 : i // 4, j // 2 : j - 1, 1:3] = 2
    image = rng.integers(-100, 100, shape) + 400 * labels.astype(int)
    return image.astype(np.int16), labels


@contextmanager
def says(kind: type[CasamError], *words: str) -> Iterator[None]:
    """The block raises an error of that kind with a hint, whose text holds all of `words`."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


def oblique(
    *, degrees: float = 20.0, spacing: Sequence[float] = (0.8, 0.9, 2.5), flip: str = ""
) -> np.ndarray:
    """An affine turned about two axes; `flip` names axes (i, j, k) that run the other way."""
    a, b = np.deg2rad(degrees), np.deg2rad(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = (about_z @ about_x) * np.array(spacing)
    for axis in flip:
        affine[:3, "ijk".index(axis)] *= -1
    affine[:3, 3] = (-31.0, 12.5, 140.0)
    return affine


def write_nifti(
    path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, *,
    slope: float | None = None, inter: float = 0.0, big: bool = False,
) -> Path:  # fmt: skip
    """A NIfTI file; with `slope` the stored numbers are `voxels` and the header scales them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = nibabel.Nifti1Header(endianness=">" if big else "<")
    image = nibabel.Nifti1Image(voxels, affine, header, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    if slope is None:
        nibabel.save(image, path)
        return path
    image.header.set_slope_inter(slope, inter)
    image.header.set_data_shape(voxels.shape)
    with nibabel.openers.ImageOpener(path, "wb") as file:
        image.header["vox_offset"] = 352
        image.header["magic"] = b"n+1"
        file.write(image.header.binaryblock + bytes(4))
        file.write(voxels.astype(image.header.get_data_dtype()).tobytes(order="F"))
    return path


def write_itk(path: Path, voxels: np.ndarray, affine: np.ndarray, *, compress: bool = False) -> Path:
    """A MetaImage or NRRD file of voxels (I, J, K) at an affine in RAS+."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


def dicom_slice(
    path: Path, pixels: np.ndarray, *, series: str = "", study: str = "", uid: str = "", patient: str = "P1",
    position: Sequence[float] | None = None, orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] = (0.9, 0.8), slope: float | None = 1.0, intercept: float = 0.0, number: int = 1,
    photometric: str = "MONOCHROME2", syntax: str = ExplicitVRLittleEndian, description: str = "CT Bäuch",
    **more: Any,
) -> FileDataset:  # fmt: skip
    """A CT slice (rows, columns), or (frames, rows, columns), as a scanner writes one; `more` are further elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT
    meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset(
        str(path), {}, file_meta=meta, preamble=b"\0" * 128,
        is_implicit_VR=syntax == pydicom.uid.ImplicitVRLittleEndian,
        is_little_endian=syntax != pydicom.uid.ExplicitVRBigEndian,
    )  # fmt: skip
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID = series or generate_uid(), study or generate_uid()
    data.FrameOfReferenceUID = data.StudyInstanceUID
    data.Modality, data.PatientID, data.PatientName = "CT", patient, "Müller^Zoë"
    data.PatientBirthDate, data.PatientSex = "19700101", "O"
    data.StudyDate = data.SeriesDate = data.ContentDate = datetime.date(2020, 1, 2).strftime("%Y%m%d")
    data.StudyTime = data.ContentTime = "120000"
    data.AccessionNumber, data.StudyID, data.ReferringPhysicianName = "", "1", ""
    data.SeriesDescription, data.SeriesNumber, data.InstanceNumber = description, "2", str(number)
    data.Manufacturer, data.ManufacturerModelName = "none", "none"
    data.DeviceSerialNumber, data.SoftwareVersions = "1", "1"
    if position is not None:
        data.ImagePositionPatient = [float(value) for value in position]
        data.ImageOrientationPatient = [float(value) for value in orientation]
    data.PixelSpacing, data.SliceThickness = list(spacing), "2.5"
    if slope is not None:
        data.RescaleSlope, data.RescaleIntercept = str(slope), str(intercept)
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    for name, value in more.items():
        setattr(data, name, value)
    order = ">" if syntax == pydicom.uid.ExplicitVRBigEndian else "<"
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax in (pydicom.uid.RLELossless,):
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(syntax)
    data.save_as(path, enforce_file_format=True)
    return data


def write_series(
    folder: Path, voxels: np.ndarray, affine: np.ndarray | None = None, *, leave_out: Sequence[int] = (),
    series: str = "", suffix: str = ".dcm", **more: Any,
) -> list[Path]:  # fmt: skip
    """A series of voxels (I, J, K) at an affine in RAS+, in files whose names tell nothing of their order."""
    affine = np.diag([0.8, 0.9, 2.5, 1.0]) if affine is None else affine
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    directions = lps[:3, :3] / spacing
    series, study, paths = series or generate_uid(), generate_uid(), []
    for k in range(voxels.shape[2]):
        if k in leave_out:
            continue
        path = folder / f"IM {(k * 53) % 101:03d}-é{suffix}"
        dicom_slice(
            path, np.ascontiguousarray(voxels[:, :, k].T), series=series, study=study, number=k + 1,
            position=(lps @ (0, 0, k, 1))[:3], orientation=[*directions[:, 0], *directions[:, 1]],
            spacing=(spacing[1], spacing[0]), **more,
        )  # fmt: skip
        paths.append(path)
    return paths


def write_enhanced(
    path: Path, voxels: np.ndarray, affine: np.ndarray, *, slope: float = 1.0, intercept: float = 0.0
) -> Path:
    """One enhanced multi-frame file of voxels (I, J, K); frames are in the opposite order of their positions."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    directions = lps[:3, :3] / spacing
    shared, plane, measures, value = Dataset(), Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = [*directions[:, 0], *directions[:, 1]]
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    value.RescaleSlope, value.RescaleIntercept, value.RescaleType = slope, intercept, "HU"
    shared.PlaneOrientationSequence = [plane]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [value]
    frames = []
    for k in reversed(range(voxels.shape[2])):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [float(x) for x in (lps @ (0, 0, k, 1))[:3]]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    pixels = np.ascontiguousarray(voxels.transpose(2, 1, 0)[::-1])
    dicom_slice(
        path, pixels, slope=None, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames,
        SOPClassUID=ENHANCED_CT,
    )  # fmt: skip
    return path


def write_segmentation(
    path: Path, series: Sequence[Path], labels: np.ndarray, names: Sequence[str], *, kind: str = "BINARY"
) -> Path:
    """A DICOM-SEG by highdicom of labels (I, J, K), or bool (I, J, K, S), of the slices in the order of `series`."""
    import highdicom
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    sources = [pydicom.dcmread(file) for file in series]
    described = [
        SegmentDescription(
            segment_number=number, segment_label=name, segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver, algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, 1)
    ]  # fmt: skip
    if labels.ndim == 3:
        labels = np.stack([labels == number for number in range(1, len(names) + 1)], axis=-1)
    pixels = np.ascontiguousarray(labels.transpose(2, 1, 0, 3))
    made = highdicom.seg.Segmentation(
        source_images=sources, pixel_array=pixels.astype(np.uint8 if kind == "BINARY" else np.float32),
        segmentation_type=SegmentationTypeValues[kind], segment_descriptions=described,
        series_instance_uid=generate_uid(), series_number=9, sop_instance_uid=generate_uid(), instance_number=1,
        manufacturer="none", manufacturer_model_name="none", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)
    return path


def write_patient(
    folder: Path, seed: int, *, names: Sequence[str] = ("liver", "tumour"), **more: Any
) -> list[Path]:
    """A folder of a series and a DICOM-SEG on it, as an archive exports a patient."""
    image, labels = phantom(seed)
    paths = write_series(folder / "CT 1", image, oblique(), patient=folder.name, **more)
    write_segmentation(folder / "SEG" / "seg.dcm", paths, labels, names)
    return paths
