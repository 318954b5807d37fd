"""What a store was begun with stays until an option says otherwise, and what changes is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from casam_cache.datasets import Dataset, DatasetOptions, task_name
from casam_cache.encode.finished import unfinished_request
from casam_cache.encode.options import EncodeOptions
from casam_cache.errors import OptionError, StoreError
from casam_cache.fingerprint import canonical_json
from casam_cache.store import store_path
from casam_cache.store.annotations import current_version, read_version

Warn = Callable[[str], None]
_OPTIONS = {"seed": "--split-seed"}
_UNSET = dict.fromkeys(("masks", "split_by", "pages", "channels", "exif"), "auto")


def as_begun(root: Path, stores: Path, options: EncodeOptions, warn: Warn | None = None) -> EncodeOptions:
    """The options with how masks, splits and groups are read as the store has them, wherever nothing else is asked.

    Args:
        root: dataset folder.
        stores: folder of stores.
        options: what is asked now.
        warn: called with a line that says what stays other than by default, and one for what changes.

    Raises:
        OptionError: the store was begun with an option that this release does not know.
        StoreError: it was begun with a reader from a file, which is not named now.
    """
    say = warn or (lambda line: None)
    task = task_name(root, options.dataset.dataset)
    path = store_path(stores, task, options.backbone_name)
    recorded = recorded_attributes(path, say)
    # What an interrupted run was asked is newer than the annotations, which are written last.
    last = {**recorded, **unfinished_request(path)}
    reader = _reader_as_begun(path, options, last)
    if "options" not in last:
        return options.model_copy(update={"reader": reader})
    try:
        dataset = options.dataset.over(last["options"])
    except OptionError as error:
        raise OptionError(f"{path}: {error.message}", error.hint) from None
    defaults = DatasetOptions().to_json()
    before = {**defaults, **recorded.get("options", last["options"])}
    now = dataset.to_json()
    stays = [name for name in now if _same(now, before, name) and not _same(now, defaults, name)]
    unsaid = [name for name in stays if name not in options.dataset.given]
    if unsaid:
        say(f"{task}: goes on with {', '.join(_shown(name, now) for name in unsaid)}, as its store was begun")
    for name in now:
        if not _same(now, before, name):
            say(
                f"{task}: {option_of(name)} was {_value(name, before)} in this store and is {_value(name, now)} now"
            )
    read_by = recorded.get("reader", {}).get("name")
    if options.reader is not None and read_by not in (
        None,
        options.reader,
        options.reader.rpartition(":")[2],
    ):
        say(f"{task}: the reader of this store was '{read_by}'; --reader {options.reader} reads it now")
    return options.model_copy(update={"dataset": dataset, "reader": reader})


def say_what_changed(recorded: Mapping[str, Any], dataset: Dataset, warn: Warn) -> None:
    """Lines for what follows from the files and is other than the store has it: mask mode and source of the split.

    Args:
        recorded: what `recorded_attributes` gave.
        dataset: as it is read now.
        warn: called with each line.
    """
    asked = {**DatasetOptions().to_json(), **recorded.get("options", {})}
    if any(not _same(asked, dataset.options.to_json(), name) for name in asked):
        return  # said already, as options
    mode, split = recorded.get("mask_mode"), recorded.get("split_source")
    if mode not in (None, dataset.mask_mode):
        warn(
            f"{dataset.task}: masks were read as {mode} ({recorded['mask_reason']}) and are read as "
            f"{dataset.mask_mode} now ({dataset.mask_reason}); --masks {mode} keeps it"
        )
    if split not in (None, dataset.split_source):
        warn(f"{dataset.task}: the split was from {split} and is from {dataset.split_source} now")


def recorded_attributes(path: Path, warn: Warn | None = None) -> dict[str, Any]:
    """What the current annotations of the store at `path` say of themselves; empty where it has none."""
    try:
        version = current_version(path)
        found: dict[str, Any] = read_version(path, version)["attributes"] if version else {}
    except StoreError as error:
        if warn is not None:
            warn(
                f"{error.message}: what the store was begun with is unknown, so it is read by the options given"
            )
        return {}
    return found


def option_of(name: str) -> str:
    """The command-line option of a field of `DatasetOptions`."""
    return _OPTIONS.get(name, "--" + name.replace("_", "-"))


def _reader_as_begun(path: Path, options: EncodeOptions, last: Mapping[str, Any]) -> str | None:
    """The reader's name as asked, else as recorded, else None."""
    read_by = last.get("reader", {})
    if options.reader is not None or not read_by:
        return options.reader
    if not isinstance(read_by["revision"], int):
        raise StoreError(
            f"{path}: begun with the reader '{read_by['name']}' of a file",
            "name it again: --reader FILE.py:CLASS (or --reader folder to read images/ and masks/ instead)",
        )
    return str(read_by["name"])


def _same(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return canonical_json(one.get(name)) == canonical_json(other.get(name))


def _value(name: str, values: Mapping[str, Any]) -> str:
    value = values.get(name)
    if value is None:
        return _UNSET.get(name, "not set")
    if isinstance(value, bool):
        return "on" if value else "off"
    if name == "legend":
        return f"({', '.join(str(entry[0]) for entry in value)})"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _shown(name: str, values: Mapping[str, Any]) -> str:
    value = values[name]
    if isinstance(value, bool):
        return option_of(name) if value else option_of(name).replace("--", "--no-", 1)
    return f"{option_of(name)} {_value(name, values)}"
