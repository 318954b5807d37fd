"""A folder a patient, each with images and masks told apart by their names: `P1/x.png` and `P1/x_mask.png`."""

from __future__ import annotations

from pathlib import Path

from casam_cache.datasets.folder import FilesReader
from casam_cache.datasets.listing import entries
from casam_cache.datasets.parts import Found, Part, describe, refuse_nothing
from casam_cache.datasets.places import EXPECTED, Place, find_places
from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.errors import DatasetError


class FolderAGroup(FilesReader):
    """Reads such folders as groups of one dataset; by its name alone, since each may be a dataset of its own."""

    name = "folder-a-group"
    precedence = -1

    def recognises(self, path: Path) -> bool:
        try:
            return len(_groups(path)) > 1
        except OSError:
            return False

    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        names = _groups(path)
        if not names:
            raise DatasetError(f"{path}: no folder in it holds images and masks together", EXPECTED)
        parts = [Part(path, Place(f"{name}/", f"{name}/", f"{name}/", deep=False)) for name in names]
        found: list[Found] = []
        problems: list[Problem] = []
        for name, part in zip(names, parts, strict=True):
            own = part.read(options.unlabelled)
            for one in own:
                one.group = name
            found += own
            problems += part.problems
        refuse_nothing(path, parts, found, problems)
        note = f"{len(names)} folders, each a group: {describe(parts[:1], found[:1])}"
        for one in found:
            one.name = one.id
        return found, problems, note


def _groups(root: Path) -> list[str]:
    """The folders that hold images and masks together."""
    return [entry.name for entry in entries(root) if entry.is_dir() and _shares(Path(entry.path))]


def _shares(folder: Path) -> bool:
    try:
        return any(place.shared and not place.images for place in find_places(folder))
    except DatasetError:
        return False
