"""Mending a store: what follows from the rest is restored, lost features are encoded again and put in place.

    with open_for_repair(path) as writer:
        for damage in mend(writer):                       # one shard each
            results = {batch: encode(batch) for batch in damage.batches}
            replace_items(writer, damage, results)

The batches are those the features were first computed in, so the repaired store has the very bytes it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.store.annotations import FOLDER, current_version, pointer_document
from casam_cache.store.check import (
    ANNOTATIONS,
    FEATURES,
    METADATA,
    RECORD,
    SIDE,
    TABLE,
    Fault,
    check_shard,
    salvage,
)
from casam_cache.store.files import DamagedError, disk_errors, remove_tree, seal, write_all, write_file
from casam_cache.store.items import read_side
from casam_cache.store.lock import lock_store
from casam_cache.store.results import Batch, ItemResult, batches_of
from casam_cache.store.schema import (
    EMBEDDING,
    FAILED,
    ITEM_TABLES,
    OK,
    ROOT,
    SIDE_ARRAYS,
    StoreMeta,
    chunk_name,
    documents,
    side_spec,
)
from casam_cache.store.shard import encode_shard
from casam_cache.store.verify import Report, recover_meta, verify
from casam_cache.store.writer import StoreWriter


@dataclass(frozen=True)
class ShardDamage:
    """What must be encoded again in one shard.

    Attributes:
        shard: which.
        arrays: the feature arrays to compute.
        batches: to encode, whole; empty where the shard can be mended without.
        items: those whose values are lost.
    """

    shard: int
    arrays: tuple[str, ...]
    batches: tuple[Batch, ...]
    items: tuple[int, ...]


def damaged(report: Report) -> dict[str, list[tuple[int, tuple[int, ...]]]]:
    """Lost items by feature array: array -> (shard, items); `embedding` includes lost side arrays."""
    found: dict[str, dict[int, set[int]]] = {}
    for problem in report.problems:
        if problem.kind in (FEATURES, SIDE) and problem.items:
            found.setdefault(problem.array, {}).setdefault(problem.shard, set()).update(problem.items)
    return {
        name: [(shard, tuple(sorted(items))) for shard, items in sorted(shards.items())]
        for name, shards in found.items()
    }


def open_for_repair(path: Path) -> StoreWriter:
    """Open a store for writing, restoring its root attributes from their mirror first if they are damaged.

    Raises:
        HeldError: another process is writing into it.
        StoreError: where it is missing, or both copies are lost.
    """
    path = Path(path)
    meta, good = recover_meta(path)
    if not good:
        with lock_store(path):
            write_file(path / ROOT, documents(meta)[ROOT])
    return StoreWriter.open(path, damaged=True)


def mend(writer: StoreWriter) -> list[ShardDamage]:
    """Verify a store, restore all that needs no encoder, and say what does.

    Metadata is derived again, the table of items and its mirror restore each other, commit records follow
    from the data. Damaged annotations are dropped: `casam encode` writes the same version again. Unknown files
    are left alone.

    Raises:
        StoreError: where both copies of the same part of the table of items are lost.
    """
    report = verify(writer.path)
    mended = [problem for problem in report.problems if problem.kind == METADATA]
    write_all((writer.path / p.file, [documents(writer.meta)[p.file]]) for p in mended)
    _mend_tables(writer.path, [p for p in report.problems if p.kind == TABLE])
    _drop_annotations(writer.path, [p for p in report.problems if p.kind == ANNOTATIONS])
    for problem in report.problems:
        if problem.kind == RECORD:
            count = infer_count(writer.path, writer.meta, problem.array, problem.shard)
            writer.set_count(problem.array, problem.shard, count)
    shards = sorted({p.shard for p in report.problems if p.kind in (FEATURES, SIDE, RECORD)})
    found = [_damage_of(writer.path, writer.meta, shard) for shard in shards]
    return [damage for damage in found if damage is not None]


def replace_items(
    writer: StoreWriter, damage: ShardDamage, results: Mapping[Batch, Sequence[ItemResult]]
) -> None:
    """Put the lost items of a shard back; intact items keep their bytes.

    Args:
        writer: of the store.
        damage: one of `mend(writer)`.
        results: what `damage.batches` gave.

    Raises:
        StoreError: where an image is not the one that was encoded, or failed now.
    """
    path, meta, shard = writer.path, writer.meta, damage.shard
    fresh = {batch.start + i: result for batch, part in results.items() for i, result in enumerate(part)}
    problems, counts = check_shard(path, meta, shard, [])
    first, count = shard * meta.shard, counts[EMBEDDING]
    _check_sources(writer, damage, fresh)
    files: list[tuple[Path, list[bytes]]] = []
    lost_side = {p.file.split("/")[0] for p in problems if p.kind == SIDE}
    if lost_side:
        rows = {i: fresh[first + i].side_row(meta, f"item {first + i}") for i in range(count)}
        failed = any(fresh[first + i].failure for i in range(count))
        for name in SIDE_ARRAYS:
            if name in lost_side and (name != "failure" or failed):
                dtype, tail = side_spec(meta, name)
                side = np.zeros((meta.shard, *tail), dtype)
                for position, row in rows.items():
                    side[position] = row[name]
                files.append((path / name / chunk_name(shard, side.ndim), [seal(side)]))
    write_all(files)
    files = []
    for name in {p.array for p in problems if p.kind == FEATURES}:
        spec, source = meta.arrays[name], meta.sources.get(name, name)
        lost = {item for p in problems if p.kind == FEATURES and p.array == name for item in p.items}
        chunks = salvage(path, meta, name, shard, counts[source])
        for item in lost:
            result = fresh[item]
            chunks[item - first] = None if result.failure else seal(result.stored(source, meta)[name])
        chunks += [None] * (meta.shard - len(chunks))
        files.append((path / name / chunk_name(shard, len(spec.shape) + 1), encode_shard(chunks)))
    write_all(files)


def infer_count(path: Path, meta: StoreMeta, array: str, shard: int) -> int:
    """How many items of a shard are there, judged by the data itself, for a commit record that is lost.

    The end of the last batch of which every item is whole: its side rows and, unless it failed, its features.
    Data is written before records, so this may find items about to be committed, but none that is torn.
    """
    start = shard * meta.shard
    try:
        sides = {name: read_side(path, meta, name, shard, required=True) for name in SIDE_ARRAYS}
    except DamagedError:
        return 0
    status = sides["status"]
    found = [salvage(path, meta, own, shard, meta.shard) for own in meta.with_companions(array)]
    whole = np.array([[chunk is not None for chunk in chunks] for chunks in found]).all(axis=0)
    described = (sides["geometry"] > 0).all(axis=1) & sides["source_sha256"].any(axis=1)
    done = ((status == OK) & whole & described) | ((status == FAILED) & sides["failure"].any(axis=1))
    count = 0
    for batch in batches_of(meta, shard):
        if not done[batch.start - start : batch.stop - start].all():
            break
        count = batch.stop - start
    return count


def _damage_of(path: Path, meta: StoreMeta, shard: int) -> ShardDamage | None:
    problems, _ = check_shard(path, meta, shard, [])
    problems = [p for p in problems if p.kind in (FEATURES, SIDE)]
    if not problems:
        return None
    items = tuple(sorted({item for problem in problems for item in problem.items}))
    lost = {meta.sources.get(p.array, p.array) for p in problems if p.items}
    arrays = tuple(name for name in meta.features if name in lost)
    batches = tuple(b for b in batches_of(meta, shard) if any(b.start <= item < b.stop for item in items))
    return ShardDamage(shard, arrays, batches, items)


def _check_sources(writer: StoreWriter, damage: ShardDamage, fresh: Mapping[int, ItemResult]) -> None:
    """The images must be those that were encoded, as far as their hashes are still readable."""
    try:
        hashes = read_side(writer.path, writer.meta, "source_sha256", damage.shard, required=True)
    except DamagedError:
        return
    for item in damage.items:
        stored = hashes[item - damage.shard * writer.meta.shard].tobytes()
        if any(stored) and stored != fresh[item].source:
            raise StoreError(
                f"{writer.path}: the image of '{writer.ids()[item]}' is not the one that was encoded",
                "restore the image and repair again, or encode it anew (`casam encode --update`)",
            )


def _mend_tables(path: Path, problems: Sequence[Fault]) -> None:
    bad = {problem.file for problem in problems}
    for file in sorted(bad):
        table, _, rest = file.partition("/")
        other = next(f"{name}/{rest}" for name in ITEM_TABLES if name != table)
        if other in bad:
            raise StoreError(
                f"{path}: both copies of a part of the table of items are lost ({file}, {other})",
                "this store cannot be repaired: delete it and encode again",
            )
        write_file(path / file, (path / other).read_bytes())


def _drop_annotations(path: Path, problems: Sequence[Fault]) -> None:
    if not problems:
        return
    root = path / FOLDER
    versions = {p.file.split("/")[1] for p in problems if len(p.file.split("/")) > 2}
    try:
        current = current_version(path)
    except DamagedError:
        current = None
    if current is not None and (current in versions or not (root / current).is_dir()):
        current = None
    write_file(root / ROOT, pointer_document(current))
    for version in sorted(versions):
        with disk_errors(root):
            remove_tree(root / version)
