"""One writer a store: the lock beside it; and of a store whose shards several processes fill, one writer a shard."""

from __future__ import annotations

from pathlib import Path

from casam_cache.locks import MARKER, Lock
from casam_cache.store.files import disk_errors, make_directory


def lock_path(store: Path) -> Path:
    """`.NAME.lock` beside the store."""
    return store.parent / f".{store.name.removesuffix('.zarr')}.lock"


def lock_store(store: Path) -> Lock:
    """The right to write into one store.

    Raises:
        HeldError: another process is writing into it, or still into a shard of it.
        StoreError: the folder cannot be written.
    """
    make_directory(store.parent)
    with disk_errors(lock_path(store), "cannot lock the store"):
        lock = Lock(lock_path(store), f"is writing into this store: {store}")
    try:
        for shard in _locked_shards(store):  # a run that ended may have left workers behind
            lock_shard(store, shard).release()
    except BaseException:
        lock.release()
        raise
    return lock


def lock_shard(store: Path, shard: int) -> Lock:
    """The right to fill one shard of a store that another process holds.

    Raises:
        HeldError: another process fills it.
        StoreError: the folder cannot be written.
    """
    path = _shard_path(store, str(shard))
    with disk_errors(path, "cannot lock the shard"):
        return Lock(path, f"is writing into shard {shard} of this store: {store}")


def is_held(store: Path) -> bool:
    """Whether the process that locked a store has not given it back; one that was killed has not either."""
    path = lock_path(store)
    return path.exists() or path.with_name(path.name + MARKER).exists()


def _shard_path(store: Path, shard: str) -> Path:
    return store.parent / f".{store.name.removesuffix('.zarr')}.shard-{shard}.lock"


def _locked_shards(store: Path) -> list[int]:
    before, after = _shard_path(store, "*").name.split("*")
    found = {
        path.name.removesuffix(MARKER).removeprefix(before).removesuffix(after)
        for path in store.parent.iterdir()
        if path.name.startswith(before) and path.name.removesuffix(MARKER).endswith(after)
    }
    return sorted(int(text) for text in found if text.isdecimal())
