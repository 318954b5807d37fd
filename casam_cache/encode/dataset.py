"""Datasets, or folders of datasets, into stores: what `casam encode` runs, for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casam_cache.datasets import task_name
from casam_cache.encode.begun import as_begun
from casam_cache.encode.finished import finished_report
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.report import EncodeReport
from casam_cache.encode.several import datasets_at
from casam_cache.errors import CasamError, DatasetError, HeldError, ImageError, StoreError
from casam_cache.store import EmbeddingStore, store_path
from casam_cache.store.lock import lock_path, lock_store
from casam_cache.store.schema import EMBEDDING

if TYPE_CHECKING:
    from casam_cache.encode.shards import Workers

LOOK_AGAIN = 1.0  # seconds between looks at tasks that other processes encode
TaskProgress = Callable[[str, int, int, str, float | None], None]
Say = Callable[[str], None]


def encode_dataset(
    path: Path | str | Sequence[Path | str],
    store: Path | str = "casam_store",
    options: EncodeOptions | None = None,
    *,
    workers: Workers | None = None,
    progress: TaskProgress | None = None,
    warn: Say | None = None,
    on_task: Callable[[EncodeReport], None] | None = None,
    on_error: Callable[[Path, CasamError], None] | None = None,
) -> list[EncodeReport]:
    """Encodes every task at `path` that is not encoded yet; torch is imported only if there is something to do.

    Several processes that encode one folder of datasets share its tasks: one that another process holds is passed
    over and looked at again at the end, until it is done or free.

    Args:
        path: a dataset folder, a folder of them, or several of these.
        store: folder of stores.
        options: what to do; the bundled small model by default.
        workers: processes that encode, shard by shard; by default this one encodes.
        progress: called with (task, images done, images in all, note, images/s).
        warn: called with lines for a person where something unusual is done; equal lines of several tasks come once.
        on_task: called with each task's report as soon as it is finished.
        on_error: called with a dataset's folder and what is wrong with it or its store; the others are encoded then.
            Without it that ends the run.

    Returns:
        One report a task that was encoded, in the order of the paths, those of a folder sorted.

    Raises:
        HeldError: `path` is one dataset, and another process encodes it.
        CasamError: see `casam_cache.encode.several.datasets_at` and `casam_cache.encode.task.encode_task`; tasks
            finished before stay finished.
    """
    options = options or EncodeOptions()
    paths = [Path(path)] if isinstance(path, Path | str) else [Path(each) for each in path]
    stores = Path(store)
    say = None if warn is None else _once(warn)
    reports: dict[Path, EncodeReport] = {}
    roots = datasets_at(paths, options, say)
    left = list(roots)
    while left:
        held: list[Path] = []
        for root in left:
            name = task_name(root, options.dataset.dataset)
            at = store_path(stores, name, options.backbone_name)
            try:
                report = _encode(root, stores, options, name, workers, progress, say)
            except HeldError as error:
                if roots == paths[:1]:
                    raise
                held.append(root)
                if say is not None:
                    say(f"{name}: {error.message}; it is looked at again at the end")
                continue
            except (DatasetError, ImageError, StoreError) as error:
                if on_error is None:
                    raise
                on_error(root, error)
                continue
            reports[root] = report
            if on_task is not None:
                on_task(report)
        if held == left:  # nothing to do but wait
            if progress is not None:
                progress(name, *_done(at), "another process encodes it", None)
            time.sleep(LOOK_AGAIN)
        left = held
    return [reports[root] for root in roots if root in reports]


def _encode(
    root: Path,
    stores: Path,
    options: EncodeOptions,
    name: str,
    workers: Workers | None,
    progress: TaskProgress | None,
    say: Say | None,
) -> EncodeReport:
    asked = as_begun(root, stores, options, say)
    report = finished_report(root, stores, asked)
    if report is None:
        at = store_path(stores, name, asked.backbone_name)
        if lock_path(at).exists():
            lock_store(at).release()  # refused before any weights are read
        from casam_cache.encode.task import encode_task

        def shown(done: int, total: int, note: str, rate: float | None) -> None:
            if progress is not None:
                progress(name, done, total, note, rate)

        report = encode_task(root, stores, asked, workers=workers, progress=shown, warn=say)
    return report


def _done(at: Path) -> tuple[int, int]:
    """Images that a store holds, as far as it can be read while another process writes it, and images planned."""
    try:
        opened = EmbeddingStore.open(at)
        return int(opened.committed(EMBEDDING).sum()), len(opened)
    except StoreError:
        return 0, 0


def _once(warn: Say) -> Say:
    """What is true of the checkpoint is true for every task."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            warn(line)

    return say
