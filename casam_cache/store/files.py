"""Files that are whole or absent: checksummed chunks, atomic writes, clear errors when a disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import google_crc32c
import numpy as np

from casam_cache.errors import StoreError

TEMPORARY = ".tmp-"
CHECKSUM_BYTES = 4

_AGAIN = "free some space and run the same command again; what is committed is kept"
_REFUSED = "the same command goes on from here once that is mended, or choose another folder"
_HINTS = {
    errno.ENOSPC: f"the disk is full: {_AGAIN}",
    errno.EDQUOT: f"the disk quota is used up: {_AGAIN}",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write there: choose another folder or change its permissions",
    errno.EPERM: "no permission to write there: choose another folder or change its permissions",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n) or lower --workers",
}


class DamagedError(StoreError):
    """Bytes on disk are not the bytes that were written."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        super().__init__(
            f"{path}: {what}",
            "`casam store verify` lists what is bad in a store, `casam store repair` encodes just that again",
        )


@contextmanager
def disk_errors(path: Path, doing: str = "cannot write") -> Iterator[None]:
    """Turn an `OSError` raised inside into a `StoreError` that names the path and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{path}: {doing}: {reason}", _HINTS.get(error.errno or 0, _REFUSED)) from error


def checksum(*parts: bytes | np.ndarray) -> int:
    """CRC32C of the concatenated parts (C-contiguous arrays count as their bytes)."""
    value = 0
    for part in parts:
        value = google_crc32c.extend(
            value, part if isinstance(part, bytes) else part.reshape(-1).view(np.uint8)
        )
    return value


def seal(array: np.ndarray) -> bytes:
    """A chunk as the codecs bytes(little) + crc32c write it: little-endian bytes, then their CRC32C."""
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")


def unseal(data: bytes, dtype: np.dtype, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """The read-only array in a sealed chunk.

    Raises:
        DamagedError: where length or checksum differ from what was written.
    """
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if len(data) != size + CHECKSUM_BYTES:
        raise DamagedError(path, f"has {len(data)} bytes instead of {size + CHECKSUM_BYTES}")
    if checksum(data[:size]) != int.from_bytes(data[size:], "little"):
        raise DamagedError(path, "its checksum differs")
    return np.frombuffer(data, dtype.newbyteorder("<"), count=size // dtype.itemsize).reshape(shape)


def read_chunk(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray | None:
    """One sealed chunk file, or None where there is none.

    Raises:
        DamagedError: where its bytes are not those that were written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return unseal(data, dtype, shape, path)


def make_directory(path: Path) -> None:
    """Create a folder (and its parents) so that it survives a power cut."""
    if path.is_dir():
        return
    with disk_errors(path, "cannot create the folder"):
        if not path.parent.is_dir():
            make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside a folder durable (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(files: Iterable[tuple[Path, Sequence[bytes]]]) -> None:
    """Replace several files, each given as the parts of its content.

    Each is written and fsynced under a temporary name first, then all are renamed, then their folders
    fsynced. Each file is old or new, never torn; after the call all are on disk.

    Raises:
        StoreError: where the disk is full or read-only; nothing is replaced then, or some whole files are.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, parts in files:
            temporary = path.with_name(TEMPORARY + path.name)
            with disk_errors(path):
                staged.append((temporary, path))
                _write_synced(temporary, parts)
        for temporary, path in staged:
            with disk_errors(path):
                os.replace(temporary, path)
        for folder in dict.fromkeys(path.parent for _, path in staged):
            with disk_errors(folder):
                sync_directory(folder)
    except BaseException:
        for temporary, _ in staged:
            with suppress(OSError):  # on a read-only disk even what is not there cannot be removed
                temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes) -> None:
    """Replace one file atomically and durably, see `write_all`."""
    write_all([(path, [data])])


def _write_synced(path: Path, parts: Sequence[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(root: Path) -> None:
    """Delete what a killed writer left half-written under `root` (the caller holds the store's lock)."""
    with disk_errors(root, "cannot clean up"):
        for folder, folders, names in os.walk(root, topdown=False):
            for name in names:
                if name.startswith(TEMPORARY):
                    os.unlink(os.path.join(folder, name))
            for name in folders:
                if name.startswith(TEMPORARY):
                    _remove_tree(Path(folder) / name)


def _remove_tree(path: Path) -> None:
    for folder, folders, names in os.walk(path, topdown=False):
        for name in names:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    os.rmdir(path)


def remove_tree(path: Path) -> None:
    """Deletes durably; a folder that is not there is no error."""
    with disk_errors(path, "cannot delete"):
        if path.exists():
            _remove_tree(path)
            sync_directory(path.parent)
