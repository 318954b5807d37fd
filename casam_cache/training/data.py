"""What training and evaluation may see: the items of one split of one task, and nothing else.

The loop never holds a store. It gets a view over items that were chosen before, so that no method can reach
the test split or another task's images by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.geometry import Geometry


@dataclass(frozen=True)
class Item:
    """One image of the view, without its pixels.

    Attributes:
        id: unique in its task.
        task: the dataset it belongs to; views that join tasks have several.
        group: patient or slide: what intervals resample.
        geometry: how it was put into the encoder's input.
        masks: how many masks it has; 0 for images that only feed routers.
        visits: mean number of visits an epoch, where it has masks; views that balance tasks set it.
        purpose: what its random choices belong to besides seed, task, epoch and id; replayed images say for
            which task they are replayed, so that they do not repeat the prompts of their own task's training.
        view: which view of the image this is; empty for the image itself.
        variants: where else in the view the same image is, as other views; a visit draws one of all its places.
    """

    id: str
    task: str
    group: str
    geometry: Geometry
    masks: int
    visits: float = 1.0
    purpose: tuple[str, ...] = ()
    view: str = ""
    variants: tuple[int, ...] = ()


@dataclass(frozen=True)
class ItemMask:
    """One true mask with its frozen test prompts.

    Attributes:
        bitmap: bool (H, W) at original resolution.
        class_id, instance: which class or object it is.
        box: float32 (4,), x0, y0, x1, y1 in original pixels, inclusive.
        point: float32 (2,), x, y in original pixels.
    """

    bitmap: np.ndarray
    class_id: int
    instance: int
    box: np.ndarray
    point: np.ndarray


class Items(Protocol):
    """One split of one task (or a join of such views). Items are in a fixed order; indexes start at 0."""

    @property
    def task(self) -> str:
        """Name of the view: the task, or what joins several."""

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, g, g)."""

    def __len__(self) -> int:
        """Number of items."""

    def item(self, index: int) -> Item:
        """What is known of an item without reading pixels or features."""

    def embedding(self, index: int) -> np.ndarray:
        """The stored image embedding, float16 (C, g, g)."""

    def feature(self, name: str, index: int) -> np.ndarray:
        """A stored feature array of an item by name; `embedding` is `embedding(index)`.

        Raises:
            StoreError: there is no such array; the hint says how to add it.
        """

    def masks(self, index: int) -> Sequence[ItemMask]:
        """The masks of an item, decoded now."""


@dataclass(frozen=True)
class ItemsInMemory:
    """A view over arrays: for programs that have no store, and for tests.

    Attributes:
        task: name of the view.
        items: their descriptions.
        embeddings: float16 (N, C, g, g).
        bitmaps: the masks of each item.
        further: other feature arrays by name, (N, ...) each.
    """

    task: str
    items: Sequence[Item]
    embeddings: np.ndarray
    bitmaps: Sequence[Sequence[ItemMask]]
    further: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arrays = (self.embeddings, self.bitmaps, *self.further.values())
        if any(len(array) != len(self.items) for array in arrays):
            raise ValueError("items, embeddings, bitmaps and further features must be as many")

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, g, g)."""
        channels, rows, columns = self.embeddings.shape[1:]
        return channels, rows, columns

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def item(self, index: int) -> Item:
        """The description given."""
        return self.items[index]

    def embedding(self, index: int) -> np.ndarray:
        """The embedding given, (C, g, g)."""
        row: np.ndarray = self.embeddings[index]
        return row

    def feature(self, name: str, index: int) -> np.ndarray:
        """The feature given.

        Raises:
            StoreError: it was not.
        """
        if name == "embedding":
            return self.embedding(index)
        if name not in self.further:
            raise StoreError(
                f"{self.task} has no feature '{name}'", f"give it in further={{'{name}': array}}"
            )
        row: np.ndarray = self.further[name][index]
        return row

    def masks(self, index: int) -> Sequence[ItemMask]:
        """The masks given."""
        return self.bitmaps[index]


VALID = "valid"


def read_feature(items: Items, name: str, index: int) -> np.ndarray:
    """What a head `needs` of an item: a stored feature array, or `valid`, which its geometry tells.

    `valid` is bool (g, g): the cells of the embedding grid that hold image and not only padding.
    """
    if name == VALID:
        return items.item(index).geometry.valid_cells()
    return items.embedding(index) if name == "embedding" else items.feature(name, index)
