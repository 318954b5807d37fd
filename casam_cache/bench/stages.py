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
        if self.exists(stage):
            return self.folder(stage), False
        with self._disk_errors(), self._lock(stage):
            if self.exists(stage):  # another process finished it while we waited
                return self.folder(stage), False
            partial = self.root / "partial" / f"{stage.kind}-{stage.key}"
            result, checkpoints = partial / "result", partial / "checkpoints"
            shutil.rmtree(result, ignore_errors=True)
            result.mkdir(parents=True)
            checkpoints.mkdir(exist_ok=True)
            start = time.monotonic()
            recorded = compute(result, checkpoints) or {}
            self._record(stage, result, {**recorded, "seconds": round(time.monotonic() - start, 3)})
            final = self.folder(stage)
            final.parent.mkdir(parents=True, exist_ok=True)
            result.rename(final)
            _sync(final.parent)
            shutil.rmtree(partial)
        return self.folder(stage), True

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

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """A full or read-only disk is one message; what is finished, and the last checkpoint, stay."""
        try:
            yield
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise CasamError(
                f"cannot write to the runs folder {self.root}: {error.strerror or error}{where}",
                "make room or choose another folder with --runs DIR; the same command goes on from here",
            ) from error

    def _record(self, stage: Stage, result: Path, recorded: dict[str, Any]) -> None:
        record = {
            "kind": stage.kind,
            "key": stage.key,
            "revision": stage.revision,
            "inputs": stage.inputs,
            "recorded": {**recorded, **_versions()},
        }
        (result / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        for file in result.iterdir():
            _sync(file)
        _sync(result)

    @contextmanager
    def _lock(self, stage: Stage) -> Iterator[None]:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{stage.kind}-{stage.key}").open("a") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            except (
                ImportError
            ):  # no flock on this system: two processes may then compute a stage twice, never wrongly
                pass
            yield


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
