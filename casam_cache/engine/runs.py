"""One folder a computation, named by the hash of everything that decides its result.

    runs/KIND/KEY/            a finished stage: record.json and its files; appears by one atomic rename
    runs/partial/KIND-KEY/    checkpoints of a stage that is not finished; gone once it is
    runs/locks/KIND-KEY       held while a process works on the stage, so that two never do it twice

The record holds the SHA-256 of each file, of itself, of the code that computed it and of the results it was computed
from, so that nothing that was damaged, swapped or outdated passes as a result. Device, versions and seconds are
recorded, not hashed.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from casam_cache.engine.code import code_of, other_modules
from casam_cache.engine.stage import Stage, Work
from casam_cache.errors import CasamError, HeldError
from casam_cache.fingerprint import digest, digest_file, finite_json
from casam_cache.locks import MARKER, Lock

RECORD = "record.json"
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
Changed = Literal["stop", "recompute", "keep"]  # what to do about stages that other code computed
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_KEY = re.compile(r"[0-9a-f]{20}")
_APART = ("partial", "locks", "bench", "used", "search")


def _silent(line: str) -> None:
    """For programs that show nothing."""


@dataclass(frozen=True)
class Record:
    """What is known of a finished stage.

    Attributes:
        kind, key, revision, inputs: what it is.
        parents: of each stage it was computed from, the key and what its files were.
        code: digest of each module that decided it.
        files: SHA-256 of each file.
        recorded: facts that decide nothing: device, versions, seconds, sizes.
    """

    kind: str
    key: str
    revision: int
    inputs: dict[str, Any]
    parents: dict[str, str]
    code: dict[str, str]
    files: dict[str, str]
    recorded: dict[str, Any]

    @cached_property
    def content(self) -> str:
        """Names what the stage's files hold."""
        return digest(self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with a digest over all of it."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**data, "digest": digest(data)}


class DamagedError(CasamError):
    """A stage's folder is there, but is not what its record says."""


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

    def find(self, stage: Stage) -> Record | None:
        """The record of a finished stage, every file of which was verified in this process; None if there is none.

        Raises:
            DamagedError: the folder is there, but damaged.
        """
        folder = self.folder(stage)
        return read_record(folder) if os.path.lexists(folder) else None

    def open(self, stage: Stage) -> Path:
        """The verified folder of a finished stage, to read its files.

        Raises:
            CasamError: it is not finished, or damaged.
        """
        record = self.find(stage)
        if record is None:
            raise CasamError(
                f"the stage {stage.name} is not in {self.root}", "run the command again: it computes it"
            )
        return self.folder(stage)

    def recorded(self, stage: Stage) -> dict[str, Any]:
        """The facts that were recorded beside a finished stage; empty where there is none."""
        record = self.find(stage)
        return {} if record is None else record.recorded

    def parents_changed(
        self, stage: Stage, record: Record, find: Callable[[Stage], Record | None] | None = None
    ) -> bool:
        """Whether a stage was computed from other results than those that are there now.

        A parent that is no longer there, or is damaged, says nothing. `find` is for who has looked already.
        """
        for parent in stage.parents:
            try:
                found = (find or self.find)(parent)
            except DamagedError:
                continue
            if found is not None and record.parents.get(parent.name) != found.content:
                return True
        return False

    def valid(self, stage: Stage, changed: Changed) -> bool:
        """Whether a stage need not be computed."""
        try:
            record = self.find(stage)
        except DamagedError:
            return False
        if record is None or self.parents_changed(stage, record):
            return False
        return changed != "recompute" or not other_modules(record.code)

    @contextmanager
    def claim(
        self,
        stage: Stage,
        *,
        changed: Changed = "keep",
        wait: bool = True,
        say: Callable[[str], None] = _silent,
    ) -> Iterator[Claim | None]:
        """The right to compute a stage, until the block ends; None if there is nothing to do.

        That is, if the stage is finished, or, without `wait`, if another process is computing it now. A block that
        ends without `finish` leaves its checkpoints for the next one.

        Raises:
            CasamError: the disk is full or read-only.
        """
        if self.valid(stage, changed):
            yield None
            return
        with self.disk_errors(), self._lock(stage, wait) as held:
            if not held or self.valid(stage, changed):  # finished by another process while we waited
                yield None
                return
            yield Claim(self, stage, say)

    def stages(self) -> Iterator[Path]:
        """The folder of every stage, finished or damaged, sorted by kind and key."""
        for kind in sorted(self.root.glob("*")):
            if kind.is_dir() and kind.name not in _APART and _NAME.fullmatch(kind.name):
                yield from sorted(path for path in kind.iterdir() if _KEY.fullmatch(path.name))

    def busy(self) -> list[str]:
        """Stages that some process computes now, as KIND-KEY."""
        found = []
        for path in sorted((self.root / "locks").glob("*")):
            if path.suffix != MARKER:
                try:
                    Lock(path, "is computing it").release()
                except HeldError:
                    found.append(path.name)
        return found

    def sweep(self) -> None:
        """Removes checkpoints of finished stages: what a kill between publishing and clearing up leaves."""
        for left in (self.root / "partial").glob("*"):
            kind, _, key = left.name.rpartition("-")
            if not (left / "result").exists() and (self.root / kind / key / RECORD).is_file():
                shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
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
            room = "" if error.errno in READ_ONLY else "make room or "
            raise CasamError(
                f"cannot write to the runs folder {self.root}: {error.strerror or error}{where}",
                f"{room}choose another folder with --runs DIR; the same command goes on from here",
            ) from error

    @contextmanager
    def where_writable(self) -> Iterator[None]:
        """As `disk_errors`, for what a finished command leaves for others: not in a folder that can only be read."""
        with self.disk_errors():
            try:
                yield
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise

    @contextmanager
    def _lock(self, stage: Stage, wait: bool) -> Iterator[bool]:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(folder / f"{stage.kind}-{stage.key}", f"is computing {stage.label}", wait=wait)
        except HeldError:
            yield False
            return
        with lock:
            yield True


class Claim:
    """A stage that this process computes now.

    Attributes:
        result: an empty folder for the stage's files.
    """

    def __init__(self, runs: Runs, stage: Stage, say: Callable[[str], None]) -> None:
        self._runs, self._stage, self._say = runs, stage, say
        self._final = runs.folder(stage)
        self._partial = runs.root / "partial" / f"{stage.kind}-{stage.key}"
        self.result = self._partial / "result"
        shutil.rmtree(self.result, ignore_errors=True)
        self.result.mkdir(parents=True)
        self._began = time.monotonic()
        self._from = self._parents()

    def checkpoints(self, used: set[type]) -> Path:
        """A folder that survives interruptions; what other code, or other parents, began there is not gone on with."""
        folder, note = self._partial / "checkpoints", self._partial / "begun_by.json"
        begun_by = {"code": code_of(self._roots(used)), "parents": self._from}
        try:
            same = json.loads(note.read_text()) == begun_by
        except (OSError, ValueError):
            same = False
        if not same:
            if any(folder.glob("*")):
                self._say(f"{self._stage.label}: begun by other code or from other results, it begins anew")
            shutil.rmtree(folder, ignore_errors=True)
            note.write_text(json.dumps(begun_by))
        folder.mkdir(exist_ok=True)
        return folder

    def _roots(self, used: set[type]) -> list[str]:
        return [type(self._stage).__module__, *(cls.__module__ for cls in used)]

    def _parents(self) -> dict[str, str]:
        found = {parent.name: self._runs.find(parent) for parent in self._stage.parents}
        return {name: record.content for name, record in found.items() if record is not None}

    def finish(self, facts: dict[str, Any], work: Work) -> None:
        """Publishes the result by one rename, in the place of one that is damaged or outdated.

        Raises:
            CasamError: a stage that it was computed from has become another one meanwhile.
        """
        if self._parents() != self._from:
            raise CasamError(
                f"what {self._stage.name} is computed from was replaced meanwhile by another process",
                "run the command again: it goes on from here",
            )
        stage, seconds = self._stage, round(time.monotonic() - self._began, 3)
        record = Record(
            stage.kind,
            stage.key,
            stage.revision,
            finite_json(stage.inputs),
            self._from,
            code_of(self._roots(work.used)),
            {path.relative_to(self.result).as_posix(): digest_file(path) for path in _files(self.result)},
            finite_json({"seconds": seconds, **facts, **_versions()}),
        )
        (self.result / RECORD).write_text(json.dumps(record.to_json(), indent=1, sort_keys=True) + "\n")
        for path in self.result.rglob("*"):
            _sync(path)
        _sync(self.result)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        if self._final.exists():
            replaced = self._partial / "replaced"
            shutil.rmtree(replaced, ignore_errors=True)
            self._final.rename(replaced)
        self.result.rename(self._final)
        _sync(self._final.parent)
        shutil.rmtree(self._partial, ignore_errors=True)  # another process may be sweeping


def read_record(folder: Path, *, verify: bool = True) -> Record:
    """The record of a stage's folder.

    Args:
        folder: RUNS/KIND/KEY.
        verify: read every file too, unless this process has and the file has not been touched since.

    Raises:
        DamagedError: it is not a finished stage, or one of its files is missing or not what it was.
    """
    again = "the command that made it computes it again"
    try:
        facts = os.stat(f"{folder}/{RECORD}")
        record = _parsed(f"{folder}/{RECORD}", facts.st_size, facts.st_mtime_ns, facts.st_ino)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, NotADirectoryError):
            raise DamagedError(f"{folder} is not a folder", again) from None
        what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise DamagedError(f"{folder} is not a finished stage: {RECORD} {what}", again) from None
    if (record.kind, record.key) != (folder.parent.name, folder.name):
        raise DamagedError(f"{folder} holds another stage, {record.kind}/{record.key}", again)
    for name, sha256 in record.files.items() if verify else ():
        path = f"{folder}/{name}"
        try:
            facts = os.lstat(path)
            found = _sha256(path, str(folder), facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino)
        except OSError as error:
            what = (
                "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            )
            raise DamagedError(f"{folder}: {name} {what}", again) from None
        if found != sha256:
            raise DamagedError(f"{folder}: {name} is damaged, it is not what was written", again)
    return record


def stage_folder(root: Path, name: str) -> Path:
    """The verified folder of KIND/KEY, a name that a file says and that never leads out of the runs folder.

    Raises:
        DamagedError: it is no such name, or the stage is missing or damaged.
    """
    kind, _, key = name.partition("/")
    if not (_NAME.fullmatch(kind) and _KEY.fullmatch(key)) or kind in _APART:
        raise DamagedError(f"'{name}' is not the name of a stage", "run the command that made it again")
    folder = root / kind / key
    read_record(folder)
    return folder


@lru_cache(maxsize=1 << 14)
def _parsed(path: str, size: int, modified: int, inode: int) -> Record:
    data = json.loads(Path(path).read_text())
    stated = data.pop("digest")
    if digest(data) != stated:
        raise ValueError("its digest is another one")
    record = Record(**data)
    for name, value in vars(record).items():
        if type(value) is not (int if name == "revision" else str if name in ("kind", "key") else dict):
            raise ValueError(f"{name} is not what it should be")
    if not all(map(_lies_inside, record.files)):
        raise ValueError("it names files outside of its folder")
    return record


def _lies_inside(name: str) -> bool:
    """Whether a file's name leads nowhere but into its folder. What it is there is asked of the file itself."""
    return "\0" not in name and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


@lru_cache(maxsize=1 << 16)
def _sha256(path: str, folder: str, mode: int, size: int, modified: int, inode: int) -> str:
    """Of a plain file whose way from its folder on passes no link; else no digest."""
    inside = path[len(folder) :]
    linked = inside.count("/") > 1 and os.path.realpath(path) != os.path.realpath(folder) + inside
    if not stat.S_ISREG(mode) or linked:
        return ""
    return digest_file(Path(path))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
