"""What a cheaper store costs: the frozen SAM's IoU on its embeddings against the same images in another store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.backbones.devices import choose_device
from casam_cache.encode.sources import decoder_of
from casam_cache.errors import StoreError
from casam_cache.heads.files import build_head
from casam_cache.store import EmbeddingStore
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import open_split
from casam_cache.training.outcomes import Outcomes

Progress = Callable[[int, int], None]
SPLITS = ("train", "val", "test")


def compare_stores(
    store: Path, other: Path, *, device: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """Scores the frozen SAM on both stores, every mask of every split prompted with its stored box.

    Args:
        store: e.g. of int8.
        other: of the same images and masks, e.g. of float16.
        device: where the decoder runs.
        progress: called with (images done, images), both stores counted.

    Returns:
        `{"store": the other, "masks", "iou", "other_iou": means over the masks, "difference": iou - other_iou,
        "largest": the largest absolute difference of a mask}`; IoU in [0, 1], null where undefined.

    Raises:
        StoreError: where the two hold other images or masks, or one is not complete.
        CheckpointError: where the decoder of one is missing.
    """
    mine, theirs = EmbeddingStore.open(store), EmbeddingStore.open(other)
    if _held(mine) != _held(theirs):
        raise StoreError(
            f"{store} and {other} do not hold the same images with the same masks",
            "encode both from the same dataset with the same options, under two --name",
        )
    images = 2 * int(mine.available().sum())
    done = 0

    def shown(before: int, now: int, _: int) -> None:
        if progress is not None:
            progress(before + now, images)

    def scored(opened: EmbeddingStore) -> Outcomes:
        nonlocal done
        stores = opened.path.parent.parent
        backbone = decoder_of(stores, opened.identity["backbone"]["weights"], choose_device(device))
        head = build_head("identity", None, backbone, seed=0)
        parts = []
        for split in SPLITS:
            if not opened.available()[opened.annotations.item[opened.annotations.rows(split)]].any():
                continue
            view = open_split(opened, split)
            parts.append(evaluate(head, backbone, view, progress=partial(shown, done)))
            done += len(view)
        return Outcomes.joined(parts)

    own, others = scored(mine), scored(theirs)
    if not len(own):
        raise StoreError(f"{store} has no masks to compare on", "encode a dataset with masks")
    iou, other_iou = np.array(own.scores["iou"]), np.array(others.scores["iou"])
    difference = iou - other_iou
    return {
        "store": str(other),
        "masks": len(own),
        "iou": _mean(iou),
        "other_iou": _mean(other_iou),
        "difference": _mean(difference),
        "largest": float(np.nanmax(np.abs(difference))) if np.isfinite(difference).any() else None,
    }


def _mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _held(store: EmbeddingStore) -> list[tuple[str, bytes, bytes]]:
    """Id, image and masks of every item that has features and annotations, in the order of the annotations."""
    annotations, available = store.annotations, store.available()
    return [
        (store.ids[item], store.source_sha256[item].tobytes(), annotations.sample_sha256[row].tobytes())
        for row, item in enumerate(annotations.item.tolist())
        if available[item]
    ]
