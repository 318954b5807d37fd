"""Which store is meant by a task and a model."""

from __future__ import annotations

from pathlib import Path

from casam_cache.errors import OptionError, StoreError, unknown_name
from casam_cache.store import find_stores


def find_store(stores: Path, task: str, model: str | None = None) -> Path:
    """DIR/TASK/BACKBONE.zarr; the backbone need not be named where there is only one.

    Raises:
        StoreError: the folder of stores is missing or empty.
        OptionError: an unknown task or model, or several models to choose from; the message lists what there is.
    """
    found = find_stores(stores)
    if not found:
        raise StoreError(f"no store in {stores}", f"casam encode DATASET --store {stores}")
    tasks = sorted({path.parent.name for path in found})
    if task not in tasks:
        raise unknown_name("task", task, tasks)
    models = {path.stem: path for path in found if path.parent.name == task}
    if model is None:
        if len(models) > 1:
            raise OptionError(
                f"task '{task}' is encoded with several backbones",
                f"choose one with --model: {', '.join(models)}",
            )
        return next(iter(models.values()))
    if model not in models:
        raise unknown_name(f"model of task {task}", model, list(models))
    return models[model]
