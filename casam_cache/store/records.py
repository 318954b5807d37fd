"""Commit records: how many items of a shard count as written, one tiny file a shard and array.

Companions of an int8 array (`schema.COMPANIONS`) have none of their own: that of their array counts for them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from casam_cache.store.files import DamagedError, read_chunk, seal
from casam_cache.store.schema import StoreMeta, chunk_name

RECORD = np.dtype(np.uint32)


def record_path(store: Path, array: str, shard: int) -> Path:
    return store / "commit" / array / chunk_name(shard)


def encode_record(count: int) -> bytes:
    return seal(np.array([count], dtype=RECORD))


def read_record(store: Path, array: str, shard: int) -> int:
    """Items committed of a shard, 0 without a record.

    Raises:
        DamagedError: where the record is not what was written.
    """
    found = read_chunk(record_path(store, array, shard), RECORD, (1,))
    return 0 if found is None else int(found[0])


def read_records(store: Path, meta: StoreMeta, array: str, damaged: bool = False) -> np.ndarray:
    """Items committed of every shard: int64 (shards,).

    Raises:
        DamagedError: where a record is not what was written, unless `damaged`: those count as absent then.
    """
    counts = np.zeros(meta.shards, dtype=np.int64)
    array = meta.sources.get(array, array)
    for shard in range(meta.shards):
        try:
            counts[shard] = read_record(store, array, shard)
        except DamagedError:
            if not damaged:
                raise
    return counts
