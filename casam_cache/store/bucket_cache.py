"""Stores in a bucket as a folder in the user's cache: small files at once, shards of features when they are read.

    CACHE/buckets/DIGEST/.bucket.json     the address, and of each file there: state, SHA-256 where a copy noted it
    CACHE/buckets/DIGEST/TASK/...         as in the bucket; shards as far as they were read

What opens a shard that is not there (`Shard`) asks `fetch`, which reads it and the next ones from the bucket: reading
ahead hides what the bucket takes to answer. Size and SHA-256 are compared as a file arrives, items' checksums as ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from casam_cache.errors import StoreError
from casam_cache.fingerprint import digest
from casam_cache.locks import Lock
from casam_cache.store.bucket_room import buckets_folder, make_room, note_use
from casam_cache.store.files import TEMPORARY, disk_errors, make_directory, write_file
from casam_cache.store.places import Bucket, Place, place_of
from casam_cache.store.schema import ROOT, SIDE_ARRAYS

NOTE = ".bucket.json"
RECORD = ".copied.json"  # SHA-256 of what `casam store copy` has put there
AHEAD = 3  # shards
AT_ONCE = 8  # files on their way
Progress = Callable[[int, int], None]
_SHARD = re.compile(r"(?P<before>[^/]+/[^/]+\.zarr/(?P<array>[^/]+)/c\.)(?P<index>\d+)(?P<after>[.0]*)")
_coming: dict[Path, Future[None]] = {}
_mutex = threading.Lock()


def local_stores(
    address: str, progress: Progress | None = None, say: Callable[[str], None] | None = None
) -> Path:
    """A folder that stands for the stores at an address, or for one of them, as they are there now.

    Args:
        address: of a folder of stores, or of one: `s3://BUCKET/DIR` or `s3://BUCKET/DIR/TASK/BACKBONE.zarr`.
        progress: called with (small files there, in all).
        say: takes a line where shards that were read before make room (`casam_cache.store.bucket_room`).

    Raises:
        OptionError: an address of another kind, obstore is not installed, or a wrong limit of the room.
        StoreError: no stores there, a damaged file, or the address cannot be read.
    """
    root, inner = _split(address)
    place = place_of(root, create=False)
    assert isinstance(place, Bucket)
    folder = buckets_folder() / digest(place.name)[:16]
    make_directory(folder)
    with _refreshing(folder, place.name):
        states = place.states()
        if not any(name.endswith(f".zarr/{ROOT}") for name in states):
            raise StoreError(
                f"there are no stores at {root}", "casam store copy DIR puts a folder of stores there"
            )
        known = _note(folder)["files"]
        files = {name: {"state": state} for name, state in states.items() if name != RECORD}
        stated = json.loads(place.read(RECORD) or b"{}")
        for name, about in files.items():
            if name in stated:
                about["sha256"] = str(stated[name])
        for path in list(_cached(folder)):
            name = path.relative_to(folder).as_posix()
            if name not in files or known.get(name) != files[name]:
                path.unlink()
        small = [name for name in files if not _is_shard(name) and not (folder / name).exists()]
        _fetch_all(place, folder, files, small, progress)
        note = {"address": place.name, "files": files}
        write_file(folder / NOTE, json.dumps(note, indent=0).encode())
    make_room(lambda path: _is_shard("/".join(path.parts[-4:])), say)
    return folder / inner


def fetch(path: Path) -> bool:
    """Reads a shard, where its folder stands for a bucket.

    Args:
        path: of a shard file that is not there.

    Returns:
        Whether it is there now; False where the bucket has none either, or there is no bucket.

    Raises:
        StoreError: the bucket cannot be read, or what came is not what was put there.
    """
    folder = _folder_of(path)
    if folder is None:
        return False
    coming = _ask(folder, path.relative_to(folder).as_posix())
    if coming is not None:
        coming.result()
    return path.exists()


def read_ahead(path: Path) -> None:
    """Begins to read the shards after one that is opened now, where its folder stands for a bucket; notes its use."""
    folder = _folder_of(path)
    found = None if folder is None else _SHARD.fullmatch(path.relative_to(folder).as_posix())
    if folder is None or found is None:
        return
    note_use(path)
    for index in range(int(found["index"]) + 1, int(found["index"]) + 1 + AHEAD):
        _ask(folder, f"{found['before']}{index}{found['after']}")


def fetch_store(store: Path, progress: Progress | None = None) -> None:
    """All shards of a store that are not here yet; does nothing where it stands for no bucket.

    Raises:
        StoreError: the bucket cannot be read, or what came is not what was put there.
    """
    folder = store.parents[1] if len(store.parents) > 1 else None
    if folder is None or not (folder / NOTE).is_file():
        return
    note = _note(folder)
    inside = store.relative_to(folder).as_posix() + "/"
    names = [name for name in note["files"] if name.startswith(inside) and not (folder / name).exists()]
    _fetch_all(place_of(note["address"], create=False), folder, note["files"], names, progress)


def _split(address: str) -> tuple[str, str]:
    """The address of the folder of stores, and TASK/BACKBONE.zarr where one is named, else nothing."""
    plain = address.rstrip("/")
    if not plain.endswith(".zarr"):
        return plain, ""
    root, task, name = plain.rsplit("/", 2)
    return root, f"{task}/{name}"


def _is_shard(name: str) -> bool:
    found = _SHARD.fullmatch(name)
    return found is not None and found["array"] not in SIDE_ARRAYS


def _cached(folder: Path) -> Iterator[Path]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
    return (path for path in found if not path.name.startswith(TEMPORARY))


@contextmanager
def _refreshing(folder: Path, address: str) -> Iterator[None]:
    with disk_errors(folder, "cannot lock the folder"):
        lock = Lock(folder / ".lock", f"is reading what is new at {address}", wait=True)
    with lock:
        yield


def _fetch_all(
    place: Place, folder: Path, files: dict[str, dict[str, str]], names: list[str], progress: Progress | None
) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(_put, place, folder, name, files[name]) for name in names]
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                future.result()
                if progress is not None:
                    progress(done, len(names))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _folder_of(path: Path) -> Path | None:
    """The folder of stores that a shard file lies in (DIR/TASK/BACKBONE.zarr/ARRAY/c.N), if it stands for a bucket."""
    folder = path.parents[3] if len(path.parents) > 3 else None
    return folder if folder is not None and (folder / NOTE).is_file() else None


def _ask(folder: Path, name: str) -> Future[None] | None:
    """A file on its way; None where it is there already, or the bucket has none of that name."""
    path = folder / name
    with _mutex:
        if path not in _coming and name in _note(folder)["files"] and not path.exists():
            _coming[path] = _pool().submit(_arrive, folder, name)
        return _coming.get(path)


def _arrive(folder: Path, name: str) -> None:
    try:
        note = _note(folder)
        _put(_bucket(note["address"], _access()), folder, name, note["files"][name])
    finally:
        with _mutex:
            _coming.pop(folder / name, None)


def _put(place: Place, folder: Path, name: str, about: dict[str, str]) -> None:
    """One file from the bucket, whole or not at all."""
    data = place.read(name)
    again = "run the same command again: what has changed there is read anew"
    if data is None or about["state"].split(" ")[0] != str(len(data)):
        raise StoreError(f"{place.name}/{name} was changed while it was in use", again)
    if hashlib.sha256(data).hexdigest() != about.get("sha256", hashlib.sha256(data).hexdigest()):
        raise StoreError(
            f"{place.name}/{name} is damaged: its SHA-256 is not the one of when it was copied there",
            "copy it there again from where it came",
        )
    target = folder / name
    make_directory(target.parent)
    # Of this thread alone: other processes may read the same file into the same place.
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-{target.name}")
    with disk_errors(target):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _note(folder: Path) -> dict[str, Any]:
    try:
        return _parsed(folder / NOTE, (folder / NOTE).stat().st_mtime_ns)
    except FileNotFoundError:
        return {"files": {}}


@lru_cache(maxsize=4)
def _parsed(path: Path, _: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@lru_cache(maxsize=4)
def _bucket(address: str, _: tuple[tuple[str, str], ...]) -> Place:
    return place_of(address, create=False)


def _access() -> tuple[tuple[str, str], ...]:
    """Endpoint, region and keys, as the environment has them now: a bucket of another server is another one."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_"))))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AHEAD + 1, thread_name_prefix="bucket")
