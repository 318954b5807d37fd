"""Small arrays of a fixed size, chunked along their first axis, each chunk with a checksum."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.store.files import CHECKSUM_BYTES, DamagedError, checksum
from casam_cache.store.schema import array_document, chunk_name

CHUNK_BYTES = 2**20
CHUNKS_KEPT = 32
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class FlatSpec:
    """Shape, dtype, entries a chunk and compression: all that the metadata document follows from."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: int
    compressed: bool = False

    @classmethod
    def of(cls, array: np.ndarray, compressed: bool = False) -> FlatSpec:
        """The spec for an array: chunks of about a megabyte, none longer than the array."""
        row = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        return cls(array.shape, array.dtype, max(1, min(len(array), CHUNK_BYTES // row)), compressed)

    def to_json(self) -> dict[str, Any]:
        shape = list(self.shape)
        return {"shape": shape, "dtype": self.dtype.name, "chunk": self.chunk, "compressed": self.compressed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FlatSpec:
        return cls(tuple(data["shape"]), np.dtype(data["dtype"]), data["chunk"], data["compressed"])

    def document(self) -> dict[str, Any]:
        return array_document(self.dtype, self.shape, self.chunk, compressed=self.compressed)

    @property
    def chunks(self) -> int:
        return -(-self.shape[0] // self.chunk)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """The last chunk has it too, padded with zeros."""
        return (self.chunk, *self.shape[1:])

    def name(self, index: int) -> str:
        return chunk_name(index, len(self.shape))


def chunk_files(folder: Path, array: np.ndarray, spec: FlatSpec) -> Iterator[tuple[Path, list[bytes]]]:
    """The chunk files of an array, for `write_all`."""
    for index in range(spec.chunks):
        part = array[index * spec.chunk : (index + 1) * spec.chunk]
        padded = np.zeros(spec.chunk_shape, dtype=spec.dtype.newbyteorder("<"))
        padded[: len(part)] = part
        data = padded.tobytes()
        if spec.compressed:
            from numcodecs.zstd import Zstd

            data = bytes(Zstd(level=ZSTD_LEVEL).encode(data))
        yield folder / spec.name(index), [data, checksum(data).to_bytes(CHECKSUM_BYTES, "little")]


class ChunkedReader:
    """Reads such an array by ranges of its first axis, keeping the last few chunks decoded."""

    def __init__(self, folder: Path, spec: FlatSpec) -> None:
        self.folder = folder
        self.spec = spec
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def chunk(self, index: int) -> np.ndarray:
        """One whole chunk, read-only.

        Raises:
            DamagedError: where it is missing or not what was written.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        path = self.folder / self.spec.name(index)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise DamagedError(path, "is missing") from None
        stored = int.from_bytes(data[-CHECKSUM_BYTES:], "little")
        data = data[:-CHECKSUM_BYTES]
        if checksum(data) != stored:
            raise DamagedError(path, "its checksum differs")
        if self.spec.compressed:
            from numcodecs.zstd import Zstd

            data = bytes(Zstd().decode(data))
        shape = self.spec.chunk_shape
        if len(data) != int(np.prod(shape, dtype=np.int64)) * self.spec.dtype.itemsize:
            raise DamagedError(path, "has another length than was written")
        found = np.frombuffer(data, self.spec.dtype.newbyteorder("<")).reshape(shape)
        self._kept[index] = found
        while len(self._kept) > CHUNKS_KEPT:
            self._kept.popitem(last=False)
        return found

    def read(self, start: int, stop: int) -> np.ndarray:
        """Entries [start, stop) of the first axis."""
        if stop <= start:
            return np.zeros((0, *self.spec.shape[1:]), dtype=self.spec.dtype)
        size = self.spec.chunk
        parts = [
            self.chunk(index)[max(start - index * size, 0) : stop - index * size]
            for index in range(start // size, (stop - 1) // size + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def all(self) -> np.ndarray:
        return self.read(0, self.spec.shape[0])
