"""Training on cached views: the same images mirrored, turned or smaller, with their masks and prompts.

The embeddings of views were made by `casam encode --views`; here each image of a training view gets further places for
them, and every visit of the image draws which one it is shown as, by (seed, task, epoch, sample) like everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.training.data import Item, ItemMask, Items
from casam_cache.views import View


class ViewedItems:
    """The items of a view first, in their order, and then all of them again as each further view.

    An item with masks names its other places in `variants`; those are never visited by themselves.

    Args:
        items: the training view.
        views: the further views, of which the store has the arrays.

    Attributes:
        task: of the items.
        embedding_shape: (C, g, g).
    """

    def __init__(self, items: Items, views: Sequence[View]) -> None:
        self.task = items.task
        self.embedding_shape = items.embedding_shape
        self._items = items
        self._views = tuple(views)

    def __len__(self) -> int:
        """Number of items in all views together."""
        return len(self._items) * (1 + len(self._views))

    def item(self, index: int) -> Item:
        """What is known of an item as its view shows it."""
        view, place = self._find(index)
        found = self._items.item(place)
        if view is not None:
            return replace(found, geometry=view.geometry(found.geometry), visits=0.0, view=view.name)
        count = len(self._items)
        others = tuple(place + count * number for number in range(1, 1 + len(self._views)))
        return replace(found, variants=others if found.masks else ())

    def embedding(self, index: int) -> np.ndarray:
        """The stored embedding of that view, float16 (C, g, g)."""
        view, place = self._find(index)
        return self._items.embedding(place) if view is None else self._items.feature(view.array, place)

    def feature(self, name: str, index: int) -> np.ndarray:
        """A stored feature array by name.

        Raises:
            StoreError: for anything but the embedding of a further view: no other feature is stored of views.
        """
        view, place = self._find(index)
        if view is None:
            return self._items.feature(name, place)
        if name == "embedding":
            return self.embedding(index)
        raise StoreError(
            f"views of {self.task} have no '{name}': only embeddings are stored of them",
            "train this method with views=none",
        )

    def masks(self, index: int) -> Sequence[ItemMask]:
        """The masks of an item as its view shows them, with their prompts."""
        view, place = self._find(index)
        found = self._items.masks(place)
        if view is None:
            return found
        geometry = self._items.item(place).geometry
        height, width = geometry.height, geometry.width
        return [
            replace(
                mask,
                bitmap=view.image(mask.bitmap),
                box=view.boxes(mask.box, height, width),
                point=view.points(mask.point, height, width),
            )
            for mask in found
        ]

    def _find(self, index: int) -> tuple[View | None, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        number, place = divmod(index, len(self._items))
        return (self._views[number - 1] if number else None), place
