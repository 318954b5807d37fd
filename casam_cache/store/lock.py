"""One writer a store: an exclusive lock on a file beside it, released by the system when the process ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import weakref
from pathlib import Path

from casam_cache.errors import StoreError
from casam_cache.store.files import disk_errors, make_directory

_held: weakref.WeakSet[StoreLock] = weakref.WeakSet()
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class StoreLock:
    """The right to write into one store, held until `release`.

    Uses `flock`; on Windows `msvcrt.locking`; on file systems without locks the process that the file names
    counts as the owner while it runs (or may run, being on another host).

    Args:
        store: path of the store; the lock file is `.NAME.lock` beside it.

    Raises:
        StoreError: where another process holds it, naming that process and its host.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.parent / f".{store.name.removesuffix('.zarr')}.lock"
        self._descriptor: int | None = None
        make_directory(store.parent)
        with disk_errors(self.path, "cannot lock the store"):
            while not self._acquire(store):
                pass
        _held.add(self)

    def _acquire(self, store: Path) -> bool:
        """Lock the file at the path; False where it was replaced meanwhile and must be tried again."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(descriptor)
            if locked is None:
                locked = self._owner_is_gone()
            if not locked:
                raise self._refusal(store)
            if not self._is_current(descriptor):
                os.close(descriptor)
                return False
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _owner(self) -> dict[str, object]:
        try:
            owner = json.loads(self.path.read_bytes() or b"{}")
        except (OSError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _owner_is_gone(self) -> bool:
        owner = self._owner()
        if not owner:
            return True
        pid = owner.get("pid")
        if owner.get("host") != socket.gethostname() or not isinstance(pid, int):
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def _refusal(self, store: Path) -> StoreError:
        owner = self._owner()
        who = f"process {owner['pid']} on {owner.get('host')}" if "pid" in owner else "another process"
        return StoreError(
            f"{store}: {who} is writing into this store",
            "wait until it has finished (or stop it), then run the same command again; nothing was changed",
        )

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back and removes its file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if os.name == "nt":  # an open file cannot be removed there
            os.close(descriptor)
            self.path.unlink(missing_ok=True)
        else:
            self.path.unlink(missing_ok=True)
            os.close(descriptor)

    def forget(self) -> None:
        """In a forked child: let go of the parent's lock without releasing it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether this process got the lock; None where the file system has none."""
    if os.name == "nt":
        import msvcrt

        try:
            os.lseek(descriptor, 2**30, os.SEEK_SET)  # beyond the content, which others may read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):  # else workers that outlive a killed encoder would keep its store locked
    os.register_at_fork(after_in_child=_forget_all)
