"""Reading a whole store back: every byte of every file is checked against what must be there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.fingerprint import digest_arrays
from casam_cache.store.annotations import (
    FOLDER,
    VERSION_DIGITS,
    current_version,
    read_version,
    version_documents,
)
from casam_cache.store.check import ANNOTATIONS, METADATA, TABLE, UNKNOWN, Fault, check_shard, relative
from casam_cache.store.files import TEMPORARY, DamagedError, read_chunk
from casam_cache.store.flat import ChunkedReader, FlatSpec
from casam_cache.store.items import OFFSETS, VALUES, read_items
from casam_cache.store.schema import (
    ITEM_TABLES,
    MIRROR,
    OFFSETS_CHUNK,
    ROOT,
    SIDE_ARRAYS,
    TEXTS,
    VALUES_CHUNK,
    StoreMeta,
    chunk_name,
    documents,
    parse_meta,
    read_meta,
)

ShardsDone = Callable[[int, int], None]
"""Called with (shards read, shards in all)."""


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        path: the store.
        meta: its root attributes (from the mirror where the root itself is damaged).
        committed: items done of each feature array (companions not named), as far as the records can be read.
        problems: everything damaged.
        unfinished: what an interrupted run left, relative paths; not damage: the next run takes care of it.
    """

    path: Path
    meta: StoreMeta
    committed: dict[str, int]
    problems: tuple[Fault, ...]
    unfinished: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.problems

    @property
    def complete(self) -> bool:
        return all(count == self.meta.items for count in self.committed.values())

    @cached_property
    def ids(self) -> list[str]:
        """Ids of all items; their numbers where the table of items is lost."""
        try:
            return read_items(self.path, self.meta, "id")
        except DamagedError:
            return [f"#{index}" for index in range(self.meta.items)]

    def to_json(self) -> dict[str, Any]:
        """Plain data: {"items", "bad": [{"file", "kind", "message", "items"}], "committed", "unfinished"}."""
        bad = [
            {"file": p.file, "kind": p.kind, "message": p.message, "items": [self.ids[i] for i in p.items]}
            for p in self.problems
        ]
        unfinished = list(self.unfinished)
        return {"items": self.meta.items, "bad": bad, "committed": self.committed, "unfinished": unfinished}

    def describe(self) -> list[str]:
        lines = []
        for problem in self.problems:
            names = [self.ids[item] for item in problem.items[:5]]
            more = f" and {len(problem.items) - 5} more" if len(problem.items) > 5 else ""
            lines.append(
                f"{problem.file}: {problem.message}" + (f": {', '.join(names)}{more}" if names else "")
            )
        for name, count in self.committed.items():
            if count < self.meta.items:
                lines.append(
                    f"{name}: {count} of {self.meta.items} images encoded; `casam encode` goes on from there"
                )
        if self.unfinished:
            lines.append(
                f"{len(self.unfinished)} files of an interrupted run; `casam encode` takes care of them"
            )
        whole = "sound" if self.sound else f"{len(self.problems)} problems; `casam store repair` mends them"
        return [*lines, f"{self.path}: {self.meta.items} items, {whole}"]


def recover_meta(path: Path) -> tuple[StoreMeta, bool]:
    """The root attributes, from the mirror where the root is damaged; and whether the root itself was good.

    Raises:
        StoreError: where both are gone, or the store has another format.
    """
    try:
        return read_meta(path), True
    except StoreError as error:
        try:
            return parse_meta((path / MIRROR).read_bytes(), path / MIRROR), False
        except (OSError, StoreError):
            raise error from None


def verify(path: Path, progress: ShardsDone | None = None) -> Report:
    """Read a store back and compare everything with its checksums or with what it follows from.

    Args:
        path: DIR/TASK/BACKBONE.zarr.
        progress: called with (shards done, shards).

    Raises:
        StoreError: where there is no store, it has another format, or both copies of its root are lost.
    """
    path = Path(path)
    meta, _ = recover_meta(path)
    check = _Check(path, meta)
    problems = [*check.metadata(), *check.tables()]
    committed = dict.fromkeys(meta.features, 0)
    for shard in range(meta.shards):
        found, counts = check_shard(path, meta, shard, check.unfinished)
        problems += found
        for name, count in counts.items():
            committed[name] += count
        if progress is not None:
            progress(shard + 1, meta.shards)
    problems += check.annotations()
    problems += check.others()
    return Report(path, meta, committed, tuple(problems), tuple(check.unfinished))


class _Check:
    """Everything of a store that is not one of its shards."""

    def __init__(self, path: Path, meta: StoreMeta) -> None:
        self.path = path
        self.meta = meta
        self.unfinished: list[str] = []
        self.known: set[str] = set()

    def metadata(self) -> Iterator[Fault]:
        """Every metadata file must be what the root attributes make it, byte for byte.

        A run killed while it changed them leaves some as the mirror, which is written last, makes them.
        """
        now = documents(self.meta)
        before: dict[str, bytes] = {}
        created = False
        try:
            mirrored = (self.path / MIRROR).read_bytes()
            if mirrored != now[MIRROR]:
                before = documents(parse_meta(mirrored, self.path / MIRROR))
        except FileNotFoundError:
            created = not self.meta.segments
        except StoreError:
            pass
        for file, data in now.items():
            self.known.add(file)
            path = self.path / file
            found = path.read_bytes() if path.exists() else None
            if found == data:
                continue
            if (before or (created and found is None)) and found == before.get(file):
                self.unfinished.append(file)
            else:
                what = "is missing" if found is None else "is not what the root attributes make it"
                yield Fault(file, METADATA, what)

    def tables(self) -> Iterator[Fault]:
        """Both copies of the table of items: checksums, and that they agree."""
        for text in TEXTS:
            sizes: dict[str, tuple[np.dtype, int, int]] = {
                f"{text}_values": (VALUES, VALUES_CHUNK, self.meta.text_bytes[text]),
                f"{text}_offsets": (OFFSETS, OFFSETS_CHUNK, self.meta.items + 1 if self.meta.items else 0),
            }
            for name, (dtype, chunk, length) in sizes.items():
                for index in range(-(-length // chunk)):
                    yield from self._copies(name, dtype, chunk, length, index)
                self._planned_only(name, -(-length // chunk))

    def _planned_only(self, name: str, index: int) -> None:
        """Chunks of items that a killed run was about to plan."""
        for table in ITEM_TABLES:
            following = index
            while (self.path / (file := f"{table}/{name}/{chunk_name(following)}")).exists():
                self.known.add(file)
                self.unfinished.append(file)
                following += 1

    def _copies(self, name: str, dtype: np.dtype, chunk: int, length: int, index: int) -> Iterator[Fault]:
        copies = []
        for table in ITEM_TABLES:
            file = f"{table}/{name}/{chunk_name(index)}"
            self.known.add(file)
            try:
                found = read_chunk(self.path / file, dtype, (chunk,))
            except DamagedError as error:
                yield Fault(file, TABLE, error.what)
                continue
            if found is None:
                yield Fault(file, TABLE, "is missing")
                continue
            if found[max(0, length - index * chunk) :].any():
                self.unfinished.append(file)
            copies.append(found[: length - index * chunk].tobytes())
        if len(set(copies)) > 1:
            yield Fault(f"{ITEM_TABLES[0]}/{name}/{chunk_name(index)}", TABLE, "differs from its mirror")

    def annotations(self) -> Iterator[Fault]:
        """The pointer and every version, down to the digest of each array."""
        root = self.path / FOLDER
        if not root.is_dir():
            return
        versions = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        versions = [version for version in versions if not version.startswith(TEMPORARY)]
        pointer = f"{FOLDER}/{ROOT}"
        self.known.add(pointer)
        try:
            current = current_version(self.path)
            if current is not None and current not in versions:
                yield Fault(pointer, ANNOTATIONS, f"version {current} is missing")
            if not (root / ROOT).exists() and versions:
                yield Fault(pointer, ANNOTATIONS, "is missing")
        except DamagedError as error:
            yield Fault(pointer, ANNOTATIONS, error.what)
        for version in versions:
            if len(version) == VERSION_DIGITS:
                yield from self._version(version)

    def _version(self, version: str) -> Iterator[Fault]:
        folder = f"{FOLDER}/{version}"
        try:
            body = read_version(self.path, version)
        except DamagedError as error:
            self.known.update(_files(self.path / folder, self.path))
            yield Fault(f"{folder}/{ROOT}", ANNOTATIONS, error.what)
            return
        for file, data in version_documents(body).items():
            self.known.add(f"{folder}/{file}")
            path = self.path / folder / file
            if not path.exists() or path.read_bytes() != data:
                yield Fault(f"{folder}/{file}", ANNOTATIONS, "is missing or damaged")
        for name, described in body["arrays"].items():
            spec = FlatSpec.from_json(described)
            reader = ChunkedReader(self.path / folder / name, spec)
            files = [f"{folder}/{name}/{spec.name(index)}" for index in range(spec.chunks)]
            self.known.update(files)
            try:
                intact = digest_arrays([(name, reader.all())]) == described["sha256"]
                if not intact:
                    yield Fault(f"{folder}/{name}", ANNOTATIONS, "its digest differs")
            except DamagedError as error:
                yield Fault(relative(self.path, error.path), ANNOTATIONS, error.what)

    def others(self) -> Iterator[Fault]:
        """Files that no run of this project leaves."""
        shards = self.meta.shards
        for shard in range(shards):
            self.known.update(
                f"{name}/{chunk_name(shard, 1 if name == 'status' else 2)}" for name in SIDE_ARRAYS
            )
            for name, spec in self.meta.arrays.items():
                self.known.add(f"{name}/{chunk_name(shard, len(spec.shape) + 1)}")
                if name not in self.meta.sources:
                    self.known.add(f"commit/{name}/{chunk_name(shard)}")
        for file in sorted(_files(self.path, self.path)):
            if any(part.startswith(TEMPORARY) for part in file.split("/")):
                self.unfinished.append(file)
            elif file not in self.known:
                yield Fault(file, UNKNOWN, "does not belong to the store; delete it if it is not needed")


def _files(folder: Path, root: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield relative(root, Path(place) / name)
