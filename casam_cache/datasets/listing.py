"""What files a dataset folder holds: which names count, and a quick look at all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}
SPLIT_CSV = "split.csv"


def is_ignored(name: str) -> bool:
    """Whether a file or folder name is a system's litter: hidden, Thumbs.db, desktop.ini, __MACOSX."""
    return name.startswith(".") or name.lower() in _IGNORED


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that count, sorted by name; links are followed where asked about."""
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if not is_ignored(entry.name)), key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below `folder` with its relative posix path; sorted in each folder, loops of links cut."""
    yield from _walk(folder, prefix, ())


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in entries(folder):
        if is_folder(entry):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, real))
        else:
            yield f"{prefix}{entry.name}", entry


def facts_below(root: Path) -> list[tuple[str, int, int]]:
    """Relative path, size in bytes and modification time in ns of every file below a folder that counts, sorted."""
    return sorted(facts(name, entry) for name, entry in walk(root))


def facts(name: str, file: Path | os.DirEntry[str]) -> tuple[str, int, int]:
    """Relative path, size in bytes and modification time in ns; size -1 for what is not there."""
    try:
        status = file.stat()
    except OSError:
        return name, -1, 0
    return name, status.st_size, status.st_mtime_ns
