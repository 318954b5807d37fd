"""What an encoder hands to the store: fixed batches of items, and what became of each item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.geometry import Geometry
from casam_cache.store.pooling import attention_pool
from casam_cache.store.quantise import quantisation_error, quantise, to_half
from casam_cache.store.schema import COMPANIONS, EMBEDDING, FAILED, FAILURE_BYTES, OK, StoreMeta


@dataclass(frozen=True)
class Batch:
    """Items [start, stop) that are encoded together, always: they share a shard and a segment."""

    shard: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class ItemResult:
    """What became of one item.

    Attributes:
        arrays: features by array name, of that array's shape (any float dtype; rounded to the stored one).
        geometry: how the image was put into the input; None if it failed.
        source_sha256: 32 bytes, SHA-256 of the image file; empty if it could not be read.
        pooled: float32 (C,), `attention_pool` of the embedding as a float16 store holds it; None: computed here.
        failure: why there are no features; empty if there are.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    geometry: Geometry | None = None
    source_sha256: bytes = b""
    pooled: np.ndarray | None = None
    failure: str = ""

    @property
    def source(self) -> bytes:
        """The image's hash as the store keeps it: 32 bytes, zeros where unknown."""
        return self.source_sha256.ljust(32, b"\0")

    def stored(self, name: str, meta: StoreMeta) -> dict[str, np.ndarray]:
        """A feature array as it is stored, and its companions: rounded, or quantised.

        Raises:
            StoreError: where it cannot be quantised, not being finite.
            ValueError: where it is missing or of another shape.
        """
        spec = meta.arrays[name]
        if name not in self.arrays:
            raise ValueError(f"a result lacks the array '{name}'")
        value = np.asarray(self.arrays[name])
        if value.shape != spec.shape:
            raise ValueError(f"'{name}' has shape {value.shape} instead of {spec.shape}")
        if not spec.quantised:
            half = spec.dtype == np.float16
            return {name: to_half(value) if half else value.astype(spec.dtype, copy=False)}
        levels, scale, offset = quantise(value)
        parts = (scale, offset, quantisation_error(value, levels, scale, offset))
        return {name: levels, **{f"{name}_{k}": part for k, part in zip(COMPANIONS, parts, strict=True)}}

    def side_row(self, meta: StoreMeta, name: str) -> dict[str, np.ndarray]:
        """This item's row of every side array. `name` says who it is, for messages.

        Raises:
            StoreError: where the embedding is not finite.
            ValueError: where the geometry is missing.
        """
        sha = np.frombuffer(self.source, dtype=np.uint8)
        spec = meta.arrays[EMBEDDING]
        if self.failure:
            text = self.failure.encode("utf-8", "replace")[:FAILURE_BYTES].decode(errors="ignore").encode()
            return {
                "status": np.array(FAILED, np.uint8),
                "geometry": np.zeros(4, np.int32),
                "pooled": np.zeros(spec.shape[0], np.float32),
                "source_sha256": sha,
                "failure": np.frombuffer(text.ljust(FAILURE_BYTES, b"\0"), dtype=np.uint8),
            }
        geometry = self.geometry
        if geometry is None:
            raise ValueError(f"{name} has no geometry")
        pooled = self.pooled
        if pooled is None:
            with np.errstate(all="ignore"):
                value = np.asarray(self.arrays[EMBEDDING])
                exact = (
                    to_half(value)
                    if spec.read_dtype == np.float16
                    else value.astype(spec.read_dtype, copy=False)
                )
                pooled = attention_pool(exact, geometry.valid_grid)
        if not np.isfinite(pooled).all():
            raise StoreError(
                f"the embedding of {name} is not finite",
                "the precision may be too low for this backbone: try --precision fp32",
            )
        sides = (geometry.height, geometry.width, geometry.input_height, geometry.input_width)
        return {
            "status": np.array(OK, np.uint8),
            "geometry": np.array(sides, dtype=np.int32),
            "pooled": np.asarray(pooled, dtype=np.float32),
            "source_sha256": sha,
            "failure": np.zeros(FAILURE_BYTES, np.uint8),
        }


def batches_of(meta: StoreMeta, shard: int | None = None) -> Iterator[Batch]:
    """The fixed batches of a store, or of one of its shards, in order.

    A segment is cut into batches of its size; they restart at each shard.
    """
    low, high = (0, meta.items) if shard is None else meta.shard_range(shard)
    for first, last, size in meta.segments:
        begin = max(first, low)
        while begin < min(last, high):
            stop = min(begin + size, last, (begin // meta.shard + 1) * meta.shard)
            yield Batch(begin // meta.shard, begin, stop)
            begin = stop
