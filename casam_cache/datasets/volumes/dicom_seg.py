"""DICOM-SEG by pydicom, onto the slices of the series that it was drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.volumes.dicom_files import may_be_dicom, read_header, text
from casam_cache.datasets.volumes.dicom_frames import functional_groups
from casam_cache.datasets.volumes.dicom_pixels import read_frames
from casam_cache.datasets.volumes.nifti import damaged
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

_TOLERANCE = 0.05  # voxels


@dataclass(frozen=True)
class Segments:
    """What a DICOM-SEG says of itself.

    Attributes:
        names: label of each segment by its number.
        series: instance UID of the series it was drawn on; empty where it does not say.
        fractional: its pixels are shares, not yes or no.
    """

    names: dict[int, str]
    series: str
    fractional: bool


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM-SEG; never raises."""
    if not may_be_dicom(path):
        return False
    try:
        return _modality(path, path.stat().st_mtime_ns) == "SEG"
    except Exception:
        return False


@lru_cache(maxsize=256)
def _modality(path: Path, changed: int) -> str:
    return text(read_header(path), "Modality")


def segments_of(header: Any, path: Path) -> Segments:
    """The segments that a header lists.

    Raises:
        ImageError: it lists none, or breaks off among them.
    """
    try:
        listed = header.get("SegmentSequence") or []
        names = {int(one.SegmentNumber): text(one, "SegmentLabel") for one in listed}
        referred = header.get("ReferencedSeriesSequence") or []
        series = text(referred[0], "SeriesInstanceUID") if referred else ""
    except Exception as error:
        raise damaged(path, "DICOM", error) from error
    if not names:
        raise ImageError(f"{path}: a DICOM-SEG without segments", "export it again")
    return Segments(names, series, text(header, "SegmentationType") == "FRACTIONAL")


def read_segmentation(path: Path, image: Volume) -> Volume:
    """The segments as labels on the grid of the series; several that overlap are refused by name.

    A frame finds its slice by the instance that it refers to, else by position.

    Args:
        path: the DICOM-SEG.
        image: the series.

    Returns:
        A volume of the image's shape: 0, or the number of the segment.

    Raises:
        ImageError: it cannot be read, or belongs to another series.
    """
    header = read_header(path)
    segments = segments_of(header, path)
    if (int(header.Rows), int(header.Columns)) != (image.shape[1], image.shape[0]):
        raise ImageError(
            f"{path}: segments of {header.Columns} x {header.Rows} pixels, the series has "
            f"{image.shape[0]} x {image.shape[1]}",
            "export it on the grid of the series",
        )
    count = int(header.get("NumberOfFrames") or 1)
    groups = [functional_groups(header, number) for number in range(count)]
    planes, lost = _planes(path, image, groups)
    notes: list[str] = []
    if len(lost) == count:
        raise ImageError(
            f"{path}: no frame lies on a slice of {image.path.name}: it was drawn on another series",
            "put it beside the series that it belongs to",
        )
    if lost:
        notes.append(f"{len(lost)} of {count} frames lie on slices that the series does not have; left out")
    if segments.fractional:
        notes.append("its segments are fractional: half and more counts as inside")
    kind = text(header, "SegmentationType")
    cut = (int(header.get("MaximumFractionalValue") or 1) + 1) // 2 if segments.fractional else 1
    numbers = [_segment(places) for places in groups]
    status = path.stat()

    def load() -> np.ndarray:
        frames = read_frames([(path, number) for number in range(count)])
        top = int(frames.max()) if kind == "LABELMAP" else max(segments.names)
        labels = np.zeros(image.shape, np.uint8 if top < 256 else np.uint16)
        for number, k in enumerate(planes):
            if k is None:
                continue
            frame = frames[:, :, number]
            if kind == "LABELMAP":
                labels[:, :, k] = frame
                continue
            inside, segment = frame >= cut, numbers[number]
            there = labels[:, :, k]
            other = there[inside & (there != 0) & (there != segment)]
            if other.size:
                raise _overlap(path, segments, int(other[0]), segment, k, int(other.size))
            there[inside] = segment
        return labels

    return Volume(
        path, "dicom", image.shape, image.affine, (path, status.st_size, status.st_mtime_ns, image.key), load,
        image.oriented, image.units, planes=image.planes, notes=tuple(notes),
    )  # fmt: skip


def _overlap(path: Path, segments: Segments, first: int, second: int, k: int, count: int) -> ImageError:
    named = " and ".join(f"{number} '{segments.names.get(number, '')}'" for number in (first, second))
    return ImageError(
        f"{path}: the segments {named} overlap, in {count} pixels of slice {k}, and a pixel has one label",
        "export each of them as a file of its own, or without overlap",
    )


def _segment(places: Sequence[Any]) -> int:
    for place in places:
        inner = place.get("SegmentIdentificationSequence")
        if inner:
            return int(inner[0].ReferencedSegmentNumber)
    return 1


def _planes(path: Path, image: Volume, groups: Sequence[Sequence[Any]]) -> tuple[list[int | None], list[int]]:
    """Slice k of each frame, and the frames that have none."""
    by_instance: dict[tuple[str, int | None], int] = {}
    for number, plane in enumerate(image.planes):
        by_instance[plane.uid, plane.frame] = number
        by_instance.setdefault((plane.uid, None), number)
    multi_frame = len({plane.uid for plane in image.planes}) < len(image.planes)
    to_voxel = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)
    found: list[int | None] = []
    for places in groups:
        k: int | None = _by_reference(places, by_instance, multi_frame)
        position = _first(places, "PlanePositionSequence", "ImagePositionPatient")
        if position is not None and image.oriented:
            voxel = (to_voxel @ [*map(float, position), 1.0])[:3]
            _refuse_turned(path, image, places)
            if np.abs(voxel[:2]).max() > _TOLERANCE:
                raise ImageError(
                    f"{path}: its frames lie {np.abs(voxel[:2]).max():.2f} pixels off the slices of {image.path.name}",
                    "export it on the grid of the series",
                )
            place = _nearest(image, np.array([float(value) for value in position]))
            if k is not None and place is not None and place != k:
                raise ImageError(
                    f"{path}: a frame refers to slice {k} of {image.path.name} and lies on slice {place}",
                    "export it again: its references and its positions disagree",
                )
            k = place if k is None else k
        found.append(k)
    return found, [number for number, k in enumerate(found) if k is None]


def _nearest(image: Volume, position: np.ndarray) -> int | None:
    """By the slices' own positions, since some may be missing."""
    distances = [
        float(np.linalg.norm(np.subtract(plane.position, position))) if plane.position else np.inf
        for plane in image.planes
    ]
    k = int(np.argmin(distances))
    return k if distances[k] <= max(_TOLERANCE * min(image.spacing), 1e-2) else None


def _refuse_turned(path: Path, image: Volume, places: Sequence[Any]) -> None:
    turned = _first(places, "PlaneOrientationSequence", "ImageOrientationPatient")
    if turned is None:
        return
    own = np.diag([-1.0, -1.0, 1.0]) @ image.affine[:3, :2] / np.array(image.spacing[:2])
    if np.abs(np.array([float(value) for value in turned]) - own.T.ravel()).max() > 1e-3:
        raise ImageError(
            f"{path}: its frames have another direction than the slices of {image.path.name}",
            "export it on the grid of the series",
        )


def _by_reference(
    places: Sequence[Any], by_instance: dict[tuple[str, int | None], int], multi_frame: bool
) -> int | None:
    for place in places:
        for derived in place.get("DerivationImageSequence") or []:
            for source in derived.get("SourceImageSequence") or []:
                uid, number = text(source, "ReferencedSOPInstanceUID"), source.get("ReferencedFrameNumber")
                if number is not None and multi_frame:
                    number = int(number[0] if hasattr(number, "__len__") else number) - 1
                    return by_instance.get((uid, number))
                if not multi_frame:
                    return by_instance.get((uid, None))
    return None


def _first(places: Sequence[Any], sequence: str, name: str) -> Any:
    for place in places:
        inner = place.get(sequence)
        if inner and inner[0].get(name) is not None:
            return inner[0].get(name)
    return None
