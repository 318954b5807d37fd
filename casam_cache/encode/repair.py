"""Making a damaged store whole: what is lost is encoded again, in the batches it was first encoded in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.datasets.sample import DatasetOptions
from casam_cache.encode.decode import Preprocessing, decode
from casam_cache.encode.finished import forget
from casam_cache.encode.pipeline import ImageProgress
from casam_cache.encode.sources import whole_backbone
from casam_cache.encode.team import EncoderTeam
from casam_cache.errors import DatasetError
from casam_cache.store import Batch, EmbeddingStore, ItemResult
from casam_cache.store.repair import ShardDamage, mend, open_for_repair, replace_items
from casam_cache.views import view_of


def repair_store(
    store: Path,
    data: Path,
    *,
    checkpoint: Path | None = None,
    device: str = "auto",
    progress: ImageProgress | None = None,
) -> dict[str, Any]:
    """Restores a store to the bytes it had, encoding again only the items that are damaged.

    Damaged annotations are dropped; `casam encode` writes the same ones again without the encoder.

    Args:
        store: DIR/TASK/BACKBONE.zarr.
        data: the dataset folder it was encoded from.
        checkpoint: where the backbone's checkpoint is now, if not where it was.
        device: `auto`, `cpu`, `cuda`, ...; the same kind as at first gives the same bits.
        progress: called with (items done, items in all, note, items/s).

    Returns:
        `{"store", "repaired": items encoded again, "ids": their ids}`.

    Raises:
        StoreError: beyond repair, locked, or an image is not the one that was encoded.
        DatasetError: the dataset lacks an image that is needed.
        CheckpointError: the backbone cannot be had.
    """
    with open_for_repair(store) as writer:
        forget(store)
        damages = mend(writer)
        opened = EmbeddingStore.open(store)
        total = sum(len(batch) for damage in damages for batch in damage.batches)
        encoder = _encoder(store, opened, checkpoint, device) if total else None
        done = 0
        for damage in damages:
            results: dict[Batch, list[ItemResult]] = {}
            for batch in damage.batches:
                assert encoder is not None
                results[batch] = _again(encoder, opened, data, damage, batch)
                done += len(batch)
                if progress is not None:
                    progress(done, total, "encoding again", None)
            replace_items(writer, damage, results)
        ids = [opened.ids[item] for damage in damages for item in damage.items]
    return {"store": str(store), "repaired": len(ids), "ids": ids}


def _encoder(store: Path, opened: EmbeddingStore, checkpoint: Path | None, device: str) -> FrozenEncoder:
    identity = opened.identity
    backbone = whole_backbone(
        store.parent.parent, identity["backbone"]["weights"], checkpoint, choose_device(device)
    )
    return FrozenEncoder.of(backbone, identity)


def _again(
    encoder: FrozenEncoder, opened: EmbeddingStore, data: Path, damage: ShardDamage, batch: Batch
) -> list[ItemResult]:
    preprocessing = Preprocessing(
        encoder.backbone.image_size,
        encoder.backbone.patch_size,
        opened.identity["preprocessing"]["resize"],
        opened.identity["preprocessing"]["intensity"],
        DatasetOptions().max_pixels,
        encoder.backbone.prepare,
    )
    for item in range(batch.start, batch.stop):
        path = data / opened.paths[item]
        if item in damage.items and not path.exists():
            raise DatasetError(
                f"{path}: the store needs this image to be repaired", "name the dataset it was encoded from"
            )
    views = {name: view_of(name) for name in damage.arrays}
    passes = [
        [name for name, view in views.items() if view is None],
        *([name] for name in views if views[name]),
    ]
    merged: list[ItemResult] = []
    for arrays in passes:
        if not arrays:
            continue
        shown = replace(preprocessing, view=views[arrays[0]])
        decoded = [decode(data, opened.paths[item], shown) for item in range(batch.start, batch.stop)]
        found = EncoderTeam([encoder]).start(decoded, arrays, encoder.backbone.image_size).results()
        if not merged:
            merged = found
        else:
            pairs = zip(merged, found, strict=True)
            merged = [replace(first, arrays={**first.arrays, **more.arrays}) for first, more in pairs]
    return merged
