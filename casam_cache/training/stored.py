"""The items of one split of a store, which training and evaluation get."""

from __future__ import annotations

from casam_cache.errors import StoreError
from casam_cache.fingerprint import digest
from casam_cache.store import Annotations, EmbeddingStore
from casam_cache.training.items import Item, ItemMask, Items, Row


def open_split(store: EmbeddingStore, split: str, task: str | None = None) -> Items:
    """The images of one split of a store; those that could not be encoded are not among them.

    Args:
        store: with annotations, completely encoded.
        split: `train`, `val` or `test`.
        task: its name; by default the folder the store lies in.

    Raises:
        StoreError: if images are not encoded yet, there are no annotations, or the split has no images.
    """
    store.require_complete()
    annotations: Annotations = store.annotations
    name = task or store.path.parent.name
    available = store.available()
    rows = [int(row) for row in annotations.rows(split) if available[annotations.item[row]]]
    if not rows:
        raise StoreError(
            f"task {name} has no {split} images in {store.path}",
            "split.csv, --test-fraction and --val-fraction of `casam encode` decide the split",
        )
    held = sorted(
        [
            store.ids[annotations.item[row]],
            annotations.group(row),
            store.source_sha256[annotations.item[row]].tobytes().hex(),
            annotations.sample_sha256[row].tobytes().hex(),
        ]
        for row in rows
    )
    channels, height, width = store.embedding_shape
    return Items(
        name,
        (channels, height, width),
        tuple(_row(store, annotations, row, name) for row in rows),
        content=digest([store.fingerprint, held]),
    )


def _row(store: EmbeddingStore, annotations: Annotations, row: int, task: str) -> Row:
    place = int(annotations.item[row])
    owned = [int(mask) for mask in annotations.masks_of(row)]

    def masks() -> list[ItemMask]:
        return [
            ItemMask(
                annotations.mask(mask),
                int(annotations.class_id[mask]),
                int(annotations.instance[mask]),
                annotations.box[mask],
                annotations.point[mask],
            )
            for mask in owned
        ]

    item = Item(store.ids[place], task, annotations.group(row), store.geometry(place), len(owned))
    return Row(item, lambda name: store.read(place, name), masks)
