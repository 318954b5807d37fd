"""Label maps of DICOM series as DICOM-SEG by highdicom: a segment an object, referring to the source's instances."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from casam_cache.datasets.extras import extra
from casam_cache.datasets.volumes import Volume
from casam_cache.errors import ImageError
from casam_cache.fingerprint import digest_arrays

SERIES_NUMBER = 9000  # far from those of a scanner
MANUFACTURER, MODEL = "casam-cache", "casam-cache"
ANATOMY = (
    "123037004",
    "SCT",
    "Anatomical Structure",
)  # all that is known of an object that a prompt asked for


def dicom_seg_bytes(volume: Volume, labels: np.ndarray, names: Mapping[int, str]) -> bytes:
    """The bytes of a DICOM-SEG file (binary): patient, study and frame of reference are the source's.

    Objects become the segments 1, 2, ... in the order of their numbers, also those without a voxel that `names` lists;
    a segment's label is the object's name. Frames without a voxel are left out, as is usual. The same labels on the
    same source give the same UIDs.

    Args:
        volume: the source series.
        labels: (column, row, slice) as its voxels.
        names: of objects by number; others are called `object N`.

    Raises:
        ImageError: highdicom is not installed, there is nothing to write, or the source lacks what a DICOM-SEG needs.
    """
    pydicom = extra("pydicom", volume.path, "DICOM")
    hd = extra("highdicom", volume.path, "DICOM-SEG")
    there = sorted({int(number) for number in np.unique(labels)} - {0} | set(names))
    if not labels.any():
        raise ImageError(
            f"{volume.path}: no voxel was predicted, and a DICOM-SEG without any is not valid",
            "--out NAME.nii.gz writes an empty label map",
        )
    numbered = np.zeros(int(labels.max()) + 1, np.uint8 if len(there) < 256 else np.uint16)
    for segment, number in enumerate(there, start=1):
        if number < len(numbered):
            numbered[number] = segment
    sources, frames = _sources(pydicom, volume, numbered[labels])
    uids = [
        pydicom.uid.generate_uid(entropy_srcs=[volume.series, what, digest_arrays([("labels", labels)])])
        for what in ("series", "instance")
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about elements of the source, which it copies
            made = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[
                    _segment(hd, segment, names.get(number, f"object {number}"))
                    for segment, number in enumerate(there, start=1)
                ],
                series_instance_uid=uids[0],
                series_number=SERIES_NUMBER,
                sop_instance_uid=uids[1],
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=MODEL,
                software_versions=_version(),
                device_serial_number="0",
                series_description="Segmentation by casam-cache",
            )
            # highdicom takes a source of a class without frames for one frame, and drops the rest.
            if np.count_nonzero(made.pixel_array) != np.count_nonzero(labels):
                raise ValueError("not all frames of its kind of source can be referred to")
            data = io.BytesIO()
            made.save_as(data)
    except (AttributeError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(
            f"{volume.path}: no DICOM-SEG can be made for it: {reason}",
            "--out NAME.nii.gz writes NIfTI in the same space",
        ) from error
    return data.getvalue()


def _sources(pydicom: Any, volume: Volume, labels: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The source's headers, and labels (frame, row, column) in their order."""
    frames = np.ascontiguousarray(labels.transpose(2, 1, 0))
    paths = list(dict.fromkeys(plane.path for plane in volume.planes))
    headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in paths}
    counts = {path: int(header.get("NumberOfFrames") or 1) for path, header in headers.items()}
    if len(paths) == len(volume.planes) and set(counts.values()) == {1}:
        return [headers[path] for path in paths], frames
    if len(paths) > 1:
        raise ImageError(
            f"{volume.path}: a series of {len(paths)} files with several frames each has no DICOM-SEG of its own",
            "--out NAME.nii.gz writes NIfTI in the same space",
        )
    # Frames of the file that are not in the volume, as of other time points, stay empty and are left out.
    ordered = np.zeros((counts[paths[0]], *frames.shape[1:]), frames.dtype)
    for place, plane in enumerate(volume.planes):
        ordered[plane.frame] = frames[place]
    return [headers[paths[0]]], ordered


def _segment(hd: Any, number: int, label: str) -> Any:
    anatomy = hd.sr.CodedConcept(*ANATOMY)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:64],  # DICOM's LO
        segmented_property_category=anatomy,
        segmented_property_type=anatomy,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="casam-cache",
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
            version=_version(),
        ),
    )


def _version() -> str:
    from casam_cache import __version__

    return __version__
