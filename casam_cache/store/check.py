"""Checking one shard of a store: its commit records, side arrays and features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_cache.store.files import CHECKSUM_BYTES, DamagedError, checksum
from casam_cache.store.items import read_side
from casam_cache.store.records import read_record, record_path
from casam_cache.store.results import batches_of
from casam_cache.store.schema import EMBEDDING, FAILED, OK, SIDE_ARRAYS, StoreMeta, chunk_name
from casam_cache.store.shard import Shard

METADATA, TABLE, FEATURES, SIDE = "metadata", "table", "features", "side"
RECORD, ANNOTATIONS, UNKNOWN = "record", "annotations", "unknown"


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was written.

    Attributes:
        file: path relative to the store.
        kind: metadata, table (of items), features, side (array), record (of a commit), annotations, unknown.
        message: what is wrong.
        array: feature array, for features and records.
        shard: which shard, -1 where it concerns none.
        items: items whose values are lost.
    """

    file: str
    kind: str
    message: str
    array: str = ""
    shard: int = -1
    items: tuple[int, ...] = ()


def check_shard(
    path: Path, meta: StoreMeta, shard: int, unfinished: list[str]
) -> tuple[list[Fault], dict[str, int]]:
    """Check everything of one shard: records, side arrays, features.

    Returns:
        The problems, and the number of committed items of each array that has records of its own.
    """
    problems: list[Fault] = []
    counts: dict[str, int] = {}
    start = shard * meta.shard
    bounds = {0, *(batch.stop - start for batch in batches_of(meta, shard))}
    for name in meta.features:
        file = relative(path, record_path(path, name, shard))
        try:
            counts[name] = read_record(path, name, shard)
            if counts[name] not in bounds:
                problems.append(Fault(file, RECORD, f"{counts[name]} is not the end of a batch", name, shard))
                counts[name] = 0
        except DamagedError as error:
            problems.append(Fault(file, RECORD, error.what, name, shard))
            counts[name] = 0
    unreadable = {problem.array for problem in problems}
    count = counts[EMBEDDING]
    rows = tuple(range(start, start + count))
    status: np.ndarray | None = None
    for name in SIDE_ARRAYS:
        file = f"{name}/{chunk_name(shard, 1 if name == 'status' else 2)}"
        needed = count > 0 and (name != "failure" or (status is not None and bool((status == FAILED).any())))
        try:
            side = read_side(path, meta, name, shard, required=count > 0)
        except DamagedError as error:
            problems.append(Fault(file, SIDE, error.what, EMBEDDING, shard, rows))
            continue
        there = (path / file).exists()
        if needed and not there:
            problems.append(Fault(file, SIDE, "is missing", EMBEDDING, shard, rows))
        if there and name == "failure" and status is not None and not needed and not side[count:].any():
            problems.append(Fault(file, UNKNOWN, "does not belong to the store"))
        elif there and side[count:].any() and EMBEDDING not in unreadable:
            unfinished.append(file)
        if name == "status":
            status = side[:count]
    for name in meta.features:
        if name not in unreadable:
            for own in meta.with_companions(name):
                problems += _check_features(path, meta, own, shard, counts[name], status, unfinished)
    return problems, counts


def _check_features(
    path: Path,
    meta: StoreMeta,
    name: str,
    shard: int,
    count: int,
    status: np.ndarray | None,
    unfinished: list[str],
) -> Iterator[Fault]:
    spec = meta.arrays[name]
    first = shard * meta.shard
    file = f"{name}/{chunk_name(shard, len(spec.shape) + 1)}"
    good = None if status is None or len(status) < count else status[:count] == OK
    try:
        opened = Shard(path / file, spec, meta.shard)
    except FileNotFoundError:
        if count:
            lost = range(count) if good is None else np.flatnonzero(good).tolist()
            yield Fault(file, FEATURES, "is missing", name, shard, tuple(first + i for i in lost))
        return
    except DamagedError as error:
        if count:
            lost = [i for i, chunk in enumerate(salvage(path, meta, name, shard, count)) if chunk is None]
            lost = [i for i in lost if good is None or good[i]]
            yield Fault(file, FEATURES, error.what, name, shard, tuple(first + i for i in lost))
        else:
            unfinished.append(file)
        return
    present = opened.present
    if not opened.is_tight():
        yield Fault(file, FEATURES, "has bytes that belong to no item", name, shard)
    if present[count:].any() or not count:
        unfinished.append(file)
    bad = []
    for position in np.flatnonzero(present[:count]).tolist():
        try:
            opened.read(position)
        except DamagedError:
            bad.append(position)
    if bad:
        lost_items = tuple(first + i for i in bad)
        yield Fault(file, FEATURES, "checksums differ", name, shard, lost_items)
    if good is not None:
        whole = meta.sources.get(name, name) == EMBEDDING
        wrong = present[:count] != good if whole else present[:count] & ~good
        if wrong.any():
            items = tuple(first + int(i) for i in np.flatnonzero(wrong))
            yield Fault(file, FEATURES, "does not agree with `status`", name, shard, items)


def salvage(path: Path, meta: StoreMeta, name: str, shard: int, count: int) -> list[bytes | None]:
    """The sealed inner chunks of the first `count` items that are intact, even where the index is damaged.

    Items lie in order without gaps, so their places follow from `status` where the index is lost.
    """
    spec = meta.arrays[name]
    file = path / name / chunk_name(shard, len(spec.shape) + 1)
    found: list[bytes | None] = [None] * count
    try:
        opened = Shard(file, spec, meta.shard)
    except FileNotFoundError:
        return found
    except DamagedError:
        try:
            good = read_side(path, meta, "status", shard, required=True)[:count] == OK
        except DamagedError:
            good = np.ones(count, dtype=bool)
        size = spec.item_bytes + CHECKSUM_BYTES
        with file.open("rb") as stream:
            for position in np.flatnonzero(good).tolist():
                chunk = stream.read(size)
                stored = int.from_bytes(chunk[-CHECKSUM_BYTES:], "little")
                if len(chunk) == size and checksum(chunk[:-CHECKSUM_BYTES]) == stored:
                    found[position] = chunk
        return found
    for position in np.flatnonzero(opened.present[:count]).tolist():
        try:
            found[position] = opened.raw(position)
        except DamagedError:
            continue
    return found


def relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
