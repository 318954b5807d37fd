"""Volumes in a folder by name: single files, and folders of a DICOM series."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import entries
from casam_cache.datasets.sample import Problem
from casam_cache.datasets.volumes.dicom_files import may_be_dicom
from casam_cache.datasets.volumes.read import is_volume, volume_stem, volume_suffix

_COMPANIONS = (".raw", ".zraw", ".img", ".img.gz", ".raw.gz")  # of .mhd, .nhdr and .hdr
_LOOKED_AT = 32  # files without a known suffix that are opened to know a folder


def volumes_in(root: Path, folder: str, problems: list[Problem]) -> dict[str, list[str]]:
    """Names relative to `root` of every volume in a folder and those below it, by normalised name without suffix.

    Files of DICOM in a folder below are one volume, that folder; those in the folder itself are one each.

    Args:
        root: the dataset folder.
        folder: below it, without a slash at the end.
        problems: gets a line for every file that is none.
    """
    found: dict[str, list[str]] = {}
    if (root / folder).is_dir():
        _gather(root, PurePosixPath(folder), PurePosixPath(), found, problems)
    return found


def _gather(
    root: Path, at: PurePosixPath, below: PurePosixPath, found: dict[str, list[str]], problems: list[Problem]
) -> None:
    inside = entries(root / at)
    files = [entry for entry in inside if not entry.is_dir()]
    series = below.parts and any(may_be_dicom(Path(entry.path)) for entry in files[:_LOOKED_AT])
    if series:
        _add(found, str(below), str(at), problems)
        files = [entry for entry in files if not may_be_dicom(Path(entry.path))]
    for entry in files:
        name = str(at / entry.name)
        if is_volume(Path(entry.path)):
            _add(found, str(below / volume_stem(entry.name)), name, problems)
        elif not entry.name.lower().endswith(_COMPANIONS):
            problems.append(
                Problem(_printable(name), "not a volume, ignored", "move it elsewhere", "warning")
            )
    for entry in inside:
        if entry.is_dir():
            _gather(root, at / entry.name, below / entry.name, found, problems)


def _add(found: dict[str, list[str]], stem: str, name: str, problems: list[Problem]) -> None:
    if not name.isprintable():
        problems.append(Problem(_printable(name), "a file name that is not printable text", "rename it"))
        return
    found.setdefault(unicodedata.normalize("NFC", stem), []).append(name)


def _printable(name: str) -> str:
    return name if name.isprintable() else name.encode("unicode_escape", "backslashreplace").decode()


def holds_volumes(folder: Path) -> bool:
    """Whether a folder, or one below it, holds volumes and no image files; quick, and never raises.

    NumPy files count as images: an array may be either, and those of two axes are many more.
    """
    try:
        return _holds(folder, depth=2)
    except OSError:
        return False


def _holds(folder: Path, depth: int) -> bool:
    unknown, found = 0, False
    below = []
    for entry in entries(folder):
        if entry.is_dir():
            below.append(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in image_suffixes():
            return False
        elif volume_suffix(entry.name) is not None:
            found = True
        elif unknown < _LOOKED_AT and not found:
            unknown += 1
            found = may_be_dicom(Path(entry.path))
    return found or (depth > 0 and any(_holds(path, depth - 1) for path in below[:_LOOKED_AT]))
