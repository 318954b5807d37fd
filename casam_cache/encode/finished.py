"""Has anything changed since the last complete run? Answered from file times alone, without torch.

A small file beside the store remembers what was asked and the size and modification time of every input file. It is
a cache: without it, or when anything differs, the full comparison by content runs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casam_cache.datasets import find_reader, task_name
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.report import EncodeReport
from casam_cache.encode.sources import has_decoder
from casam_cache.errors import StoreError
from casam_cache.fingerprint import digest, digest_file
from casam_cache.references import is_file_reference
from casam_cache.registry import revision_of
from casam_cache.store import EmbeddingStore, store_path
from casam_cache.store.files import write_file


def memory_path(store: Path) -> Path:
    """The file beside DIR/TASK/BACKBONE.zarr that remembers its last complete run."""
    return store.with_name(f".{store.stem}.finished.json")


def finished_report(root: Path, stores: Path, options: EncodeOptions) -> EncodeReport | None:
    """The report of a run that has nothing to do, or None if there may be something to do.

    Args:
        root: dataset folder.
        stores: folder of stores.
        options: what is asked now, as `as_begun` gives it; device, workers and batch size do not matter to a finished
            store.
    """
    store = store_path(stores, task_name(root, options.dataset.dataset), options.backbone_name)
    try:
        memory = json.loads(memory_path(store).read_text())
        metadata = (store / "zarr.json").read_bytes()
    except (OSError, ValueError):
        return None
    request = _Request.of(root, options)
    if (
        request is None
        or memory.get("request") != request.digest
        or memory.get("metadata") != digest(metadata.decode())
    ):
        return None
    report = EncodeReport.from_json(memory["report"])
    if (options.strict and report.failed) or not has_decoder(stores, memory["weights"]):
        return None
    return replace(
        report,
        encoded=0,
        skipped=report.images - report.failed,
        refreshed=False,
        seconds={},
        store=str(store),
    )


def remember(root: Path, store: Path, options: EncodeOptions, report: EncodeReport) -> None:
    """Notes that `report` is of a complete run, so that the next one can stop early; no harm where it cannot."""
    request = _Request.of(root, options)
    if request is None:
        return
    memory = {
        "request": request.digest,
        "metadata": digest((store / "zarr.json").read_text()),
        "weights": EmbeddingStore.open(store).identity["backbone"]["weights"],
        "files": {name: [size, time] for name, size, time in request.files},
        "folder": str(root.resolve()),
        "report": replace(report, encoded=0, skipped=0, refreshed=False, seconds={}, store="").to_json(),
    }
    path = memory_path(store)
    with contextlib.suppress(StoreError):
        write_file(path, json.dumps(memory).encode())


def forget(store: Path, asked: Mapping[str, Any] | None = None) -> None:
    """Before anything changes: the store is no longer known to be complete.

    Args:
        store: its path.
        asked: how the run that begins reads the dataset (see `unfinished_request`), so that the next run can go on
            so if this one is interrupted. None keeps what an interrupted run was asked.
    """
    path = memory_path(store)
    asked = asked or unfinished_request(store)
    if not asked:
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(StoreError):
        write_file(path, json.dumps({"unfinished": asked}).encode())


def unfinished_request(store: Path) -> dict[str, Any]:
    """How a run that did not finish was to read the dataset: `{"options", "reader"}` as annotations record them."""
    try:
        found = json.loads(memory_path(store).read_text()).get("unfinished", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def remembered_files(store: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of each input file as of the last complete run; empty if unknown."""
    try:
        files = json.loads(memory_path(store).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: (size, time) for name, (size, time) in files.items()}


def remembered_folder(store: Path) -> Path | None:
    """The dataset folder of the last complete run; None if unknown."""
    try:
        folder = json.loads(memory_path(store).read_text())["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Path(folder) if isinstance(folder, str) else None


@dataclass(frozen=True)
class _Request:
    """What is asked, and the files of the dataset as they are now."""

    digest: str
    files: list[tuple[str, int, int]]

    @classmethod
    def of(cls, root: Path, options: EncodeOptions) -> _Request | None:
        reader = find_reader(root, options.reader, options.dataset.dataset)
        if reader is None:
            return None
        checkpoint: list[Any] = []
        if options.checkpoint is not None:
            try:
                checkpoint = _stated(options.checkpoint)
            except OSError:  # loading it says what is wrong
                return None
        files = reader.files(root)
        read_by = [reader.name, revision_of(type(reader))]
        decides = options.what_decides()
        if is_file_reference(options.model):
            decides["code"] = digest_file(Path(options.model.rpartition(":")[0]).expanduser())
        asked = [decides, checkpoint, read_by, [list(entry) for entry in files]]
        return cls(digest(asked), files)


def _stated(checkpoint: Path) -> list[Any]:
    """Size and time of a checkpoint; of a folder those of each file, since one written over leaves the folder's."""
    if checkpoint.is_dir():
        return [[file.name, *_stated(file)] for file in sorted(checkpoint.iterdir()) if file.is_file()]
    status = checkpoint.stat()
    return [status.st_size, status.st_mtime_ns]
