"""The table of items (ids, paths) and the side arrays (one row an item).

Ids and paths are text as UTF-8 values + offsets, appended when images are added. The table is written twice,
into `item/` and `mirror/`, since nothing else could restore it. Entries count only as far as the root
attributes say, so appending first and updating the root afterwards is safe against a kill at any instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from casam_cache.store.files import DamagedError, disk_errors, make_directory, read_chunk, seal, write_all
from casam_cache.store.schema import (
    ITEM_TABLES,
    OFFSETS_CHUNK,
    TEXTS,
    VALUES_CHUNK,
    StoreMeta,
    chunk_name,
    side_spec,
)

VALUES, OFFSETS = np.dtype(np.uint8), np.dtype(np.int64)


def encode_texts(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts -> UTF-8 bytes (uint8, total) and offsets (int64, len + 1)."""
    parts = [text.encode("utf-8", "surrogateescape") for text in texts]
    offsets = np.zeros(len(parts) + 1, dtype=OFFSETS)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), dtype=VALUES), offsets


def decode_texts(values: np.ndarray, offsets: np.ndarray) -> list[str]:
    """The inverse of `encode_texts`."""
    data = values.tobytes()
    bounds = offsets.tolist()
    if data.isascii():
        text = data.decode("ascii")
        return [text[a:b] for a, b in pairwise(bounds)]
    return [data[a:b].decode("utf-8", "surrogateescape") for a, b in pairwise(bounds)]


def read_flat(folder: Path, dtype: np.dtype, chunk: int, length: int) -> np.ndarray:
    """A one-dimensional array of `length` entries.

    Raises:
        DamagedError: where a chunk is missing or not what was written.
    """
    flat = np.zeros(-(-length // chunk) * chunk, dtype=dtype)
    for index in range(len(flat) // chunk):
        found = read_chunk(folder / chunk_name(index), dtype, (chunk,))
        if found is None:
            raise DamagedError(folder / chunk_name(index), "is missing")
        if found is not None:
            flat[index * chunk : (index + 1) * chunk] = found
    return flat[:length]


def read_items(store: Path, meta: StoreMeta, text: str) -> list[str]:
    """All ids or paths, by the item table or, where that is damaged, by its mirror."""
    if not meta.items:
        return []
    for table in ITEM_TABLES:
        folder = store / table
        try:
            values = read_flat(folder / f"{text}_values", VALUES, VALUES_CHUNK, meta.text_bytes[text])
            offsets = read_flat(folder / f"{text}_offsets", OFFSETS, OFFSETS_CHUNK, meta.items + 1)
            return decode_texts(values, offsets)
        except DamagedError:
            if table == ITEM_TABLES[-1]:
                raise
    raise AssertionError


def read_side(store: Path, meta: StoreMeta, name: str, shard: int, required: bool = False) -> np.ndarray:
    """A writable copy of one shard (all its places) of a side array; zeros where it has no file.

    Args:
        store: its folder.
        meta: its root attributes.
        name: one of `SIDE_ARRAYS`.
        shard: which shard.
        required: items of this shard are committed, so that only `failure` may lack its file.

    Raises:
        DamagedError: where the file is missing though required, or not what was written.
    """
    dtype, tail = side_spec(meta, name)
    shape = (meta.shard, *tail)
    path = store / name / chunk_name(shard, len(shape))
    found = read_chunk(path, dtype, shape)
    if found is None and required and name != "failure":
        raise DamagedError(path, "is missing")
    return np.zeros(shape, dtype) if found is None else found.astype(dtype)


def append_items(store: Path, meta: StoreMeta, items: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Write the (id, path) of new items after the ones `meta` knows, in both tables, durably.

    Returns:
        The new total of bytes of each text, for the root attributes.
    """
    totals = {}
    for column, text in enumerate(TEXTS):
        values, offsets = encode_texts([item[column] for item in items])
        before = meta.text_bytes[text]
        totals[text] = before + len(values)
        for table in ITEM_TABLES:
            folder = store / table
            _append_flat(folder / f"{text}_values", VALUES_CHUNK, before, values)
            _append_flat(folder / f"{text}_offsets", OFFSETS_CHUNK, meta.items + 1, offsets[1:] + before)
    return totals


def trim_items(store: Path, meta: StoreMeta) -> None:
    """Undo what a killed `append_items` left beyond the items that the root attributes know."""
    for table in ITEM_TABLES:
        for text in TEXTS:
            folder = store / table
            _trim_flat(folder / f"{text}_values", VALUES, VALUES_CHUNK, meta.text_bytes[text])
            _trim_flat(
                folder / f"{text}_offsets", OFFSETS, OFFSETS_CHUNK, meta.items + 1 if meta.items else 0
            )


def _append_flat(folder: Path, chunk: int, length: int, new: np.ndarray) -> None:
    if not len(new):
        return
    first = length // chunk
    used = length - first * chunk
    padded = np.zeros(-(-(used + len(new)) // chunk) * chunk, dtype=new.dtype)
    if used:
        old = read_chunk(folder / chunk_name(first), new.dtype, (chunk,))
        if old is not None:
            padded[:used] = old[:used]
    padded[used : used + len(new)] = new
    make_directory(folder)
    write_all(
        (folder / chunk_name(first + index), [seal(part)])
        for index, part in enumerate(padded.reshape(-1, chunk))
    )


def _trim_flat(folder: Path, dtype: np.dtype, chunk: int, length: int) -> None:
    chunks = -(-length // chunk)
    with disk_errors(folder, "cannot clean up"):
        index = chunks
        while (folder / chunk_name(index)).exists():
            (folder / chunk_name(index)).unlink()
            index += 1
    used = length % chunk
    if not used:
        return
    try:
        last = read_chunk(folder / chunk_name(chunks - 1), dtype, (chunk,))
    except DamagedError:
        return  # for `verify` to report and `repair` to restore
    if last is not None and last[used:].any():
        write_all(
            [(folder / chunk_name(chunks - 1), [seal(np.append(last[:used], np.zeros(chunk - used, dtype)))])]
        )
