"""The single door to datasets: which reader knows a folder, which tasks a path holds."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Protocol

from casam_cache.datasets.folder import EXPECTED, FolderReader
from casam_cache.datasets.labels import Progress
from casam_cache.datasets.listing import entries
from casam_cache.datasets.sample import Dataset, DatasetOptions
from casam_cache.errors import DatasetError

ENTRY_POINTS = "casam_cache.readers"


class Reader(Protocol):
    """What an entry point of the group `casam_cache.readers` names: a class constructed without arguments."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder is a dataset of this reader's kind; quick, and never raises."""
        ...

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: Progress | None = None
    ) -> Dataset:
        """The whole dataset; bad files become problems of it."""
        ...


@cache
def _installed_readers() -> tuple[Reader, ...]:
    """Readers of other packages, by name; found only when the built-in one does not know a folder."""
    from importlib.metadata import entry_points

    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    return tuple(reader() for reader in (point.load() for point in found) if reader is not FolderReader)


def _reader_of(path: Path) -> Reader | None:
    """The first reader that recognises a folder."""
    built_in = FolderReader()
    if built_in.recognises(path):
        return built_in
    return next((reader for reader in _installed_readers() if reader.recognises(path)), None)


def task_name(path: Path | str) -> str:
    """The name of the task in a dataset folder: the folder's own name (a link keeps its own).

    Raises:
        DatasetError: the name could not name a folder of a store.
    """
    name = os.path.basename(os.path.abspath(path))
    if (
        not name
        or len(name) > 100
        or name[0] in ".-"
        or name[-1] in " ."
        or re.search(r'[\x00-\x1f/\\:*?"<>|]', name)
    ):
        raise DatasetError(
            f"{path}: '{name}' cannot name a task",
            'rename the folder: at most 100 characters, no \\ / : * ? " < > |, no dot or dash in front',
        )
    return name


def find_tasks(path: Path | str) -> list[Path]:
    """The dataset folders that `path` means, sorted by name: itself, or those directly in it.

    Raises:
        DatasetError: it does not exist, is no folder, or holds no dataset; says what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path}: there is no such folder", EXPECTED)
    if not path.is_dir():
        raise DatasetError(f"{path}: a file, not a folder", EXPECTED)
    try:
        if _reader_of(path):
            task_name(path)
            return [path]
        inside = [Path(entry.path) for entry in entries(path) if entry.is_dir()]
        tasks = [folder for folder in inside if _reader_of(folder)]
    except PermissionError as error:
        raise DatasetError(
            f"{error.filename}: no permission to read it", f"chmod u+rx '{error.filename}'"
        ) from None
    for task in tasks:
        task_name(task)
    if tasks:
        return tasks
    names = [folder.name for folder in inside]
    seen = (
        f"it holds the folders {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        if names
        else "it holds no folder"
    )
    raise DatasetError(f"{path}: no dataset here; {seen}", f"{EXPECTED}; or give a folder of such folders")


def read_dataset(
    path: Path | str, options: DatasetOptions | None = None, progress: Progress | None = None
) -> Dataset:
    """Read one dataset folder: samples, splits, how its masks are to be read, and every problem found.

    Opens every mask and the header of every image. A bad file becomes a problem and never stops the rest.

    Args:
        path: the dataset folder.
        options: what to make of it.
        progress: called with (files done, files in all).

    Raises:
        DatasetError: the folder as a whole cannot be used: no dataset, no usable image, a parted group.
    """
    path = Path(path)
    reader = _reader_of(path)
    if reader is None:
        found = find_tasks(path)
        raise DatasetError(
            f"{path}: a folder of {len(found)} datasets, not a dataset", f"for example {found[0]}"
        )
    try:
        return reader.read(path, task_name(path), options or DatasetOptions(), progress)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or path}: {error.strerror or error}", "check that it can be read"
        ) from None
