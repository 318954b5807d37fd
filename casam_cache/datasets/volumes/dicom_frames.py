"""What the headers of DICOM say of each picture: where it lies, how large its pixels are, what its numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.errors import ImageError


@dataclass(frozen=True)
class Frame:
    """One picture of a file.

    Attributes:
        uid: SOP instance UID of the file.
        path: the file.
        number: of the frame in it, from 0.
        rows, columns: size.
        photometric: DICOM's photometric interpretation.
        position: of the centre of its first pixel, mm (LPS).
        orientation: direction cosines of a row, then of a column.
        spacing: mm between rows, then between columns.
        thickness: mm of a slice, where it says so.
        slope, intercept: value = stored * slope + intercept.
        order: time point, echo, acquisition and instance numbers, for pictures at one position.
    """

    uid: str
    path: Path
    number: int
    rows: int
    columns: int
    photometric: str
    position: tuple[float, float, float] | None
    orientation: tuple[float, ...]
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float
    order: tuple[float, ...]

    @property
    def place(self) -> np.ndarray:
        """Its position, float64 (3,); zeros where it has none."""
        return np.array(self.position or (0.0, 0.0, 0.0))

    @property
    def along(self) -> float:
        """Its place along the normal of its plane, mm."""
        return float(np.dot(np.cross(self.orientation[:3], self.orientation[3:]), self.place))


def frames_of(path: Path, header: Any) -> list[Frame]:
    """Every picture that a file holds.

    Raises:
        ImageError: it has no size, or a number that is none.
    """
    if "Rows" not in header or "Columns" not in header:
        raise ImageError(f"{path}: a DICOM file without a picture", "remove it from the folder")
    try:
        count = int(header.get("NumberOfFrames") or 1)
        return [_frame(path, header, number) for number in range(count)]
    except Exception as error:  # an element is decoded here, and one that broke off fails in ways of its own
        raise ImageError(
            f"{path}: its header is damaged: {(str(error) or type(error).__name__).splitlines()[0]}",
            "export it again, or remove it from the dataset",
        ) from error


def _frame(path: Path, header: Any, number: int) -> Frame:
    places = [header, *functional_groups(header, number)]
    position = _floats(_find(places, "PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _floats(_find(places, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = _floats(_find(places, "PixelMeasuresSequence", "PixelSpacing"), 2)
    spacing = spacing or _floats(header.get("ImagerPixelSpacing"), 2)
    thickness = _floats([_find(places, "PixelMeasuresSequence", "SliceThickness")], 1)
    slope = _find(places, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _find(places, "PixelValueTransformationSequence", "RescaleIntercept")
    whole = position is not None and orientation is not None
    return Frame(
        str(header.get("SOPInstanceUID", "")), path, number, int(header.Rows), int(header.Columns),
        str(header.get("PhotometricInterpretation", "")),
        (position[0], position[1], position[2]) if whole and position else None,
        orientation if whole and orientation else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        (spacing[0], spacing[1]) if spacing else None,
        thickness[0] if thickness else None,
        1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept),
        _order(places, header, number),
    )  # fmt: skip


def functional_groups(header: Any, number: int) -> list[Any]:
    """The functional groups of an enhanced multi-frame file: of this frame, then those that all share."""
    found = []
    own = header.get("PerFrameFunctionalGroupsSequence")
    if own is not None and number < len(own):
        found.append(own[number])
    shared = header.get("SharedFunctionalGroupsSequence")
    if shared:
        found.append(shared[0])
    return found


def _find(places: list[Any], sequence: str, name: str) -> Any:
    """An element, of the file itself or of a functional group."""
    for place in places:
        if place.get(name) is not None:
            return place.get(name)
        inner = place.get(sequence)
        if inner and inner[0].get(name) is not None:
            return inner[0].get(name)
    return None


def _floats(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None or (isinstance(values, str) and not values) or len(values) != count:
        return None
    if any(value is None for value in values):
        return None
    found = tuple(float(value) for value in values)
    return found if np.isfinite(found).all() else None


def _order(places: list[Any], header: Any, number: int) -> tuple[float, ...]:
    content = next(
        (place["FrameContentSequence"][0] for place in places if place.get("FrameContentSequence")), None
    )
    time = content.get("TemporalPositionIndex") if content is not None else None
    values = (
        time if time is not None else header.get("TemporalPositionIdentifier"),
        header.get("EchoNumbers"), header.get("AcquisitionNumber"), header.get("InstanceNumber"), number,
    )  # fmt: skip
    return tuple(_number(value) for value in values)


def _number(value: Any) -> float:
    if value is None or value == "":
        return 0.0
    return float(value[0]) if hasattr(value, "__len__") and not isinstance(value, str) else float(value)
