"""A dataset, or a folder of datasets, into stores: what `casam encode` runs, for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from casam_cache.datasets import find_tasks, task_name
from casam_cache.encode.begun import as_begun
from casam_cache.encode.finished import finished_report
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.report import EncodeReport


def encode_dataset(
    path: Path | str,
    store: Path | str = "casam_store",
    options: EncodeOptions | None = None,
    *,
    progress: Callable[[str, int, int, str, float | None], None] | None = None,
    warn: Callable[[str], None] | None = None,
    on_task: Callable[[EncodeReport], None] | None = None,
) -> list[EncodeReport]:
    """Encodes every task at `path` that is not encoded yet; torch is imported only if there is something to do.

    Args:
        path: a dataset folder, or a folder of them.
        store: folder of stores.
        options: what to do; the bundled small model by default.
        progress: called with (task, images done, images in all, note, images/s).
        warn: called with lines for a person where something unusual is done; equal lines of several tasks come once.
        on_task: called with each task's report as soon as it is finished.

    Returns:
        One report a task, in sorted order.

    Raises:
        CasamError: see `casam_cache.encode.task.encode_task`; tasks finished before stay finished.
    """
    options = options or EncodeOptions()
    say = None if warn is None else _once(warn)
    reports = []
    for root in find_tasks(Path(path), options.reader, options.dataset.dataset):
        asked = as_begun(root, Path(store), options, say)
        report = finished_report(root, Path(store), asked)
        if report is None:
            from casam_cache.encode.task import encode_task

            def shown(
                done: int,
                total: int,
                note: str,
                rate: float | None,
                task: str = task_name(root, options.dataset.dataset),
            ) -> None:
                if progress is not None:
                    progress(task, done, total, note, rate)

            report = encode_task(root, Path(store), asked, progress=shown, warn=say)
        reports.append(report)
        if on_task is not None:
            on_task(report)
    return reports


def _once(warn: Callable[[str], None]) -> Callable[[str], None]:
    """What is true of the checkpoint is true for every task."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            warn(line)

    return say
