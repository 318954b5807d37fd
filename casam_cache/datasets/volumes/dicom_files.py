"""Which files of a folder are DICOM, and which series they make."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casam_cache.datasets.extras import extra
from casam_cache.datasets.listing import walk
from casam_cache.datasets.regular_files import check_regular
from casam_cache.datasets.volumes.nifti import damaged
from casam_cache.errors import CasamError

_NO_IMAGES = {"SEG", "SR", "RTSTRUCT", "RTPLAN", "RTDOSE", "PR", "KO", "REG"}
SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass
class Series:
    """The files of one series, by their headers.

    Attributes:
        uid, number, description, modality, patient: as the first file says; empty where it does not.
        headers: path and pydicom's dataset without pixels, sorted by path.
        notes: what was found wrong with single files.
    """

    uid: str
    number: str
    description: str
    modality: str
    patient: str
    headers: list[tuple[Path, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_image(self) -> bool:
        return self.modality not in _NO_IMAGES and any("Rows" in header for _, header in self.headers)

    def describe(self) -> str:
        named = f"'{self.description}' " if self.description else ""
        return f"{named}{self.modality} of {len(self.headers)} files ({self.uid})"


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does; never raises."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def may_be_dicom(path: Path) -> bool:
    """By its suffix, or where it has none by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    # A name such as IM-0001 has no suffix, and 1.2.840.113619 one of digits.
    return (not suffix or suffix[1:].isdigit()) and path.name.upper() != "DICOMDIR" and is_dicom(path)


def dicom_files(path: Path) -> Iterator[Path]:
    """The DICOM files of a folder and of those below it, or the one file; DICOMDIR is none of them."""
    if not path.is_dir():
        yield path
        return
    for _, entry in walk(path):
        file = Path(entry.path)
        if may_be_dicom(file):
            yield file


def read_header(path: Path) -> Any:
    """The header of a file, as pydicom's dataset without pixels.

    Raises:
        ImageError: it cannot be read, or pydicom is not installed.
    """
    pydicom = extra("pydicom", path, "DICOM")
    check_regular(path)
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=not is_dicom(path))
        if "SOPClassUID" not in header and "Rows" not in header:
            raise ValueError("it holds none of DICOM's elements")
        return header
    except Exception as error:
        raise damaged(path, "DICOM", error) from error


def series_in(path: Path) -> list[Series]:
    """Every series of a folder or a file, those with most files first.

    A file that cannot be read is a note of the largest series, since a volume without one of its slices is said to be.

    Raises:
        ImageError: no file can be read.
    """
    found: dict[str, Series] = {}
    failed: list[tuple[Path, Exception]] = []
    for file in dicom_files(path):
        try:
            header = read_header(file)
            one = _series_of(header)
        except Exception as error:
            failed.append((file, error))
            continue
        found.setdefault(one.uid, one).headers.append((file, header))
    if failed and not found:
        file, reason = failed[0]
        raise reason if isinstance(reason, CasamError) else damaged(file, "DICOM", reason)
    series = sorted(found.values(), key=lambda one: (-len(one.headers), one.uid))
    for file, _ in failed:
        series[0].notes.append(f"{os.path.relpath(file, path)} cannot be read as DICOM and is left out")
    return series


def _series_of(header: Any) -> Series:
    """The series of a file, without any. pydicom decodes an element when it is asked for, and fails only then."""
    return Series(
        str(header.get("SeriesInstanceUID", "")), text(header, "SeriesNumber"), text(header, "SeriesDescription"),
        text(header, "Modality"), text(header, "PatientID") or text(header, "PatientName"),
    )  # fmt: skip


def text(header: Any, name: str) -> str:
    """An element as text, empty where there is none."""
    value = header.get(name)
    return "" if value is None else str(value).strip()
