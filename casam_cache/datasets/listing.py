"""What files a dataset folder holds: which names count, and a quick look at all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from casam_cache.datasets.sample import SPLITS

_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}
SPLIT_CSV = "split.csv"


def is_ignored(name: str) -> bool:
    """Whether a file or folder name is a system's litter: hidden, Thumbs.db, desktop.ini, __MACOSX."""
    return name.startswith(".") or name.lower() in _IGNORED


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that count, sorted by name; links are followed where asked about."""
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if not is_ignored(entry.name)), key=lambda entry: entry.name)


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below `folder` with its relative posix path; sorted in each folder, loops of links cut."""
    yield from _walk(folder, prefix, ())


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in entries(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, real))
        else:
            yield f"{prefix}{entry.name}", entry


def split_folders(root: Path) -> list[str]:
    return [split for split in SPLITS if (root / split / "images").is_dir()]


def is_dataset(root: Path) -> bool:
    return (root / "images").is_dir() or bool(split_folders(root))


def listing(root: Path | str) -> list[tuple[str, int, int]]:
    """Relative path, size in bytes and modification time in ns of all that images and masks consist of, sorted.

    Two equal listings mean that nothing changed. Nothing is opened: 10,000 files take a fraction of a second.
    A link to a missing file is listed with size -1.
    """
    root = Path(root)
    found: list[tuple[str, int, int]] = []
    for part in ("images", "masks", *(f"{split}/{kind}" for split in SPLITS for kind in ("images", "masks"))):
        if (root / part).is_dir():
            found.extend(_facts(name, entry) for name, entry in walk(root / part, f"{part}/"))
    table = root / SPLIT_CSV
    if table.is_file():
        facts = table.stat()
        found.append((SPLIT_CSV, facts.st_size, facts.st_mtime_ns))
    return sorted(found)


def facts_below(root: Path) -> list[tuple[str, int, int]]:
    """Relative path, size in bytes and modification time in ns of every file below a folder that counts, sorted."""
    return sorted(_facts(name, entry) for name, entry in walk(root))


def _facts(name: str, entry: os.DirEntry[str]) -> tuple[str, int, int]:
    try:
        facts = entry.stat()
    except OSError:
        return name, -1, 0
    return name, facts.st_size, facts.st_mtime_ns
