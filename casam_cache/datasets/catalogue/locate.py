"""Where a dataset of the catalogue lies: in the folder itself, in that of its part, or where an archive put it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from casam_cache.datasets.catalogue.entry import Entry
from casam_cache.datasets.listing import entries
from casam_cache.errors import DatasetError

_DEPTH = 3
_LOOKED_AT = 500  # folders


def locate(
    path: Path, entry: Entry, recognised: Callable[[Path], bool], others: Sequence[Entry] = ()
) -> Path:
    """The folder that is meant where `--dataset` names a set.

    Args:
        path: what the user gave.
        entry: the set.
        recognised: whether a folder is one that can be read as that set.
        others: all of the catalogue; a folder that has the name of another is refused.

    Raises:
        DatasetError: there is none, or several.
    """
    whole = recognised(path)
    if whole and (not entry.folders or _plain(path) in entry.folders):
        return path
    below = list(_below(path))
    if entry.folders:
        named = _nearest(below, lambda folder: _plain(folder) in entry.folders and recognised(folder))
        if len(named) == 1:
            return named[0]
        if not whole and named:
            raise _several(path, entry, named)
    if whole:
        other = next((one for one in others if one != entry and _plain(path) in one.folders), None)
        if other is not None:
            raise DatasetError(
                f"{path}: the folder of {other.name}, not of {entry.name}",
                f"--dataset {other.name}, or give the folder of {entry.name}",
            )
        return path
    found = [] if entry.folders else _nearest(below, recognised)
    if len(found) == 1:
        return found[0]
    if found:
        raise _several(path, entry, found)
    raise DatasetError(
        f"{path}: not laid out as {entry.name} is distributed, nor in another layout that is known",
        f"casam data show {entry.name} shows what is expected",
    )


def _below(path: Path) -> Iterator[list[Path]]:
    """Folders below, level by level, links not followed; at most `_LOOKED_AT` of each."""
    level = [path]
    for _ in range(_DEPTH):
        level = [
            Path(entry.path)
            for folder in level
            if os.access(folder, os.R_OK | os.X_OK)
            for entry in entries(folder)
            if entry.is_dir(follow_symlinks=False)
        ][:_LOOKED_AT]
        yield level


def _nearest(levels: list[list[Path]], fits: Callable[[Path], bool]) -> list[Path]:
    """Those of the first level that has any."""
    found = ([folder for folder in level if fits(folder)] for level in levels)
    return next((folders for folders in found if folders), [])


def _plain(folder: Path) -> str:
    return os.path.basename(os.path.abspath(folder)).casefold()


def _several(path: Path, entry: Entry, found: list[Path]) -> DatasetError:
    shown = " and ".join(str(folder) for folder in found[:3])
    return DatasetError(f"{path}: {entry.name} may be in {shown}", f"give the one that is meant, {found[0]}")
