"""What a store is: its root attributes, and every other metadata document derived from them.

All metadata follows from the root attributes alone, byte for byte: one file to change atomically, and damage
to any other document shows by comparison.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.errors import IdentityMismatchError, StoreError
from casam_cache.fingerprint import canonical_json, digest

FORMAT = 1
QUANTISED_FORMAT = 2  # of stores with int8 features, which a reader of format 1 would misread
ROOT = "zarr.json"
COMMITS = "commit"
BESIDE = ".backbones"  # the folder beside the stores: what fits need of each backbone
MIRROR = "mirror/zarr.json"  # a copy of the root attributes
EMBEDDING = "embedding"
SHARD_BYTES = 32 * 2**20
SHARD_ITEMS = 1024
FAILURE_BYTES = 256
VALUES_CHUNK = 32768  # bytes of text a chunk
OFFSETS_CHUNK = 4096
ITEM_TABLES = ("item", "mirror")  # two copies: the one thing that no encoder pass can make again
TEXTS = ("id", "path")

OK, FAILED = 1, 2  # status of an item; 0 while it is not encoded
SIDE_ARRAYS = ("status", "geometry", "pooled", "source_sha256", "failure")
POOLING = {"pooling": "attention", "temperature": 1.0, "cells": "valid"}

COMPANIONS = ("scale", "offset", "error")  # of an int8 feature array A: arrays A_scale, A_offset, A_error

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = {*SIDE_ARRAYS, *ITEM_TABLES, COMMITS, "annotations"}


@dataclass(frozen=True)
class ArraySpec:
    """One feature array: the shape and dtype of one item's part of it.

    An int8 array is quantised (`quantise`): three arrays of its name, the companions, belong to it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @cached_property
    def quantised(self) -> bool:
        """Whether scale and offset turn the stored integers into values."""
        return self.dtype == np.int8

    @property
    def read_dtype(self) -> np.dtype:
        """Dtype of what a reader gives: float16 for quantised arrays."""
        return np.dtype(np.float16) if self.quantised else self.dtype

    @cached_property
    def item_bytes(self) -> int:
        """Bytes of one item, without its checksum."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class StoreMeta:
    """The root attributes of a store.

    Attributes:
        identity: what decides the features' values, as given by the encoder; plain JSON data.
        image_size, patch_size: of the backbone's input, pixels.
        shard: items a shard, the same for every feature array, so that all arrays share one set of batches.
        arrays: feature arrays by name; `embedding` is always there.
        segments: (start, stop, batch_size) of each planned addition, in order and without gaps.
        text_bytes: total UTF-8 bytes of all ids and of all paths.
    """

    identity: dict[str, Any]
    image_size: int
    patch_size: int
    shard: int
    arrays: dict[str, ArraySpec]
    segments: tuple[tuple[int, int, int], ...] = ()
    text_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TEXTS, 0))

    @cached_property
    def items(self) -> int:
        """Items planned, encoded or not."""
        return self.segments[-1][1] if self.segments else 0

    @property
    def shards(self) -> int:
        return -(-self.items // self.shard)

    @property
    def fingerprint(self) -> str:
        return digest(self.identity)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First item of a shard and one past its last planned item."""
        return shard * self.shard, min((shard + 1) * self.shard, self.items)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Every companion array -> the int8 array it belongs to, whose commit record counts for both."""
        quantised = [name for name, spec in self.arrays.items() if spec.quantised]
        return {f"{name}_{part}": name for name in quantised for part in COMPANIONS}

    @property
    def features(self) -> dict[str, ArraySpec]:
        """The arrays without their companions: what there is to encode."""
        return {name: spec for name, spec in self.arrays.items() if name not in self.sources}

    def with_companions(self, name: str) -> list[str]:
        """A feature array and the arrays that are written, counted and lost with it."""
        return [name, *(own for own, source in self.sources.items() if source == name)]

    def with_array(self, name: str, spec: ArraySpec) -> StoreMeta:
        """A copy with one more feature array, and its companions.

        Raises:
            StoreError: for a name that is not a plain lower-case word or means something else.
        """
        if not _NAME.fullmatch(name) or name in _RESERVED or name.rpartition("_")[2] in COMPANIONS:
            raise StoreError(
                f"'{name}' cannot name a feature array",
                f"use lower-case letters, digits and _, no name of the store's own and none that ends in "
                f"{', '.join('_' + part for part in COMPANIONS)}",
            )
        return replace(self, arrays={**self.arrays, **_with_companions(name, spec)})

    def to_json(self) -> dict[str, Any]:
        """The attribute `casam` of the root group, with a digest of itself."""
        body = {
            "format": QUANTISED_FORMAT if self.sources else FORMAT,
            "identity": self.identity,
            "fingerprint": self.fingerprint,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "shard": self.shard,
            "arrays": {n: {"shape": list(s.shape), "dtype": s.dtype.name} for n, s in self.arrays.items()},
            "segments": [list(segment) for segment in self.segments],
            "text_bytes": self.text_bytes,
        }
        return {**body, "digest": digest(body)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> StoreMeta:
        """Read the root attribute back.

        Raises:
            StoreError: for another format version or a digest that differs.
        """
        body = {key: value for key, value in data.items() if key != "digest"}
        if data.get("digest") != digest(body):
            raise StoreError(f"{where}: its attributes are damaged", "restore them with `casam store repair`")
        if data["format"] not in (FORMAT, QUANTISED_FORMAT):
            raise StoreError(
                f"{where}: written in store format {data['format']}; "
                f"this release reads formats {FORMAT} and {QUANTISED_FORMAT}",
                "use the release that wrote it, or encode into another --store folder",
            )
        return cls(
            identity=data["identity"],
            image_size=data["image_size"],
            patch_size=data["patch_size"],
            shard=data["shard"],
            arrays={n: ArraySpec(tuple(s["shape"]), np.dtype(s["dtype"])) for n, s in data["arrays"].items()},
            segments=tuple((a, b, size) for a, b, size in data["segments"]),
            text_bytes=dict(data["text_bytes"]),
        )

    def check_identity(self, identity: Mapping[str, Any], where: str) -> None:
        """Raise `IdentityMismatchError`, listing what differs, unless `identity` is this store's."""
        wanted = json.loads(canonical_json(identity))
        if wanted == self.identity:
            return
        old, new = _flatten(self.identity), _flatten(wanted)
        lines = [
            f"\n    {key}: {json.dumps(old[key]) if key in old else '(none)'}"
            f" -> {json.dumps(new[key]) if key in new else '(none)'}"
            for key in sorted({*old, *new})
            if key not in old or key not in new or old[key] != new[key]
        ]
        raise IdentityMismatchError(
            f"{where} holds features made otherwise (stored -> asked for):{''.join(lines)}",
            "nothing was changed; choose another --name for these settings, or another --store folder",
        )


def _with_companions(name: str, spec: ArraySpec) -> dict[str, ArraySpec]:
    if not spec.quantised:
        return {name: spec}
    number = np.dtype(np.float32)
    shapes = {"scale": spec.shape[:1], "offset": spec.shape[:1], "error": (2,)}
    return {name: spec, **{f"{name}_{part}": ArraySpec(shapes[part], number) for part in COMPANIONS}}


def read_meta(path: Path) -> StoreMeta:
    """The root attributes of the store at `path`.

    Raises:
        StoreError: where there is no store, its root is damaged, or it has another format.
    """
    try:
        text = (path / ROOT).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"there is no store at {path}", "make one with `casam encode`") from None
    except OSError as error:
        raise StoreError(f"{path / ROOT}: cannot read: {error.strerror}") from error
    return parse_meta(text, path / ROOT)


def parse_meta(text: bytes, path: Path) -> StoreMeta:
    """The root attributes in a metadata document.

    Raises:
        StoreError: where it is damaged, of another format, or not of a store.
    """
    try:
        attributes = json.loads(text)["attributes"]["casam"]
        if not isinstance(attributes, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{path} is damaged, or this Zarr group is not a casam store",
            "if it was one, restore its metadata with `casam store repair`",
        ) from None
    return StoreMeta.from_json(attributes, str(path))


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            flat.update(_flatten(part, f"{prefix}{key}."))
        else:
            flat[prefix + key] = part
    return flat


def shard_length(item_bytes: int) -> int:
    """Items a shard, so that a shard of the embedding takes about 32 MiB: between 1 and 1024."""
    return max(1, min(SHARD_ITEMS, SHARD_BYTES // max(1, item_bytes)))


def chunk_name(index: int, dimensions: int = 1) -> str:
    """File name of the chunk at `index` along the first axis, all other axes being whole."""
    return f"c.{index}" + ".0" * (dimensions - 1)


def side_spec(meta: StoreMeta, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and per-item shape of one of `SIDE_ARRAYS`."""
    specs: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "status": (np.dtype(np.uint8), ()),
        "geometry": (np.dtype(np.int32), (4,)),
        "pooled": (np.dtype(np.float32), (meta.arrays[EMBEDDING].shape[0],)),
        "source_sha256": (np.dtype(np.uint8), (32,)),
        "failure": (np.dtype(np.uint8), (FAILURE_BYTES,)),
    }
    return specs[name]


def render(document: Mapping[str, Any]) -> bytes:
    """A metadata document as bytes: the same document always gives the same file."""
    return (
        json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"
    ).encode()


def group_document(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def array_document(
    dtype: np.dtype,
    shape: tuple[int, ...],
    chunk: int,
    *,
    sharded: bool = False,
    compressed: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Zarr v3 metadata of an array that is chunked along its first axis only.

    Args:
        dtype: a fixed-width number.
        shape: whole shape.
        chunk: entries of the first axis in one file.
        sharded: one inner chunk an entry, with an index at the end of the file.
        compressed: Zstandard between the little-endian bytes and the checksum.
        attributes: user attributes.
    """
    endian: dict[str, Any] = {"name": "bytes"}
    if dtype.itemsize > 1:
        endian["configuration"] = {"endian": "little"}
    zstd: list[Any] = (
        [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}] if compressed else []
    )
    codecs: list[Any] = [endian, *zstd, {"name": "crc32c"}]
    if sharded:
        configuration = {
            "chunk_shape": [1, *shape[1:]],
            "codecs": codecs,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": configuration}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": codecs,
        "attributes": dict(attributes or {}),
    }


def documents(meta: StoreMeta) -> dict[str, bytes]:
    """Every metadata file of a store apart from its annotations, by path relative to the store."""
    attributes = {"casam": meta.to_json()}
    found = {
        ROOT: group_document(attributes),
        f"commit/{ROOT}": group_document(),
        f"item/{ROOT}": group_document(),
    }
    for table in ITEM_TABLES:
        for text in TEXTS:
            values = array_document(np.dtype(np.uint8), (meta.text_bytes[text],), VALUES_CHUNK)
            offsets = array_document(np.dtype(np.int64), (meta.items + 1,), OFFSETS_CHUNK)
            found[f"{table}/{text}_values/{ROOT}"] = values
            found[f"{table}/{text}_offsets/{ROOT}"] = offsets
    for name in SIDE_ARRAYS:
        dtype, shape = side_spec(meta, name)
        extra = POOLING if name == "pooled" else None
        found[f"{name}/{ROOT}"] = array_document(dtype, (meta.items, *shape), meta.shard, attributes=extra)
    for name, spec in meta.arrays.items():
        shape = (meta.items, *spec.shape)
        found[f"{name}/{ROOT}"] = array_document(spec.dtype, shape, meta.shard, sharded=True)
        if name not in meta.sources:
            found[f"commit/{name}/{ROOT}"] = array_document(np.dtype(np.uint32), (meta.shards,), 1)
    found[MIRROR] = group_document(attributes)  # last, so that it tells whether the others are up to date
    return {path: render(document) for path, document in found.items()}
