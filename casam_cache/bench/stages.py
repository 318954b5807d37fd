"""One folder a computation, named by the hash of everything that decides its result.

    runs/KIND/KEY/            a finished stage: record.json and its files; appears by one atomic rename
    runs/partial/KIND-KEY/    checkpoints of a stage that is not finished; gone once it is
    runs/locks/KIND-KEY       held while a process works on the stage, so that two never do it twice

Device, versions and seconds are recorded, not hashed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest

KEY_DIGITS = 20
RECORD = "record.json"


@dataclass(frozen=True)
class Stage:
    """A computation and everything its result depends on.

    Attributes:
        kind: what is computed, e.g. "fit"; also the folder's name.
        revision: of the code that computes it; raised when the same inputs would give another result.
        inputs: plain JSON: configuration, numeric mode, backbone fingerprint, item hashes, parents' keys, seed.
    """

    kind: str
    revision: int
    inputs: dict[str, Any]

    @property
    def key(self) -> str:
        """The hash that names the stage."""
        return digest([self.kind, self.revision, self.inputs])[:KEY_DIGITS]


class Runs:
    """A folder of stages.

    Args:
        root: the runs folder; made when the first stage is computed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: Stage) -> Path:
        """Where the finished stage is, or will be."""
        return self.root / stage.kind / stage.key

    def exists(self, stage: Stage) -> bool:
        """Whether the stage is finished."""
        return (self.folder(stage) / RECORD).is_file()

    def obtain(
        self, stage: Stage, compute: Callable[[Path, Path], dict[str, Any] | None]
    ) -> tuple[Path, bool]:
        """The stage's folder, computed now if it is not there.

        Args:
            stage: what to compute.
            compute: called with (result, checkpoints): an empty folder for the stage's files, and one that survives
                interruptions until the stage is finished. What it returns is recorded beside device and versions.

        Returns:
            The folder, and whether it was computed now.

        Raises:
            CasamError: the disk is full or read-only.
        """
        with self.claim(stage) as claim:
            if claim is None:
                return self.folder(stage), False
            claim.finish(compute(claim.result, claim.checkpoints))
        return self.folder(stage), True

    @contextmanager
    def claim(self, stage: Stage, *, wait: bool = True) -> Iterator[Claim | None]:
        """The right to compute a stage, until the block ends; None if there is nothing to do.

        That is, if the stage is finished, or, without `wait`, if another process is computing it now. A block that
        ends without `finish` leaves its checkpoints for the next one.

        Raises:
            CasamError: the disk is full or read-only.
        """
        if self.exists(stage):
            yield None
            return
        with self._disk_errors(), self._lock(stage, wait) as held:
            if not held or self.exists(stage):  # finished by another process while we waited
                yield None
                return
            yield Claim(self, stage)

    def record(self, folder: Path) -> dict[str, Any]:
        """The record of a finished stage's folder.

        Raises:
            CasamError: if the folder is not a finished stage.
        """
        try:
            record: dict[str, Any] = json.loads((folder / RECORD).read_text())
        except (OSError, ValueError) as error:
            raise CasamError(
                f"{folder} is not a finished run: {error}",
                "name a folder that `casam fit` printed as its run",
            ) from None
        return record

    def sweep(self) -> None:
        """Removes checkpoints of finished stages: what a kill between publishing and clearing up leaves."""
        for left in (self.root / "partial").glob("*"):
            kind, _, key = left.name.rpartition("-")
            if (self.root / kind / key / RECORD).is_file():
                shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """A file that cannot be read or written is one message; what is finished, and the last checkpoint, stay."""
        try:
            yield
        except OSError as error:
            named = error.filename if isinstance(error.filename, str | os.PathLike) else None
            if named is not None and not Path(named).resolve().is_relative_to(self.root.resolve()):
                raise CasamError(
                    f"a stage cannot use {os.fspath(named)}: {error.strerror or error}",
                    "mend it (casam store verify STORE checks a store); the same command goes on from here",
                ) from error
            where = f" ({error.filename})" if error.filename else ""
            raise CasamError(
                f"cannot write to the runs folder {self.root}: {error.strerror or error}{where}",
                "make room or choose another folder with --runs DIR; the same command goes on from here",
            ) from error

    @contextmanager
    def _lock(self, stage: Stage, wait: bool) -> Iterator[bool]:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{stage.kind}-{stage.key}").open("a") as file:
            try:
                import fcntl
            except ImportError:  # no flock here: two processes may then compute a stage twice, never wrongly
                yield True
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


class Claim:
    """A stage that this process computes now.

    Attributes:
        result: an empty folder for the stage's files.
        checkpoints: a folder that survives interruptions until the stage is finished.
    """

    def __init__(self, runs: Runs, stage: Stage) -> None:
        self._final, self._stage = runs.folder(stage), stage
        self._partial = runs.root / "partial" / f"{stage.kind}-{stage.key}"
        self.result, self.checkpoints = self._partial / "result", self._partial / "checkpoints"
        shutil.rmtree(self.result, ignore_errors=True)
        self.result.mkdir(parents=True)
        self.checkpoints.mkdir(exist_ok=True)
        self._began = time.monotonic()

    def finish(self, recorded: dict[str, Any] | None = None) -> None:
        """Publishes the result by one rename; `recorded` is kept beside device, versions and seconds."""
        stage = self._stage
        seconds = round(time.monotonic() - self._began, 3)
        record = {
            "kind": stage.kind,
            "key": stage.key,
            "revision": stage.revision,
            "inputs": stage.inputs,
            "recorded": {"seconds": seconds, **(recorded or {}), **_versions()},
        }
        (self.result / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        for path in self.result.rglob("*"):
            _sync(path)
        _sync(self.result)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self.result.rename(self._final)
        _sync(self._final.parent)
        shutil.rmtree(self._partial, ignore_errors=True)  # another process may be sweeping


@lru_cache(maxsize=1)
def _versions() -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("casam-cache", "torch", "numpy", "segment-anything", "zarr")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
