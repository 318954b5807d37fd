"""Writing features into a store: planned first, then committed shard by shard, resumable after any kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.fingerprint import canonical_json
from casam_cache.locks import Lock
from casam_cache.store.files import TEMPORARY, make_directory, remove_temporary, write_all, write_file
from casam_cache.store.items import append_items, trim_items
from casam_cache.store.lock import lock_store
from casam_cache.store.records import encode_record, read_records, record_path
from casam_cache.store.results import Batch, ItemResult
from casam_cache.store.schema import (
    EMBEDDING,
    ROOT,
    ArraySpec,
    StoreMeta,
    documents,
    read_meta,
    shard_length,
)
from casam_cache.store.shard_writer import ShardWriter

__all__ = ["Batch", "ItemResult", "StoreWriter"]


class StoreWriter(ShardWriter):
    """The one writer of a store; make it with `open_or_create` or `open` and use it as a context manager."""

    def __init__(
        self, path: Path, meta: StoreMeta, lock: Lock, commit_seconds: float, damaged: bool = False
    ) -> None:
        remove_temporary(path)
        trim_items(path, meta)
        super().__init__(path, meta, lock, {}, commit_seconds)
        self._write_documents()
        self._counts |= {name: read_records(path, meta, name, damaged) for name in meta.features}

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
