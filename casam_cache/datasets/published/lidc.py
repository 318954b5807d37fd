"""LIDC-IDRI: CT series as DICOM, each with an XML file of the contours that up to four radiologists drew."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from casam_cache.datasets.listing import walk
from casam_cache.datasets.published.paired import folders_in
from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import Found
from casam_cache.datasets.volumes.reader import VolumeReader
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_CT = b"LidcReadMessage"
_MOST_BYTES = 50_000_000


class Lidc(VolumeReader):
    """Reads `LIDC-IDRI-NNNN/STUDY/SERIES/` with the XML file in it; the group is the patient."""

    name = "lidc"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        try:
            return any(_PATIENT.fullmatch(name) for name in folders_in(path))
        except OSError:
            return False

    def find(self, path: Path, options: DatasetOptions) -> Found:
        cases: list[Case] = []
        problems: list[Problem] = []
        seen: Counter[str] = Counter()
        for patient in folders_in(path):
            if not _PATIENT.fullmatch(patient):
                continue
            there = [name for name, _ in walk(path / patient, f"{patient}/") if name.lower().endswith(".xml")]
            drawn = [name for name in there if _is_of_ct(path / name)]
            for file in drawn:
                seen[patient] += 1
                name = patient if seen[patient] == 1 else f"{patient}-{seen[patient]}"
                cases.append(Case(name, str(PurePosixPath(file).parent), file, patient))
            if not drawn:
                problems.append(
                    Problem(patient, "no XML file of a CT series", "download it again", "warning")
                )
        notes = [f"LIDC-IDRI: {cases[0].image} with {cases[0].labels}"] if cases else []
        notes.append(
            "a nodule is what at least half of the radiologists drew; nodules below 3 mm have no outline"
        )
        return Found(tuple(cases), tuple(problems), tuple(notes))


@dataclass(frozen=True)
class Contour:
    """What one radiologist drew on one picture.

    Attributes:
        reader: number of the radiologist.
        uid: SOP instance UID of the picture.
        points: (x, y) of the pixels around it, which are outside.
        inside: False where it cuts a hole.
    """

    reader: int
    uid: str
    points: tuple[tuple[int, int], ...]
    inside: bool


def read_contours(path: Path, image: Volume) -> Volume:
    """What at least half of the radiologists marked, as labels 0 and 1 on the grid of the series.

    Args:
        path: the XML file.
        image: the series.

    Raises:
        ImageError: the file is damaged, or of another series.
    """
    readers, contours = _parse(path)
    of_uid = {plane.uid: index for index, plane in enumerate(image.planes)}
    known = [contour for contour in contours if contour.uid in of_uid]
    notes = []
    if contours and not known:
        raise ImageError(
            f"{path}: its contours are of another series", "keep it with the series it came with"
        )
    if len(known) < len(contours):
        notes.append(f"{len(contours) - len(known)} contours are on pictures that are not there")
    status = path.stat()

    def load() -> np.ndarray:
        labels = np.zeros(image.shape, np.uint8)
        by_slice: dict[int, list[Contour]] = {}
        for contour in known:
            by_slice.setdefault(of_uid[contour.uid], []).append(contour)
        for index, drawn in by_slice.items():
            labels[:, :, index] = _agreed(drawn, readers, (image.shape[1], image.shape[0])).T
        return labels

    return Volume(
        path, "lidc", image.shape, image.affine, (path.resolve(), status.st_size, status.st_mtime_ns, image.key),
        load, image.oriented, image.units, notes=tuple(notes),
    )  # fmt: skip


def _agreed(drawn: list[Contour], readers: int, size: tuple[int, int]) -> np.ndarray:
    """Bool (rows, columns): the pixels of at least half of the radiologists."""
    votes = np.zeros(size, np.uint8)
    for reader in {contour.reader for contour in drawn}:
        own = np.zeros(size, bool)
        for contour in sorted((one for one in drawn if one.reader == reader), key=lambda one: not one.inside):
            filled = _within(contour.points, size)
            own = own | filled if contour.inside else own & ~filled
        votes += own
    return votes * 2 >= max(readers, 1)


def _within(points: tuple[tuple[int, int], ...], size: tuple[int, int]) -> np.ndarray:
    """The pixels that a contour surrounds, without its own."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(canvas).polygon(list(points), fill=1, outline=0)
    return np.array(canvas, np.bool_)


def _parse(path: Path) -> tuple[int, list[Contour]]:
    """The number of radiologists, and their contours of nodules of 3 mm and more.

    Raises:
        ImageError: it is damaged.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ImageError(f"{path}: {path.stat().st_size:,} bytes are too many for contours", "look at it")
        root = ElementTree.fromstring(path.read_bytes())
        sessions = [one for one in root.iter() if _name(one) == "readingSession"]
        return len(sessions), [
            contour for number, session in enumerate(sessions) for contour in _drawn(session, number)
        ]
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}", "restore it") from None
    except Exception as error:  # XML that is damaged, or lacks a coordinate
        raise ImageError(f"{path}: no contours of LIDC, or damaged: {error}", "download it again") from error


def _drawn(session: ElementTree.Element, number: int) -> Iterator[Contour]:
    for nodule in (one for one in session if _name(one) == "unblindedReadNodule"):
        for roi in (one for one in nodule if _name(one) == "roi"):
            found = {_name(part): (part.text or "").strip() for part in roi}
            points = tuple(
                (int(_child(edge, "xCoord")), int(_child(edge, "yCoord")))
                for edge in roi
                if _name(edge) == "edgeMap"
            )
            if len(points) > 2:  # one point is the middle of a nodule below 3 mm
                yield Contour(
                    number, found["imageSOP_UID"], points, found.get("inclusion", "TRUE") != "FALSE"
                )


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _child(element: ElementTree.Element, name: str) -> str:
    return next((part.text or "" for part in element if _name(part) == name), "")


def _is_of_ct(path: Path) -> bool:
    """Chest radiographs of the collection have XML files of another kind."""
    with path.open("rb") as file:
        return _CT in file.read(4000)
