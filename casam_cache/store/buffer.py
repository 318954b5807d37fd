"""Items of one shard that wait for their commit, and the files they become."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casam_cache.store.files import seal
from casam_cache.store.items import read_side
from casam_cache.store.schema import EMBEDDING, SIDE_ARRAYS, StoreMeta, chunk_name
from casam_cache.store.shard import encode_shard, open_shard


@dataclass
class Buffer:
    """What one commit of one feature array will hold.

    Attributes:
        chunks: for the array and each of its companions, the sealed chunk of each item, None where it failed.
        side: for the embedding, the rows of the side arrays.
        since: monotonic time of the first item.
    """

    chunks: dict[str, list[bytes | None]] = field(default_factory=dict)
    side: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in SIDE_ARRAYS})
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(next(iter(self.chunks.values()), ()))

    def __bool__(self) -> bool:
        return True


def shard_files(
    path: Path, meta: StoreMeta, name: str, shard: int, before: int, buffer: Buffer
) -> Iterator[tuple[Path, list[bytes]]]:
    """The files of one shard of an array, for `write_all`: what is committed, then what waits.

    Args:
        path: of the store.
        meta: its root attributes.
        name: the feature array.
        shard: which.
        before: items of the shard that are committed.
        buffer: the items after them.
    """
    for own in meta.with_companions(name):
        spec, length = meta.arrays[own], meta.shard
        file = path / own / chunk_name(shard, len(spec.shape) + 1)
        chunks: list[bytes | None] = []
        if before:
            old = open_shard(file, spec, length)
            chunks = [old.raw(i) if old.has(i) else None for i in range(before)]
        chunks += buffer.chunks[own]
        chunks += [None] * (length - len(chunks))
        yield file, encode_shard(chunks)
    if name != EMBEDDING:
        return
    for column in SIDE_ARRAYS:
        side = read_side(path, meta, column, shard, required=before > 0)
        side[before:] = 0
        side[before : before + len(buffer)] = buffer.side[column]
        if column != "failure" or side.any():
            yield path / column / chunk_name(shard, side.ndim), [seal(side)]
