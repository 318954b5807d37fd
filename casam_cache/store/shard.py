"""One shard file: inner chunks (one item each, bytes + CRC32C) in order, then an index with its CRC32C.

This is Zarr's `sharding_indexed` codec with the index at the end. Items that are absent or failed have the
index entry (2^64-1, 2^64-1) and take no space; the others lie in order without gaps: the bytes follow from
the items.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from casam_cache.store.bucket_cache import fetch, read_ahead
from casam_cache.store.files import CHECKSUM_BYTES, DamagedError, checksum
from casam_cache.store.schema import ArraySpec

NOWHERE = 2**64 - 1  # in place of an offset and a size
MISSING = np.uint64(NOWHERE)


def encode_index(sizes: Sequence[int | None]) -> bytes:
    """The index of a shard whose items take `sizes` bytes (None: not there): uint64 pairs, CRC32C."""
    index = np.full((len(sizes), 2), MISSING, dtype="<u8")
    offset = 0
    for position, size in enumerate(sizes):
        if size is not None:
            index[position] = offset, size
            offset += size
    data = index.tobytes()
    return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")


def encode_shard(chunks: Sequence[bytes | None]) -> list[bytes]:
    """The parts of a shard file from its sealed inner chunks, one an item (None: not there)."""
    sizes = [None if chunk is None else len(chunk) for chunk in chunks]
    return [*(chunk for chunk in chunks if chunk is not None), encode_index(sizes)]


class Shard:
    """A shard file mapped into memory; an item's checksum is computed when it is first read, then remembered.

    Args:
        path: the file; where it lies in a folder that stands for a bucket, it is read from there first.
        spec: shape and dtype of one item.
        length: items a shard.

    Raises:
        FileNotFoundError: where there is no such file.
        DamagedError: where the file is too short or its index is damaged.
    """

    def __init__(self, path: Path, spec: ArraySpec, length: int) -> None:
        self.path = path
        self.spec = spec
        index_bytes = length * 16 + CHECKSUM_BYTES
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            if not fetch(path):
                raise
            descriptor = os.open(path, flags)
        try:
            read_ahead(path)
            self.size = os.fstat(descriptor).st_size
            if self.size < index_bytes:
                raise DamagedError(path, f"has {self.size} bytes, less than its index")
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        tail = self._map[self.size - index_bytes :]
        if checksum(tail[:-CHECKSUM_BYTES]) != int.from_bytes(tail[-CHECKSUM_BYTES:], "little"):
            raise DamagedError(path, "the checksum of its index differs (a truncated or damaged file)")
        self._index = np.frombuffer(tail, "<u8", count=2 * length).reshape(length, 2)
        self._starts: list[int] = self._index[:, 0].tolist()
        self._sizes: list[int] = self._index[:, 1].tolist()
        self._checked = bytearray(length)
        self._dtype = spec.dtype.newbyteorder("<")

    def has(self, position: int) -> bool:
        return self._starts[position] != NOWHERE

    @property
    def present(self) -> np.ndarray:
        """Which items are there: bool (length,)."""
        found: np.ndarray = self._index[:, 0] != MISSING
        return found

    def is_tight(self) -> bool:
        """Whether the items that are there fill the file in order, as this project writes it."""
        size = self.spec.item_bytes + CHECKSUM_BYTES
        index = encode_index([size if there else None for there in self.present])
        return self.size == len(index) + size * int(self.present.sum()) and index == self._map[-len(index) :]

    def raw(self, position: int) -> bytes:
        """The sealed inner chunk of an item, to copy into another file; raises as `read` does."""
        self.read(position)
        start = int(self._index[position, 0])
        return self._map[start : start + self.spec.item_bytes + CHECKSUM_BYTES]

    def read(self, position: int) -> np.ndarray:
        """A read-only view of one item, straight from the page cache.

        Raises:
            KeyError: where the item is not there.
            DamagedError: where its bytes are not those that were written.
        """
        start = self._starts[position]
        if not self._checked[position]:
            self._check(position)
        return np.ndarray(self.spec.shape, self._dtype, self._map, start)

    def _check(self, position: int) -> None:
        """The place and the checksum of an item, once."""
        start, size = self._starts[position], self._sizes[position]
        if start == NOWHERE:
            raise KeyError(position)
        end = start + self.spec.item_bytes
        if size != self.spec.item_bytes + CHECKSUM_BYTES or start + size > self.size:
            raise DamagedError(self.path, f"item {position} of the shard lies outside the file")
        data = np.ndarray((end - start,), np.uint8, self._map, start)
        if checksum(data) != int.from_bytes(self._map[end : start + size], "little"):
            raise DamagedError(self.path, f"the checksum of item {position} of the shard differs")
        self._checked[position] = 1


def open_shard(path: Path, spec: ArraySpec, length: int) -> Shard:
    """A shard of which items are committed.

    Raises:
        DamagedError: where it is missing, too short, or its index is damaged.
    """
    try:
        return Shard(path, spec, length)
    except FileNotFoundError:
        raise DamagedError(path, "is missing") from None
