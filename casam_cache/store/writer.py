"""Writing features into a store: planned first, then committed shard by shard, resumable after any kill."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.fingerprint import canonical_json
from casam_cache.locks import Lock
from casam_cache.store.buffer import Buffer, shard_files
from casam_cache.store.files import TEMPORARY, make_directory, remove_temporary, seal, write_all, write_file
from casam_cache.store.items import append_items, read_items, read_side, trim_items
from casam_cache.store.lock import lock_store
from casam_cache.store.records import encode_record, read_records, record_path
from casam_cache.store.results import Batch, ItemResult, batches_of
from casam_cache.store.schema import (
    EMBEDDING,
    FAILED,
    ROOT,
    ArraySpec,
    StoreMeta,
    documents,
    read_meta,
    shard_length,
)

__all__ = ["Batch", "ItemResult", "StoreWriter"]


class StoreWriter:
    """The one writer of a store; make it with `open_or_create` or `open` and use it as a context manager.

    Batches of one shard must be appended in order; different shards may be appended from different threads.
    """

    def __init__(
        self, path: Path, meta: StoreMeta, lock: Lock, commit_seconds: float, damaged: bool = False
    ) -> None:
        self.path = path
        self.meta = meta
        self.commit_seconds = commit_seconds
        self.lock = lock
        self._mutex = threading.Lock()
        self._buffers: dict[tuple[str, int], Buffer] = {}
        remove_temporary(path)
        trim_items(path, meta)
        self._write_documents()
        self._counts = {name: read_records(path, meta, name, damaged) for name in meta.features}

    @classmethod
    def open_or_create(
        cls,
        path: Path,
        identity: Mapping[str, Any],
        *,
        embedding_shape: tuple[int, ...],
        image_size: int,
        patch_size: int,
        dtype: str = "float16",
        shard_items: int | None = None,
        commit_seconds: float = 10.0,
    ) -> StoreWriter:
        """Open a store for writing, or begin one; its identity is on disk before anything else.

        Args:
            path: DIR/TASK/BACKBONE.zarr.
            identity: plain JSON data that decides the features' values: weights, preprocessing, precision.
            embedding_shape: (C, h, w) of one embedding.
            image_size: side of the backbone's input, pixels.
            patch_size: side of a grid cell, input pixels.
            dtype: of the stored embedding: float16, float32, or int8 for quantised ones (`quantise`).
            shard_items: items a shard of a new store; None: about 32 MiB of embeddings.
            commit_seconds: a shard that fills more slowly is committed in parts this often.

        Raises:
            IdentityMismatchError: where the store's identity is another, showing every field that differs.
            HeldError: another process is writing into it.
            StoreError: where it is damaged, of another format, or cannot be written.
        """
        spec = ArraySpec(tuple(embedding_shape), np.dtype(dtype))
        quantisation = {"quantisation": "affine, channel and image"} if spec.quantised else {}
        described = {
            **identity,
            "embedding": {"shape": list(embedding_shape), "dtype": spec.dtype.name, **quantisation},
            "input": {"image_size": image_size, "patch_size": patch_size},
        }
        plain = _plain(described)
        if (path / ROOT).exists():  # refuse before anything is touched
            read_meta(path).check_identity(plain, str(path))
        lock = lock_store(path)
        try:
            if (path / ROOT).exists():
                meta = read_meta(path)
                meta.check_identity(plain, str(path))
            else:
                _refuse_foreign(path)
                shard = shard_items or shard_length(spec.item_bytes)
                meta = StoreMeta(plain, image_size, patch_size, shard, {}).with_array(EMBEDDING, spec)
                make_directory(path)
                write_file(path / ROOT, documents(meta)[ROOT])
            return cls(path, meta, lock, commit_seconds)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path, commit_seconds: float = 10.0, damaged: bool = False) -> StoreWriter:
        """Open an existing store for writing, whatever its identity.

        Args:
            path: DIR/TASK/BACKBONE.zarr.
            commit_seconds: a shard that fills more slowly is committed in parts this often.
            damaged: take commit records that cannot be read for absent; for repair.

        Raises:
            HeldError: another process is writing into it.
            StoreError: where it is missing, damaged, of another format, or cannot be written.
        """
        read_meta(path)
        lock = lock_store(path)
        try:
            return cls(path, read_meta(path), lock, commit_seconds, damaged)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
            else:  # keep what is finished, but let the first error through
                with contextlib.suppress(StoreError):
                    self.flush()
        finally:
            self.lock.release()

    def close(self) -> None:
        """Commit what is buffered and give the lock back."""
        self.__exit__(None, None, None)

    def add_array(self, name: str, shape: tuple[int, ...], dtype: str = "float16") -> None:
        """Add a named feature array beside `embedding`, which is left alone; no-op where it exists.

        Raises:
            StoreError: where it exists with another shape or dtype, or the name is not allowed.
        """
        spec = ArraySpec(tuple(shape), np.dtype(dtype))
        known = self.meta.arrays.get(name)
        if known is None:
            self._update(self.meta.with_array(name, spec))
            self._counts[name] = read_records(self.path, self.meta, name)
        elif known != spec:
            raise StoreError(
                f"{self.path}: '{name}' holds {known.dtype.name} {known.shape}, "
                f"not {spec.dtype.name} {spec.shape}"
            )

    def ids(self) -> list[str]:
        return read_items(self.path, self.meta, "id")

    def plan(self, items: Sequence[tuple[str, str]], batch_size: int) -> None:
        """Append new items as one segment, atomically: after a kill either all are planned or none.

        Args:
            items: (id, posix path relative to the dataset) of images that are not in the store yet.
            batch_size: items encoded together; kept for this segment, so that resuming computes the same
                batches.

        Raises:
            StoreError: where an id is there already or given twice.
        """
        if not items:
            return
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        known = set(self.ids())
        for name, _ in items:
            if name in known:
                raise StoreError(f"{self.path}: '{name}' is planned twice")
            known.add(name)
        totals = append_items(self.path, self.meta, items)
        start = self.meta.items
        segment = (start, start + len(items), batch_size)
        self._update(replace(self.meta, segments=(*self.meta.segments, segment), text_bytes=totals))
        for name, counts in self._counts.items():
            grown = np.zeros(self.meta.shards, dtype=np.int64)
            grown[: len(counts)] = counts
            self._counts[name] = grown

    def batches(self, shard: int | None = None) -> Iterator[Batch]:
        """All batches of the store, or of one shard, in order: the same ones whatever was done already."""
        yield from batches_of(self.meta, shard)

    def pending(self, arrays: Sequence[str] = (EMBEDDING,)) -> list[Batch]:
        """The batches that some of `arrays` still lack, in order."""
        missing: list[Batch] = []
        for shard in range(self.meta.shards):
            done = min(self._next_item(name, shard) for name in arrays)
            if done < self.meta.shard_range(shard)[1]:
                missing.extend(batch for batch in self.batches(shard) if batch.stop > done)
        return missing

    def count(self, array: str = EMBEDDING) -> int:
        return int(self._counts[array].sum())

    def append(
        self, batch: Batch, results: Sequence[ItemResult], arrays: Sequence[str] = (EMBEDDING,)
    ) -> None:
        """Take the results of a batch; a shard is committed when it is full or `commit_seconds` have passed.

        Args:
            batch: one of `pending(arrays)`; within a shard in order.
            results: one an item.
            arrays: those computed; where an array has this batch already, it is left alone.

        Raises:
            StoreError: for features that are not finite, for an item whose image changed since its embedding
                was stored (when adding another array), or where the disk refuses.
            ValueError: for a batch out of order, or results that lack an array or have another shape.
        """
        if len(results) != len(batch):
            raise ValueError(f"{len(results)} results for a batch of {len(batch)} items")
        ordered = sorted(arrays, key=lambda name: name != EMBEDDING)
        for name in ordered:
            with self._mutex:
                if self._next_item(name, batch.shard) >= batch.stop:
                    continue
                if self._next_item(name, batch.shard) != batch.start:
                    raise ValueError(f"{batch} of '{name}' is out of order")
                buffer = self._buffers.get((name, batch.shard), Buffer())
            if name != EMBEDDING:
                self._check_same(batch, results)
            stored = [None if r.failure else r.stored(name, self.meta) for r in results]
            side = []
            if name == EMBEDDING:
                side = [r.side_row(self.meta, f"item {batch.start + i}") for i, r in enumerate(results)]
            with self._mutex:
                for own in self.meta.with_companions(name):
                    chunks = [None if values is None else seal(values[own]) for values in stored]
                    buffer.chunks.setdefault(own, []).extend(chunks)
                for row in side:
                    for column, value in row.items():
                        buffer.side[column].append(value)
                self._buffers[name, batch.shard] = buffer
        full = batch.stop == self.meta.shard_range(batch.shard)[1]
        for name in ordered:
            waiting = self._buffers.get((name, batch.shard))
            if waiting and (full or time.monotonic() - waiting.since >= self.commit_seconds):
                self.commit(batch.shard)
                break

    def flush(self) -> None:
        for shard in sorted({shard for _, shard in self._buffers}):
            self.commit(shard)

    def commit(self, shard: int) -> None:
        """Write the buffered items of one shard: data first, then the record that makes them count."""
        for name in sorted(self.meta.features, key=lambda name: name != EMBEDDING):
            with self._mutex:
                buffer = self._buffers.get((name, shard))
            if buffer is None:
                continue
            before = int(self._counts[name][shard])
            write_all(shard_files(self.path, self.meta, name, shard, before, buffer))
            count = before + len(buffer)
            write_file(record_path(self.path, name, shard), encode_record(count))
            with self._mutex:
                self._counts[name][shard] = count
                del self._buffers[name, shard]

    def uncommit(self, items: Sequence[int]) -> None:
        """Make items pending again (changed or failed images), and with them what follows in their shards."""
        for shard in sorted({item // self.meta.shard for item in items}):
            first = min(item for item in items if item // self.meta.shard == shard)
            batch = next(batch for batch in self.batches(shard) if batch.start <= first < batch.stop)
            keep = batch.start - shard * self.meta.shard
            # The embedding last: only it tells, after a kill in between, that an image has changed.
            for name, counts in reversed(self._counts.items()):
                if counts[shard] > keep:
                    self.set_count(name, shard, keep)

    def set_count(self, array: str, shard: int, count: int) -> None:
        """Write a commit record anew; for repair and `uncommit`."""
        write_file(record_path(self.path, array, shard), encode_record(count))
        self._counts[array][shard] = count

    def _next_item(self, array: str, shard: int) -> int:
        waiting = self._buffers.get((array, shard))
        return shard * self.meta.shard + int(self._counts[array][shard]) + (len(waiting) if waiting else 0)

    def _check_same(self, batch: Batch, results: Sequence[ItemResult]) -> None:
        """Further arrays must come from the image that the embedding came from."""
        first = batch.shard * self.meta.shard
        committed = first + int(self._counts[EMBEDDING][batch.shard])
        waiting = self._buffers.get((EMBEDDING, batch.shard))
        if batch.stop <= committed:
            rows = slice(batch.start - first, batch.stop - first)
            status = read_side(self.path, self.meta, "status", batch.shard)[rows]
            hashes = read_side(self.path, self.meta, "source_sha256", batch.shard)[rows]
        elif waiting is not None:
            rows = slice(batch.start - committed, batch.stop - committed)
            status = np.array(waiting.side["status"][rows])
            hashes = np.array(waiting.side["source_sha256"][rows])
        else:
            raise ValueError(f"{batch}: append its embedding first or together")
        for index, result in enumerate(results):
            if not result.failure and (status[index] == FAILED or hashes[index].tobytes() != result.source):
                name = self.ids()[batch.start + index]
                raise StoreError(
                    f"{self.path}: the image of '{name}' is not the one its embedding was made from",
                    "restore the image, or encode it again (`casam encode --update`)",
                )

    def _update(self, meta: StoreMeta) -> None:
        """Make new root attributes count, then bring everything derived from them up to date."""
        write_file(self.path / ROOT, documents(meta)[ROOT])
        self.meta = meta
        self._write_documents()

    def _write_documents(self) -> None:
        changed = []
        for relative, data in documents(self.meta).items():
            path = self.path / relative
            make_directory(path.parent)
            if not path.exists() or path.read_bytes() != data:
                changed.append((path, [data]))
        write_all(changed)


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(canonical_json(identity))
    return plain


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file, not a store", "choose another --store folder or --name")
    if path.is_dir() and any(not entry.name.startswith(TEMPORARY) for entry in path.iterdir()):
        raise StoreError(
            f"{path} is not empty and not a store",
            "if it was one, `casam store repair` restores it; else choose another --store folder or --name",
        )
