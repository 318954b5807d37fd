"""Features of planned items into shard files, by a store's one writer or by the one who fills a shard beside others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.locks import Lock
from casam_cache.store.buffer import Buffer, shard_files
from casam_cache.store.files import seal, write_all, write_file
from casam_cache.store.items import read_items, read_side
from casam_cache.store.lock import lock_shard
from casam_cache.store.records import encode_record, read_record, record_path
from casam_cache.store.results import Batch, ItemResult, batches_of
from casam_cache.store.schema import EMBEDDING, FAILED, StoreMeta, read_meta


class ShardWriter:
    """Appends the batches of planned items and commits them shard by shard; a context manager.

    Batches of one shard must be appended in order; different shards may be appended from different threads.

    Args:
        path: of the store.
        meta: its root attributes.
        lock: the right to write, given back at the end.
        counts: for each feature array, the items committed of every shard, int64 (shards,).
        commit_seconds: a shard that fills more slowly is committed in parts this often; a batch that took as long at
            once.
    """

    def __init__(
        self,
        path: Path,
        meta: StoreMeta,
        lock: Lock,
        counts: dict[str, np.ndarray],
        commit_seconds: float = 10.0,
    ) -> None:
        self.path = path
        self.meta = meta
        self.lock = lock
        self.commit_seconds = commit_seconds
        self._counts = counts
        self._mutex = threading.Lock()
        self._buffers: dict[tuple[str, int], Buffer] = {}
        self._last = time.monotonic()  # of a commit, or of the beginning

    @classmethod
    def of_shard(cls, path: Path, shard: int) -> ShardWriter:
        """The one writer of one planned shard, while another process holds the store itself.

        Raises:
            HeldError: another process writes this shard.
            StoreError: the store is missing, damaged, of another format, or cannot be written.
        """
        lock = lock_shard(path, shard)
        try:
            meta = read_meta(path)
            counts = {name: np.zeros(meta.shards, dtype=np.int64) for name in meta.features}
            writer = cls(path, meta, lock, counts)
            writer.look_again(shard)
        except BaseException:
            lock.release()
            raise
        return writer

    def __enter__(self) -> Self:
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

    def ids(self) -> list[str]:
        return read_items(self.path, self.meta, "id")

    def look_again(self, shard: int) -> None:
        """Take what is committed of a shard from the disk, where another process has written it.

        Raises:
            DamagedError: a commit record is not what was written.
        """
        for name, counts in self._counts.items():
            counts[shard] = read_record(self.path, self.meta.sources.get(name, name), shard)

    def batches(self, shard: int | None = None) -> Iterator[Batch]:
        """All batches of the store, or of one shard, in order: the same ones whatever was done already."""
        yield from batches_of(self.meta, shard)

    def pending(self, arrays: Sequence[str] = (EMBEDDING,), shard: int | None = None) -> list[Batch]:
        """The batches of the store, or of one shard, that some of `arrays` still lack, in order."""
        missing: list[Batch] = []
        for part in range(self.meta.shards) if shard is None else (shard,):
            done = min(self._next_item(name, part) for name in arrays)
            if done < self.meta.shard_range(part)[1]:
                missing.extend(batch for batch in self.batches(part) if batch.stop > done)
        return missing

    def count(self, array: str = EMBEDDING) -> int:
        return int(self._counts[array].sum())

    def append(
        self, batch: Batch, results: Sequence[ItemResult], arrays: Sequence[str] = (EMBEDDING,)
    ) -> None:
        """Take the results of a batch; a shard is committed when it is full or `commit_seconds` of work are in it.

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
            if waiting and (full or time.monotonic() - min(waiting.since, self._last) >= self.commit_seconds):
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
        self._last = time.monotonic()

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
