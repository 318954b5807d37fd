"""A fake encoder for the store's tests: features follow from the item's number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from casam_cache.geometry import Geometry
from casam_cache.store import AnnotatedMask, AnnotatedSample, ItemResult, StoreWriter, write_annotations
from casam_cache.store.results import Batch

SHAPES = {"embedding": (6, 4, 4), "early": (2, 4, 4)}
ITEMS = [(f"pat{i // 2}/slice é{i}", f"images/pat{i // 2}/slice é{i}.png") for i in range(13)]
FAILS = {3, 8}
IDENTITY = {"backbone": {"weights": "0a1b", "architecture": "tiny"}, "precision": "fp32"}


def feature(name: str, item: int) -> np.ndarray:
    return np.random.default_rng([item, len(name)]).normal(size=SHAPES[name]).astype(np.float16)


def encode(batch: Batch, fails: set[int] = FAILS) -> list[ItemResult]:
    results = []
    for item in range(batch.start, batch.stop):
        sha = hashlib.sha256(str(item).encode()).digest()
        if item in fails:
            results.append(ItemResult(source_sha256=sha, failure=f"truncated PNG number {item}"))
        else:
            geometry = Geometry.fit(40 + item, 64, 64, 16)
            results.append(ItemResult({name: feature(name, item) for name in SHAPES}, geometry, sha))
    return results


def open_writer(
    path: Path, commit_seconds: float = 30.0, shard_items: int = 4, dtype: str = "float16"
) -> StoreWriter:
    return StoreWriter.open_or_create(
        path,
        IDENTITY,
        embedding_shape=SHAPES["embedding"],
        image_size=64,
        patch_size=16,
        dtype=dtype,
        shard_items=shard_items,
        commit_seconds=commit_seconds,
    )


def samples() -> list[AnnotatedSample]:
    found = []
    for item in range(len(ITEMS)):
        masks = []
        for instance in range(item % 3):
            bitmap = np.random.default_rng([item, instance]).random((40 + item, 64)) > 0.6
            mask = AnnotatedMask.from_bitmap(bitmap, 1, instance + 1, (1, 2, 30, 20.5), (4, 5))
            masks.append(mask)
        found.append(
            AnnotatedSample(item, ("train", "val", "test")[item % 3], f"pat{item // 2}", tuple(masks))
        )
    return found


def fill(
    path: Path,
    arrays: Sequence[str] = ("embedding", "early"),
    commit_seconds: float = 30.0,
    pause: Callable[[], None] = lambda: None,
    dtype: str = "float16",
) -> None:
    """Everything a whole life of a store has: two segments, failures, a second array, annotations."""
    with open_writer(path, commit_seconds, dtype=dtype) as writer:
        for part in (ITEMS[:10], ITEMS[10:]):
            known = set(writer.ids())
            writer.plan([item for item in part if item[0] not in known], 3)
        for name in arrays[1:]:
            writer.add_array(name, SHAPES[name], dtype)
        for batch in writer.pending(arrays):
            pause()
            writer.append(batch, encode(batch), arrays)
        write_annotations(path, samples(), {"mask_mode": "instances"}, lock=writer.lock)


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
