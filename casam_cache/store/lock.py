"""One writer a store: the lock beside it."""

from __future__ import annotations

from pathlib import Path

from casam_cache.locks import Lock
from casam_cache.store.files import disk_errors, make_directory


def lock_path(store: Path) -> Path:
    """`.NAME.lock` beside the store."""
    return store.parent / f".{store.name.removesuffix('.zarr')}.lock"


def lock_store(store: Path) -> Lock:
    """The right to write into one store.

    Raises:
        HeldError: another process is writing into it.
        StoreError: the folder cannot be written.
    """
    make_directory(store.parent)
    with disk_errors(lock_path(store), "cannot lock the store"):
        return Lock(lock_path(store), f"is writing into this store: {store}")
