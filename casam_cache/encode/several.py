"""The datasets that the folders on a command line mean, such as a shell makes of `data/*`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from casam_cache.datasets import find_reader, find_tasks, task_name
from casam_cache.datasets.layouts.table import TABLE
from casam_cache.encode.options import EncodeOptions
from casam_cache.errors import DatasetError, OptionError


def datasets_at(
    paths: Sequence[Path], options: EncodeOptions, say: Callable[[str], None] | None = None
) -> list[Path]:
    """The dataset folders that `paths` mean, in their order, each once: themselves, or those directly in them.

    Of several, files that are no dataset (a README beside the datasets) are passed over with a line.

    Raises:
        DatasetError: a folder does not exist or holds no dataset; nothing but files; two datasets would be one task.
        OptionError: an option that is of one dataset, with several paths.
    """
    if len(paths) > 1:
        _refuse_what_is_of_one(options)
        files = [path for path in paths if path.is_file() and not find_reader(path, options.reader)]
        if len(files) == len(paths):
            raise DatasetError(f"{files[0]} and {len(files) - 1} more: no dataset among them", "name folders")
        if files and say is not None:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            say(f"{files[0]}{more}: a file, no dataset; passed over")
        paths = [path for path in paths if path not in files]
    found: dict[Path, Path] = {}
    for path in paths:
        for root in find_tasks(path, options.reader, options.dataset.dataset):
            found.setdefault(root.resolve(), root)
    roots = list(found.values())
    named: dict[str, Path] = {}
    for root in roots:
        name = task_name(root, options.dataset.dataset)
        other = named.setdefault(name, root)
        if other is not root:
            raise DatasetError(
                f"{other} and {root} would both be the task {name}",
                "rename one of the folders, or encode them into two folders of stores (--store)",
            )
    return roots


def _refuse_what_is_of_one(options: EncodeOptions) -> None:
    reader, dataset = options.reader or "", options.dataset.dataset
    given = ""
    if dataset is not None:
        given = f"--dataset {dataset}"
    elif reader.startswith(TABLE):
        given = f"--table {reader.removeprefix(TABLE)}"
    if given:
        raise OptionError(
            f"{given} says what one dataset is, and several paths are given", "encode that one by itself"
        )
