"""The view of one split of a store that training and evaluation get."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.fingerprint import digest
from casam_cache.store import Annotations, EmbeddingStore
from casam_cache.store.schema import EMBEDDING
from casam_cache.training.data import Item, ItemMask


class SplitView:
    """One split of one task: an `Items` over functions that can reach no other item.

    Make it with `open_split`. It offers no way to the store, to another split or to another task: indexes
    count this split's items only.

    Attributes:
        task: name of the task.
        split: `train`, `val` or `test`.
        embedding_shape: (C, g, g).
        content: SHA-256 over the store's identity and what each item holds: image, masks, prompts, group. Two
            views of equal content give equal results; other splits have no part in it.
    """

    def __init__(
        self,
        task: str,
        split: str,
        items: Sequence[Item],
        embedding_shape: tuple[int, int, int],
        content: str,
        read_feature: Callable[[str, int], np.ndarray],
        read_masks: Callable[[int], list[ItemMask]],
    ) -> None:
        self.task = task
        self.split = split
        self.embedding_shape = embedding_shape
        self.content = content
        self._items = tuple(items)
        self._read_feature = read_feature
        self._read_masks = read_masks

    def __len__(self) -> int:
        """Number of images of the split that have features."""
        return len(self._items)

    def item(self, index: int) -> Item:
        """What is known of an item without reading pixels or features."""
        return self._items[self._own(index)]

    def embedding(self, index: int) -> np.ndarray:
        """The stored image embedding, float16 (C, g, g), read-only."""
        return self._read_feature(EMBEDDING, self._own(index))

    def feature(self, name: str, index: int) -> np.ndarray:
        """A stored feature array by name (`embedding`, `early`, `tokens`), read-only.

        Raises:
            StoreError: the store lacks it; the hint says how to add it.
        """
        return self._read_feature(name, self._own(index))

    def masks(self, index: int) -> Sequence[ItemMask]:
        """The masks of an item, decoded now."""
        return self._read_masks(self._own(index))

    def _own(self, index: int) -> int:
        if not 0 <= index < len(self._items):
            raise IndexError(f"item {index} of the {len(self._items)} {self.split} images of {self.task}")
        return index


def open_split(store: EmbeddingStore, split: str, task: str | None = None) -> SplitView:
    """The view of one split of a store.

    Images that could not be encoded are not part of it.

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
    places = [int(annotations.item[row]) for row in rows]
    owned = [[int(mask) for mask in annotations.masks_of(row)] for row in rows]
    items = [
        Item(store.ids[place], name, annotations.group(row), store.geometry(place), len(masks))
        for row, place, masks in zip(rows, places, owned, strict=True)
    ]

    def read_masks(index: int) -> list[ItemMask]:
        return [
            ItemMask(
                annotations.mask(mask),
                int(annotations.class_id[mask]),
                int(annotations.instance[mask]),
                annotations.box[mask],
                annotations.point[mask],
            )
            for mask in owned[index]
        ]

    channels, height, width = store.embedding_shape
    return SplitView(
        task=name,
        split=split,
        items=items,
        embedding_shape=(channels, height, width),
        content=_content(store, annotations, items, rows, places),
        read_feature=lambda feature, index: store.read(places[index], feature),
        read_masks=read_masks,
    )


def _content(
    store: EmbeddingStore,
    annotations: Annotations,
    items: Sequence[Item],
    rows: Sequence[int],
    places: Sequence[int],
) -> str:
    held = [
        [
            item.id,
            item.group,
            store.source_sha256[place].tobytes().hex(),
            annotations.sample_sha256[row].tobytes().hex(),
        ]
        for item, row, place in zip(items, rows, places, strict=True)
    ]
    return digest([store.fingerprint, sorted(held)])
