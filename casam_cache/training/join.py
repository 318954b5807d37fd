"""Views made of other views: several joined into one, and one that holds named images and nothing else."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from casam_cache.errors import CasamError
from casam_cache.training.data import Item, ItemMask, Items


class JoinedItems:
    """The items of several views, one view after the other.

    Random choices belong to each item's own task, so that joining changes none of them but what `visits` and
    `purposes` say.

    Args:
        parts: the views, of one embedding shape.
        visits: for each view, the mean number of visits of its items an epoch; 1 unless given.
        purposes: for each view, what its random choices belong to besides (seed, task, epoch, sample).

    Attributes:
        task: the names of the views, joined by " + ".
        embedding_shape: (C, g, g).

    Raises:
        CasamError: there is no view, or their embeddings differ in shape.
    """

    def __init__(
        self,
        parts: Sequence[Items],
        visits: Sequence[float] | None = None,
        purposes: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        shapes = {part.embedding_shape for part in parts}
        if len(shapes) != 1:
            raise CasamError(
                f"embeddings of shapes {sorted(shapes)} cannot be joined",
                "encode every task with one --model",
            )
        self.task = " + ".join(part.task for part in parts)
        self.embedding_shape = shapes.pop()
        self._parts = tuple(parts)
        self._visits = tuple(visits or [1.0] * len(parts))
        self._purposes = tuple(purposes or [()] * len(parts))
        self._starts = list(accumulate((len(part) for part in parts), initial=0))

    def __len__(self) -> int:
        """Number of items of all views."""
        return self._starts[-1]

    def item(self, index: int) -> Item:
        """What its view says, with the visits and the purpose it has here."""
        part, own = self._find(index)
        described = self._parts[part].item(own)
        return replace(
            described,
            visits=described.visits * self._visits[part],
            purpose=described.purpose + self._purposes[part],
        )

    def embedding(self, index: int) -> np.ndarray:
        """The stored image embedding, (C, g, g)."""
        part, own = self._find(index)
        return self._parts[part].embedding(own)

    def feature(self, name: str, index: int) -> np.ndarray:
        """A stored feature array of an item by name."""
        part, own = self._find(index)
        return self._parts[part].feature(name, own)

    def masks(self, index: int) -> Sequence[ItemMask]:
        """The masks of an item, decoded now."""
        part, own = self._find(index)
        return self._parts[part].masks(own)

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of the {len(self)} of {self.task}")
        part = bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]


class ExemplarView:
    """Exactly the named images of some training views: all that a method sees again of earlier tasks.

    It offers no way to the views it is made of. Items are in the order of their task and id, whenever and in
    whatever order they were remembered.

    Args:
        views: the training view of each task, by name.
        exemplars: (task, id) of each image; a repeated one counts once.

    Attributes:
        task: "replay".
        embedding_shape: (C, g, g).

    Raises:
        CasamError: no image is named, or one that its view does not hold.
    """

    def __init__(self, views: Mapping[str, Items], exemplars: Sequence[tuple[str, str]]) -> None:
        names = sorted(set(exemplars))
        if not names:
            raise CasamError("a replay view needs an image", "pass no view where nothing is remembered")
        held = {
            (task, view.item(index).id): index
            for task, view in views.items()
            if any(task == name for name, _ in names)
            for index in range(len(view))
        }
        missing = [f"{task}/{item}" for task, item in names if (task, item) not in held]
        if missing:
            raise CasamError(
                f"remembered image {missing[0]} is not in the training split of its task",
                "its annotations changed since: run the sequence anew",
            )
        self.task = "replay"
        self.embedding_shape = views[names[0][0]].embedding_shape
        self._sources = tuple((views[task], held[task, item]) for task, item in names)

    def __len__(self) -> int:
        """Number of exemplars."""
        return len(self._sources)

    def item(self, index: int) -> Item:
        """What is known of an exemplar without reading pixels or features."""
        view, own = self._source(index)
        return view.item(own)

    def embedding(self, index: int) -> np.ndarray:
        """The stored image embedding, (C, g, g)."""
        view, own = self._source(index)
        return view.embedding(own)

    def feature(self, name: str, index: int) -> np.ndarray:
        """A stored feature array of an exemplar by name."""
        view, own = self._source(index)
        return view.feature(name, own)

    def masks(self, index: int) -> Sequence[ItemMask]:
        """The masks of an exemplar, decoded now."""
        view, own = self._source(index)
        return view.masks(own)

    def _source(self, index: int) -> tuple[Items, int]:
        if not 0 <= index < len(self._sources):
            raise IndexError(f"item {index} of the {len(self._sources)} exemplars")
        return self._sources[index]


def positions(items: Items) -> dict[tuple[str, str], int]:
    """Where in a view each (task, id) is."""
    return {(item.task, item.id): index for index in range(len(items)) for item in (items.item(index),)}
