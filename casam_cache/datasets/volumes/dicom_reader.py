"""The reader of folders of DICOM: series with the DICOM-SEG drawn on them, in whatever folders they lie."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import entries
from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import Found
from casam_cache.datasets.volumes.channels import asked_channel
from casam_cache.datasets.volumes.dicom_files import SUFFIXES, Series, is_dicom, may_be_dicom, series_in
from casam_cache.datasets.volumes.dicom_seg import Segments, segments_of
from casam_cache.datasets.volumes.read import volume_suffix
from casam_cache.datasets.volumes.reader import VolumeReader
from casam_cache.errors import CasamError, DatasetError

_LOOKED_AT = 32
_DEPTH = 5
_OTHERS = {"images", "masks", "labels", "imagesTr", "labelsTr"}


class DicomReader(VolumeReader):
    """A series with a DICOM-SEG is a labelled volume; the group is the patient of the headers."""

    name = "dicom"

    def recognises(self, path: Path) -> bool:
        try:
            # What is written to a disc for patients brings a viewer with pictures of its own.
            whole_disc = is_dicom(path / "DICOMDIR")
            return path.is_dir() and bool(_holds_dicom(path, _DEPTH, whole_disc))
        except OSError:
            return False

    def find(self, path: Path, options: DatasetOptions) -> Found:
        everything = series_in(path)
        images = everywhere = [one for one in everything if one.is_image]
        if options.series is not None:
            images = _asked(path, images, options.series)
        problems: list[Problem] = [
            Problem(".", note, "", "warning") for one in everything for note in one.notes if not one.is_image
        ]
        drawn = _segmentations(path, everything, problems)
        classes, notes = _one_numbering(drawn)
        cases: list[Case] = []
        names = _names(path, images)
        for one in images:
            own = [(file, segments) for file, segments in drawn if segments.series == one.uid]
            if twice := _named_twice(own):
                listed = ", ".join(file for file, _ in own)
                problems.append(
                    Problem(
                        own[0][0],
                        f"{len(own)} segmentations of one series with a segment '{twice}' each: {listed}",
                        "keep the one that is meant",
                        sample=names[one.uid],
                    )
                )
                continue
            labels = own[0][0] if own else None
            cases.append(
                Case(
                    names[one.uid], _folder_of(path, one), labels, one.patient or names[one.uid], None,
                    asked_channel(options), one.uid if _is_among_others(path, one, everywhere) else None,
                    classes.get(labels or "", ()), tuple((file, classes.get(file, ())) for file, _ in own[1:]),
                )
            )  # fmt: skip
        problems += _strangers(path, drawn, everything)
        left_out = [one for one in images if not any(s.series == one.uid for _, s in drawn)]
        if drawn and not options.unlabelled:
            cases = [case for case in cases if case.labels is not None]
            notes += [
                f"no segmentation of the series {one.describe()}: left out (--unlabelled keeps it)"
                for one in left_out
            ]
        if several := [case.name for case in cases if case.further]:
            notes.append(
                f"{len(several)} series have several segmentations, e.g. {several[0]}: their segments are classes"
            )
        example = next((case for case in cases if case.labels), None)
        if example:
            notes.insert(0, f"DICOM series with DICOM-SEG: {example.image} with {example.labels}")
        wanted = "add the DICOM-SEG that was drawn on it anywhere in this folder"
        return Found(tuple(cases), tuple(problems), tuple(notes), labels_wanted=wanted)


def _holds_dicom(folder: Path, depth: int, whole_disc: bool = False) -> bool | None:
    """Whether DICOM lies there or below; None where something lies there that another reader would take.

    Args:
        folder: where.
        depth: of folders below that are looked into.
        whole_disc: all of it is one disc of DICOM, whatever else lies there.
    """
    inside = entries(folder)
    files = [Path(entry.path) for entry in inside if not entry.is_dir()][:_LOOKED_AT]
    below = [entry for entry in inside if entry.is_dir()][:_LOOKED_AT]
    foreign = any(entry.name in _OTHERS for entry in below) or any(map(_is_foreign, files))
    if foreign and not whole_disc:
        return None
    found = any(map(may_be_dicom, files))
    for entry in below if depth else ():
        deeper = _holds_dicom(Path(entry.path), depth - 1, whole_disc)
        if deeper is None:
            return None
        found = found or deeper
    return found


def _is_foreign(file: Path) -> bool:
    suffix = file.suffix.lower()
    return suffix in image_suffixes() or (suffix not in SUFFIXES and volume_suffix(file.name) is not None)


def _asked(path: Path, images: Sequence[Series], wanted: str) -> list[Series]:
    chosen = [one for one in images if wanted in (one.uid, one.number, one.description)]
    if not chosen:
        shown = "; ".join(sorted({one.describe() for one in images})[:8]) or "none"
        raise DatasetError(
            f"{path}: no series '{wanted}'; there are: {shown}", "give the UID, number or description of one"
        )
    return chosen


def _folder_of(root: Path, one: Series) -> str:
    """The folder below the dataset that holds all files of a series, or its one file."""
    files = [str(file) for file, _ in one.headers]
    if len(files) == 1:
        return Path(os.path.relpath(files[0], root)).as_posix()
    common = os.path.commonpath([os.path.dirname(file) for file in files])
    return Path(os.path.relpath(common, root)).as_posix()


def _is_among_others(root: Path, one: Series, everything: Sequence[Series]) -> bool:
    """Whether its folder, or one below it, holds files of another series, so that it is found by its UID alone."""
    folder = _folder_of(root, one)
    place = root / folder
    return any(
        place in file.parents or file == place
        for other in everything
        if other.uid != one.uid
        for file, _ in other.headers
    )


def _names(root: Path, images: Sequence[Series]) -> dict[str, str]:
    """A name for each series: its folder, with the number or UID behind it where a folder holds several."""
    folders = {one.uid: _folder_of(root, one) for one in images}
    names = {
        uid: one.removesuffix(Path(one).suffix) if Path(one).suffix.lower() == ".dcm" else one
        for uid, one in folders.items()
    }
    names = {uid: root.name if name == "." else name for uid, name in names.items()}
    for label in ("number", "uid"):
        count = Counter(names.values())
        for one in images:
            if count[names[one.uid]] > 1 and getattr(one, label):
                names[one.uid] = f"{names[one.uid]}/{getattr(one, label)}"
    return names


def _segmentations(
    root: Path, everything: Sequence[Series], problems: list[Problem]
) -> list[tuple[str, Segments]]:
    """Every DICOM-SEG with what it says of itself."""
    found = []
    for one in everything:
        if one.modality == "RTSTRUCT":
            problems += [
                Problem(
                    _relative(root, file),
                    "contours (RTSTRUCT) are not read",
                    "convert them to DICOM-SEG",
                    "warning",
                )
                for file, _ in one.headers
            ]
        if one.modality != "SEG":
            continue
        for file, header in one.headers:
            try:
                found.append((_relative(root, file), segments_of(header, file)))
            except CasamError as error:
                message = error.message.removeprefix(f"{file}: ")
                problems.append(Problem(_relative(root, file), message, error.hint))
    return sorted(found, key=lambda pair: pair[0])


def _relative(root: Path, file: Path) -> str:
    return Path(os.path.relpath(file, root)).as_posix()


def _strangers(
    root: Path, drawn: Sequence[tuple[str, Segments]], everything: Sequence[Series]
) -> list[Problem]:
    """Segmentations of series that are not here, or that do not say which one they belong to."""
    here = {one.uid for one in everything}
    found = []
    for file, segments in drawn:
        if not segments.series:
            found.append(
                Problem(file, "it does not say on which series it was drawn", "export it again", "warning")
            )
        elif segments.series not in here:
            found.append(
                Problem(
                    file, f"drawn on the series {segments.series}, which is not here", "add it", "warning"
                )
            )
    return found


def _named_twice(own: Sequence[tuple[str, Segments]]) -> str | None:
    """A segment that several segmentations of one series have, as those of several readers do."""
    count = Counter(name for _, segments in own for name in set(segments.names.values()))
    return min((name for name, files in count.items() if files > 1), default=None)


def _one_numbering(
    drawn: Sequence[tuple[str, Segments]],
) -> tuple[dict[str, tuple[tuple[int, int], ...]], list[str]]:
    """Classes that mean the same in every file: numbers as they are, or by name where files disagree."""
    meanings: dict[int, set[str]] = {}
    for _, segments in drawn:
        for number, name in segments.names.items():
            meanings.setdefault(number, set()).add(name)
    if not meanings:
        return {}, []
    numbers: dict[str, set[tuple[int, ...]]] = {}  # of each name, those that it has in a file
    for _, segments in drawn:
        for name in set(segments.names.values()):
            own = tuple(sorted(number for number, other in segments.names.items() if other == name))
            numbers.setdefault(name, set()).add(own)
    if all(len(one) == 1 for one in meanings.values()) and all(len(one) == 1 for one in numbers.values()):
        listed = ", ".join(f"{number} {next(iter(names))}" for number, names in sorted(meanings.items()))
        return {}, [f"segments: {listed}"]
    classes = {name: rank for rank, name in enumerate(sorted(set().union(*meanings.values())), 1)}
    listed = ", ".join(f"{rank} {name}" for name, rank in classes.items())
    return (
        {
            file: tuple((number, classes[name]) for number, name in sorted(s.names.items()))
            for file, s in drawn
        },
        [f"segments are numbered differently in these files, so classes go by their names: {listed}"],
    )
