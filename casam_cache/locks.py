"""One process at a time: a lock on a file, which ends with the process that holds it, however that ends.

`filelock` does the work: `flock`, on Windows its counterpart. A file system without them gets a soft lock: a marker
beside the file, there while the lock is held; one that a killed process left is recognised by its pid on the same host.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from casam_cache.errors import HeldError

MARKER = ".held"  # ends the name of a soft lock's marker
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Lock:
    """The right to work on something, from when it is made to `release`.

    Args:
        path: the file that is locked; it names the holder, and is gone after `release`. Its folder exists.
        what: what the holder does, for the message, e.g. "is writing into store.zarr".
        wait: wait until it is free.

    Raises:
        HeldError: another process holds it; the message names that process, its host, and what to do.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, what: str, *, wait: bool = False) -> None:
        self.path = path
        try:
            self._lock = _taken(path, wait)
        except Timeout:
            holder = _holder(path)
            beyond = (
                f"; if that process no longer runs, remove {_marker(path)}" if _marker(path).exists() else ""
            )
            raise HeldError(
                f"{holder or 'another process'} {what}",
                f"wait for it (or stop it), then run the same command again; nothing was changed{beyond}",
            ) from None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back and removes its file; a second call, and one in a forked child, does nothing."""
        if not self._lock.is_locked:
            return
        if os.name == "nt":  # an open file cannot be removed there
            self._lock.release()
            self.path.unlink(missing_ok=True)
        else:  # who waits for the removed file notices, and makes a new one
            self.path.unlink(missing_ok=True)
            self._lock.release()


def _taken(path: Path, wait: bool) -> BaseFileLock:
    timeout = -1 if wait else 0
    lock: BaseFileLock = FileLock(path, timeout, mode=0o666, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _UNSUPPORTED:
            raise
        lock = SoftFileLock(_marker(path), timeout, thread_local=False)
        lock.acquire()
        return lock
    if os.name != "nt":  # a locked file has one writer there
        try:
            path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        except OSError:
            lock.release()
            raise
    return lock


def _marker(path: Path) -> Path:
    return path.with_name(path.name + MARKER)


def _holder(path: Path) -> str:
    """As the file, or the marker, names it; both begin with lines of pid and host."""
    for file in (_marker(path), path):
        try:
            pid, host = file.read_text().splitlines()[:2]
        except (OSError, ValueError):
            continue
        return f"process {pid} on {host}"
    return ""
