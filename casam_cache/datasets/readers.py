"""The single door to datasets: which reader knows a folder, which tasks a path holds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from casam_cache.datasets.base import FilesDone, Reader, check_inside
from casam_cache.datasets.catalogue import ENTRIES, get_entry
from casam_cache.datasets.catalogue.compare import notes_of
from casam_cache.datasets.catalogue.locate import locate
from casam_cache.datasets.folder import FolderReader
from casam_cache.datasets.folds import with_fold
from casam_cache.datasets.layouts.folder_a_group import FolderAGroup
from casam_cache.datasets.layouts.table import TABLE, Table, what_is_wrong
from casam_cache.datasets.listing import entries, is_folder
from casam_cache.datasets.places import EXPECTED, has_mask_files
from casam_cache.datasets.sample import SPLITS, Dataset, DatasetOptions
from casam_cache.datasets.seen import describe_contents
from casam_cache.datasets.splits import refuse_parted_groups
from casam_cache.datasets.volumes.folder_reader import VolumeFolderReader
from casam_cache.datasets.volumes.read import volume_stem, volume_suffix
from casam_cache.errors import DatasetError, OptionError
from casam_cache.references import file_sha256

_MANY = 8  # folders of images and masks together, which as well are patients
_LOOKED_INTO = 20  # folders, for one that holds datasets


def find_reader(path: Path, name: str | Reader | None = None, dataset: str | None = None) -> Reader | None:
    """The reader of a dataset folder, None where it is no dataset.

    Args:
        path: the folder.
        name: of the reader, or `FILE.py:Class`, or `table:FILE.csv`, or the reader itself. None takes the one that
            recognises the folder; never one from a file.
        dataset: a name of the catalogue, whose own reader then comes before all.

    Raises:
        DatasetError: several readers recognise it.
        OptionError: there is no reader of that name.
        CasamError: a reader cannot be imported, or is none.
    """
    from casam_cache.datasets.registry import READERS, every_reader  # pydantic, which decoding needs not

    if path.is_file():  # a single volume
        alone = VolumeFolderReader()
        return alone if name in (None, alone.name) and alone.recognises(path) else None
    if name is None and dataset is not None and (own := get_entry(dataset).reader):
        published = READERS.get(own)()
        if published.recognises(path):
            return published
    if isinstance(name, str) and name.startswith(TABLE):
        return Table(Path(name.removeprefix(TABLE)))
    if name is not None:
        named = name if isinstance(name, Reader) else READERS.get(name)()
        return named if named.recognises(path) else None
    installed = [cls() for cls in every_reader() if file_sha256(cls) is None]
    heights = {
        reader: _height(reader, path)
        for reader in installed
        if reader.precedence >= 0 and reader.recognises(path)
    }
    found = [reader for reader, height in heights.items() if height == max(heights.values())]
    if len(found) > 1:
        names = [reader.name for reader in found]
        raise DatasetError(
            f"{path}: read by several readers: {', '.join(names)}",
            f"choose one: {' or '.join(f'--reader {name}' for name in names)}",
        )
    return found[0] if found else None


def _height(reader: Reader, path: Path) -> int:
    """Folders of images alone may have their masks in a format of their own beside them, which another reader knows."""
    return 0 if type(reader) is FolderReader and not has_mask_files(path) else reader.precedence


def task_name(path: Path | str, dataset: str | None = None) -> str:
    """The name of the task in a dataset folder: that of the catalogue, else the folder's own (a link keeps its own)
    or that of a volume.

    Raises:
        DatasetError: the name could not name a folder of a store.
    """
    if dataset is not None:
        return get_entry(dataset).name
    name = os.path.basename(os.path.abspath(path))
    if volume_suffix(name) and os.path.isfile(path):
        name = volume_stem(name)
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


def find_tasks(
    path: Path | str, reader: str | Reader | None = None, dataset: str | None = None
) -> list[Path]:
    """The dataset folders that `path` means, sorted by name: itself, or those directly in it.

    Args:
        path: a folder, or one volume.
        reader: as in `find_reader`.
        dataset: a name of the catalogue; the one folder that holds it is found at or below `path`.

    Raises:
        DatasetError: it does not exist, is no folder, or holds no dataset; says what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path}: there is no such folder", EXPECTED)
    if not path.is_dir():
        if path.is_file() and find_reader(path, reader):
            return [path]
        raise DatasetError(f"{path}: a file, not a folder", EXPECTED)
    try:
        if dataset is not None:
            return [
                locate(
                    path,
                    get_entry(dataset),
                    lambda folder: bool(find_reader(folder, reader, dataset)),
                    ENTRIES,
                )
            ]
        if find_reader(path, reader):
            task_name(path)
            return [path]
        inside = [Path(entry.path) for entry in entries(path) if is_folder(entry)]
        tasks = [folder for folder in inside if _may_be_read(folder, reader)]
    except PermissionError as error:
        raise DatasetError(
            f"{error.filename}: no permission to read it", f"chmod u+rx '{error.filename}'"
        ) from None
    if reader is None and len(tasks) > _MANY and FolderAGroup().recognises(path):
        raise DatasetError(
            f"{path}: two readings: {len(tasks)} folders that each hold images and masks, for example {tasks[0].name}, "
            "are one dataset with a folder a patient, or a dataset each",
            f"--reader {FolderAGroup.name} reads one dataset, --reader {FolderReader.name} a dataset each",
        )
    for task in tasks:
        task_name(task)
    if tasks:
        return tasks
    wrong_table = what_is_wrong(path)
    if reader is None and wrong_table is not None:
        raise wrong_table
    seen = describe_contents(path, [folder.name for folder in inside])
    if reader is not None:
        raise DatasetError(
            f"{path}: no dataset of the reader '{reader if isinstance(reader, str) else reader.name}' here; {seen}",
            "name another folder, or another --reader",
        )
    deeper = _deeper(inside, reader)
    if deeper is not None:
        raise DatasetError(f"{path}: no dataset here; {seen}", f"one lies deeper: give {deeper}")
    raise DatasetError(f"{path}: no dataset here; {seen}", f"{EXPECTED}; or give a folder of such folders")


def _deeper(folders: Sequence[Path], reader: str | Reader | None) -> Path | None:
    """The first folder, one or two levels down, that holds datasets, as unpacked archives have it."""
    below = folders[:_LOOKED_INTO]
    for _ in range(2):
        following: list[Path] = []
        for folder in below:
            try:
                inside = [Path(entry.path) for entry in entries(folder) if is_folder(entry)][:_LOOKED_INTO]
            except OSError:
                continue
            found = [one for one in inside if _may_be_read(one, reader)]
            if found:
                return found[0] if len(found) == 1 else folder
            following += inside
        below = following[:_LOOKED_INTO]
    return None


def _may_be_read(folder: Path, reader: str | Reader | None) -> bool:
    """Whether it is a dataset; one that several readers recognise is, and reading it says so beside the others."""
    try:
        return find_reader(folder, reader) is not None
    except DatasetError:
        return True


def read_dataset(
    path: Path | str,
    options: DatasetOptions | None = None,
    progress: FilesDone | None = None,
    reader: str | Reader | None = None,
) -> Dataset:
    """Read one dataset folder: samples, splits, how its masks are to be read, and every problem found.

    A bad file becomes a problem and never stops the rest. The built-in reader opens every mask and the header of every
    image.

    Args:
        path: the dataset folder.
        options: what to make of it.
        progress: called with (files done, files in all).
        reader: as in `find_reader`.

    Raises:
        DatasetError: the folder as a whole cannot be used: no dataset, no usable image, a parted group.
    """
    path, options = Path(path), options or DatasetOptions()
    found = find_reader(path, reader, options.dataset)
    if found is None:
        tasks = find_tasks(path, reader, options.dataset)
        raise DatasetError(
            f"{path}: a folder of {len(tasks)} datasets, not a dataset", f"for example {tasks[0]}"
        )
    try:
        dataset = found.read(path, task_name(path, options.dataset), options, progress)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or path}: {error.strerror or error}", "check that it can be read"
        ) from None
    _refuse_unsound(dataset, found)
    _refuse_unheeded(dataset, found)
    entry = None if options.dataset is None else get_entry(options.dataset)
    notes = (*notes_of(dataset, found.name, entry, ENTRIES), *dataset.notes)
    return with_fold(replace(dataset, read_by=found, notes=notes))


def _refuse_unheeded(dataset: Dataset, reader: Reader) -> None:
    """Options on mask values that a reader would pass over in silence."""
    for name in ("background", "ignore"):
        if getattr(dataset.options, name) is not None and getattr(dataset.values, name) is None:
            raise OptionError(
                f"{dataset.root}: the reader '{reader.name}' does not know --{name}", "leave it out"
            )
    if dataset.options.grid is not None and not reader.cuts_tiles:
        raise OptionError(
            f"{dataset.root}: the reader '{reader.name}' cuts no images into tiles",
            "leave --tile out, or save the masks as image files of the images' size (docs/layouts.md)",
        )
    if dataset.options.legend and not dataset.values.legend:
        raise OptionError(
            f"{dataset.root}: the reader '{reader.name}' does not know --legend", "leave it out"
        )


def _refuse_unsound(dataset: Dataset, reader: Reader) -> None:
    """What no store could keep: ids that come twice, names outside the folder, parted groups."""
    ids = [sample.id for sample in dataset.samples]
    wrong = next((second for first, second in pairwise(ids) if first >= second), None)
    if wrong is not None:
        raise DatasetError(
            f"{dataset.root}: the reader '{reader.name}' gives the id '{wrong}' twice, or out of order",
            "ids are unique, and samples sorted by them",
        )
    for sample in dataset.samples:
        check_inside(sample.source)
        if sample.split not in SPLITS:
            raise DatasetError(
                f"{dataset.root}: the reader '{reader.name}' puts '{sample.id}' into '{sample.split}'",
                f"a split is one of {', '.join(SPLITS)}",
            )
    refuse_parted_groups(((s.id, s.group, s.split) for s in dataset.samples), dataset.root)
