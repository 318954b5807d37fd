"""Copying stores, with all that fits need of them, between folders and buckets: resumable, and verified.

A store on this machine is read back before it is copied from and after it is copied to (`verify`), and each file that
was written is read again and compared. `.copied.json` in a bucket holds the SHA-256 of what was copied there, written
every few seconds, so that a copy that was killed goes on after what it names, and a copy back is compared with it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from casam_cache.errors import OptionError, StoreError
from casam_cache.store.files import TEMPORARY
from casam_cache.store.lock import lock_store
from casam_cache.store.places import FolderPlace, Place, place_of
from casam_cache.store.schema import BESIDE, COMMITS, ROOT, parse_meta
from casam_cache.store.verify import verify

RECORD = ".copied.json"
NOTE_SECONDS = 5.0
Progress = Callable[[int, int, str], None]  # done, in all, and what is done with them
AT_ONCE = 8  # files on their way: a bucket answers late, but many at once
ENDINGS = (".finished.json", ".looks")  # of files beside a store


@dataclass(frozen=True)
class Copied:
    """What a copy did.

    Attributes:
        stores: TASK/BACKBONE.zarr of each, sorted.
        files: that belong to them.
        copied: of these, written now; the others were there.
        bytes: written now.
    """

    stores: tuple[str, ...]
    files: int
    copied: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "stores": list(self.stores)}


def copy_stores(source: str, target: str, progress: Progress | None = None) -> Copied:
    """Copies a store or all stores of a folder; what is there already is left alone.

    Args:
        source: DIR/TASK/BACKBONE.zarr or DIR, a path or an address.
        target: folder of stores to copy into, a path or an address; one of the two is a folder on this machine.
        progress: called with (shards or files done, in all, what is done: "verifying STORE" or "copying").

    Raises:
        OptionError: both are addresses, an address of another kind, or obstore is not installed.
        HeldError: another process is writing into one of the stores.
        StoreError: no store there, damaged, another store of that name at the target, or reading or writing failed.
    """
    root, only = _root(source)
    here, there = place_of(root), place_of(target)
    if not isinstance(here, FolderPlace) and not isinstance(there, FolderPlace):
        raise OptionError(
            f"{source} and {target} are both addresses", "copy to a folder first, and on from there"
        )
    offered = here.files()
    stores = sorted(name.removesuffix("/" + ROOT) for name in offered if _is_root(name))
    stores = [store for store in stores if only in (None, store)]
    if not stores:
        raise StoreError(
            f"there is no store at {source}", "a store is DIR/TASK/BACKBONE.zarr; DIR has all of them"
        )
    names = sorted((name for name in offered if _belongs(name, stores)), key=_order)
    with ExitStack() as stack:
        for place in (here, there):
            if isinstance(place, FolderPlace):
                stack.enter_context(_held(place, stores))
        if isinstance(here, FolderPlace):
            _check(here, stores, "nothing was copied", progress)
        for store in stores:
            _check_same(here, there, store)
        copy = _Copy(here, there, progress)
        copy.run(names)
        if isinstance(there, FolderPlace):
            _check(there, stores, "what was copied is not what was encoded", progress)
    return Copied(tuple(stores), len(names), copy.copied, copy.bytes)


class _Copy:
    def __init__(self, here: Place, there: Place, progress: Progress | None) -> None:
        self.here, self.there, self.progress = here, there, progress
        self.stated, self.known = _recorded(here), _recorded(there)
        self.sizes = there.files()
        self.copied = self.bytes = self.done = 0
        self.noted = time.monotonic()

    def run(self, names: list[str]) -> None:
        """In groups that follow each other, see `_order`; the record is written in any case."""
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for rank in sorted({_order(name)[0] for name in names}):
                    waiting = [pool.submit(self._file, name) for name in names if _order(name)[0] == rank]
                    try:
                        for future in as_completed(waiting):
                            self._count(*future.result(), len(names))
                    except BaseException:
                        pool.shutdown(cancel_futures=True)
                        raise
        finally:
            self._note()

    def _file(self, name: str) -> tuple[str, str, int]:
        """Its SHA-256, and the bytes written."""
        data = self.here.read(name)
        if data is None:
            raise StoreError(
                f"{self.here.name}/{name} was removed while it was copied", "run the same command again"
            )
        sha256 = hashlib.sha256(data).hexdigest()
        if self.stated.get(name, sha256) != sha256:
            raise StoreError(
                f"{self.here.name}/{name} is damaged: its SHA-256 is not the one of when it was copied there",
                "copy it there again from where it came",
            )
        if self.sizes.get(name) == len(data):
            if self.known.get(name) == sha256 and not isinstance(self.there, FolderPlace):
                return name, sha256, 0
            if self.there.read(name) == data:
                return name, sha256, 0
        self.there.write(name, data)
        if self.there.read(name) != data:
            raise StoreError(
                f"{self.there.name}/{name} reads back otherwise than it was written", "run it again"
            )
        return name, sha256, len(data)

    def _count(self, name: str, sha256: str, written: int, total: int) -> None:
        self.known[name] = sha256
        self.done += 1
        self.copied += written > 0
        self.bytes += written
        if self.progress is not None:
            self.progress(self.done, total, "copying")
        if time.monotonic() - self.noted > NOTE_SECONDS:
            self._note()

    def _note(self) -> None:
        if not isinstance(self.there, FolderPlace):  # what is in a folder can be read again
            self.known = {**_recorded(self.there), **self.known}  # another copy may have added to it
            self.there.write(RECORD, (json.dumps(self.known, indent=0, sort_keys=True) + "\n").encode())
        self.noted = time.monotonic()


def _root(source: str) -> tuple[str, str | None]:
    """The folder of stores, and TASK/BACKBONE.zarr where one is named."""
    plain = source.rstrip("/")
    if not plain.endswith(".zarr"):
        return plain, None
    if "://" not in plain:
        path = Path(plain).absolute()
        return str(path.parent.parent), f"{path.parent.name}/{path.name}"
    root, task, name = plain.rsplit("/", 2)
    return root, f"{task}/{name}"


def _is_root(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[1].endswith(".zarr") and parts[2] == ROOT


def _belongs(name: str, stores: list[str]) -> bool:
    parts = name.split("/")
    if parts[-1].startswith(TEMPORARY):
        return False
    if parts[0] == BESIDE:
        return not parts[-1].endswith(".tmp")
    if "/".join(parts[:2]) in stores:
        return True
    beside = (f"{parts[0]}/{parts[-1][1:].removesuffix(end)}.zarr" for end in ENDINGS if name.endswith(end))
    return len(parts) == 2 and any(store in stores for store in beside)


def _order(name: str) -> tuple[int, str]:
    """Data before the records that make them count, the root of a store last: half a copy is not taken for a store."""
    parts = name.split("/")
    return (2 if _is_root(name) else 1 if parts[2:3] == [COMMITS] else 0), name


def _recorded(place: Place) -> dict[str, str]:
    data = place.read(RECORD)
    try:
        return {str(name): str(sha256) for name, sha256 in json.loads(data or b"{}").items()}
    except (ValueError, AttributeError):
        return {}


@contextmanager
def _held(place: FolderPlace, stores: list[str]) -> Iterator[None]:
    """Nothing writes into the stores meanwhile."""
    with ExitStack() as stack:
        for store in stores:
            try:
                stack.enter_context(lock_store(place.path / store))
            except StoreError:  # a disk that cannot be written; where that matters, writing says so
                continue
        yield


def _check(place: FolderPlace, stores: list[str], otherwise: str, progress: Progress | None) -> None:
    for store in stores:
        shown = None if progress is None else partial(_verifying, progress, store)
        report = verify(place.path / store, shown)
        if not report.sound:
            first = report.problems[0]
            more = f", and {len(report.problems) - 1} more" if len(report.problems) > 1 else ""
            raise StoreError(
                f"{place.path / store} is damaged: {first.file}: {first.message}{more}; {otherwise}",
                f"casam store verify {place.path / store} lists all; casam store repair encodes just that again",
            )


def _verifying(progress: Progress, store: str, done: int, total: int) -> None:
    progress(done, total, f"verifying {store}")


def _check_same(here: Place, there: Place, store: str) -> None:
    """What is at the target is an earlier state of the same store, or nothing."""
    found, ours = (place.read(f"{store}/{ROOT}") for place in (there, here))
    if found is None or ours is None:
        return
    theirs, meta = (parse_meta(data, Path(store) / ROOT) for data in (found, ours))
    if theirs.fingerprint != meta.fingerprint or theirs.items > meta.items:
        what = "holds more images" if theirs.fingerprint == meta.fingerprint else "was encoded otherwise"
        raise StoreError(
            f"{there.name}/{store} {what} than {here.name}/{store}; nothing was copied",
            "copy into another folder, or remove the store there",
        )
