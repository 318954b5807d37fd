"""One process at a time, on disks with flock, without it, and read-only."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from casam_cache.errors import HeldError, StoreError
from casam_cache.locks import Lock
from casam_cache.store.lock import lock_store

fcntl = pytest.importorskip("fcntl")

PRELUDE = """
import errno, fcntl, os, pathlib, sys, time
def refuse(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
if sys.argv[2] == "without":
    fcntl.flock = refuse
from casam_cache.locks import Lock
"""
HOLD = """
with Lock(pathlib.Path(sys.argv[1]), "is at it"):
    if os.fork() == 0:
        time.sleep(30)  # a worker that outlives whoever held the lock
    print(os.getpid(), flush=True)
    time.sleep(30)
"""
WAIT = "Lock(pathlib.Path(sys.argv[1]), 'is at it', wait=True).release()"


@pytest.fixture(params=["with", "without"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if request.param == "without":
        monkeypatch.setattr(fcntl, "flock", refuse)
    return str(request.param)


def test_a_killed_holder_holds_nothing(tmp_path: Path, flock: str) -> None:
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + HOLD, str(path), flock],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        with pytest.raises(HeldError, match=f"process {pid} on {socket.gethostname()} is at it"):
            Lock(path, "is at it")
        process.send_signal(signal.SIGKILL)
        process.wait()
        Lock(path, "is at it", wait=True).release()
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the worker
        process.communicate()
    assert not list(tmp_path.iterdir())


def test_a_holder_on_another_host_is_believed(tmp_path: Path, flock: str) -> None:
    if flock == "with":
        pytest.skip("flock itself knows")
    marker = tmp_path / "lock.held"
    marker.write_text("123\nelsewhere\n")
    with pytest.raises(HeldError, match=r"process 123 on elsewhere(.|\n)*remove .*lock\.held"):
        Lock(tmp_path / "lock", "is at it")
    marker.unlink()
    Lock(tmp_path / "lock", "is at it").release()


def test_who_waits_gets_it(tmp_path: Path, flock: str) -> None:
    """Though the file that it waits on is removed before it is unlocked."""
    path = tmp_path / "lock"
    with Lock(path, "is at it") as held:
        process = subprocess.Popen([sys.executable, "-c", PRELUDE + WAIT, str(path), flock])
        time.sleep(0.5)
        assert process.poll() is None
        held.release()
        held.release()
    assert process.wait(20) == 0


def test_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match="read-only"):
        lock_store(tmp_path / "x.zarr")
