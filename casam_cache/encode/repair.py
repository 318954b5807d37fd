"""Making a damaged store whole: what is lost is encoded again, in the batches it was first encoded in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.datasets import DatasetOptions, Reader, find_reader, read_dataset
from casam_cache.datasets.base import check_inside
from casam_cache.datasets.folder import FolderReader
from casam_cache.encode.annotate import recorded_reader
from casam_cache.encode.decode import Preprocessing, decode
from casam_cache.encode.finished import forget
from casam_cache.encode.pipeline import ImageProgress
from casam_cache.encode.preprocessing import as_in_store
from casam_cache.encode.sources import whole_backbone
from casam_cache.encode.team import EncoderTeam
from casam_cache.errors import DatasetError, OptionError
from casam_cache.references import is_file_reference
from casam_cache.store import Batch, EmbeddingStore, ItemResult
from casam_cache.store.repair import ShardDamage, mend, open_for_repair, replace_items
from casam_cache.views import view_of


def repair_store(
    store: Path,
    data: Path,
    *,
    checkpoint: Path | None = None,
    device: str = "auto",
    reader: str | None = None,
    progress: ImageProgress | None = None,
) -> dict[str, Any]:
    """Restores a store to the bytes it had, encoding again only the items that are damaged.

    Damaged annotations are dropped; `casam encode` writes the same ones again without the encoder.

    Args:
        store: DIR/TASK/BACKBONE.zarr.
        data: the dataset folder it was encoded from.
        checkpoint: where the backbone's checkpoint is now, if not where it was.
        device: `auto`, `cpu`, `cuda`, ...; the same kind as at first gives the same bits.
        reader: name or `FILE.py:Class` of the reader; by default the one that the store names.
        progress: called with (items done, items in all, note, items/s).

    Returns:
        `{"store", "repaired": items encoded again, "ids": their ids}`.

    Raises:
        HeldError: another process is writing into it.
        StoreError: beyond repair, or an image is not the one that was encoded.
        DatasetError: the dataset lacks an image that is needed.
        CheckpointError: the backbone cannot be had.
    """
    with open_for_repair(store) as writer:
        forget(store)
        damages = mend(writer)
        opened = EmbeddingStore.open(store)
        total = sum(len(batch) for damage in damages for batch in damage.batches)
        read_by = _reader(opened, data, reader) if total else FolderReader()
        options = _options(opened)
        sources = _sources(opened, data, read_by, options) if total else []
        encoder = _encoder(store, opened, checkpoint, device) if total else None
        done = 0
        for damage in damages:
            results: dict[Batch, list[ItemResult]] = {}
            for batch in damage.batches:
                assert encoder is not None
                results[batch] = _again(encoder, opened, sources, read_by, data, damage, batch, options)
                done += len(batch)
                if progress is not None:
                    progress(done, total, "encoding again", None)
            replace_items(writer, damage, results)
        ids = [opened.ids[item] for damage in damages for item in damage.items]
    return {"store": str(store), "repaired": len(ids), "ids": ids}


def _reader(opened: EmbeddingStore, data: Path, name: str | None) -> Reader:
    """The reader that the images were read with; the store's word does not run a user's file."""
    recorded = recorded_reader(opened)
    if name is None and recorded:
        if isinstance(recorded["revision"], str) or is_file_reference(str(recorded["name"])):
            raise OptionError(
                f"{opened.path} was read with a reader of your own, '{recorded['name']}'",
                "name its file: --reader FILE.py:CLASS",
            )
        name = str(recorded["name"])
    found = find_reader(data, name)
    if found is None:
        raise DatasetError(
            f"{data}: no dataset of the reader '{name or 'folder'}'", "name the dataset it was encoded from"
        )
    return found


def _options(opened: EmbeddingStore) -> DatasetOptions:
    """How the dataset was read when the store was last annotated; the defaults where nothing says it."""
    recorded = opened.annotations.attributes.get("options", {}) if opened.has_annotations else {}
    return DatasetOptions().over(recorded)


def _sources(opened: EmbeddingStore, data: Path, reader: Reader, options: DatasetOptions) -> list[str]:
    """What each image is read from. The store has it, but of files whose pages or channels were chosen only later."""
    if options.pages is None and options.channels is None and options.exif is None:
        return opened.paths
    now = {sample.id: sample.source for sample in read_dataset(data, options, reader=reader).samples}
    return [now.get(name, path) for name, path in zip(opened.ids, opened.paths, strict=True)]


def _encoder(store: Path, opened: EmbeddingStore, checkpoint: Path | None, device: str) -> FrozenEncoder:
    identity = opened.identity
    backbone = whole_backbone(
        store.parent.parent, identity["backbone"]["weights"], checkpoint, choose_device(device)
    )
    return FrozenEncoder.of(as_in_store(backbone, identity), identity)


def _again(
    encoder: FrozenEncoder,
    opened: EmbeddingStore,
    sources: list[str],
    reader: Reader,
    data: Path,
    damage: ShardDamage,
    batch: Batch,
    options: DatasetOptions,
) -> list[ItemResult]:
    preprocessing = Preprocessing(
        encoder.backbone.image_size,
        encoder.backbone.patch_size,
        opened.identity["preprocessing"]["resize"],
        opened.identity["preprocessing"]["intensity"],
        options.max_pixels,
        encoder.backbone.prepare,
        reader=reader,
    )
    for item in range(batch.start, batch.stop):
        source = sources[item]
        check_inside(source)
        file = reader.file_of(source)
        if file is not None and item in damage.items and not (data / file).exists():
            raise DatasetError(
                f"{data / file}: the store needs this image to be repaired",
                "name the dataset it was encoded from",
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
        decoded = [decode(data, sources[item], shown) for item in range(batch.start, batch.stop)]
        found = EncoderTeam([encoder]).start(decoded, arrays, encoder.backbone.image_size).results()
        if not merged:
            merged = found
        else:
            pairs = zip(merged, found, strict=True)
            merged = [replace(first, arrays={**first.arrays, **more.arrays}) for first, more in pairs]
    return merged
