"""All masks of an image as one map of classes, at its own size and on a grid over the encoder's input.

Objects of one class are one region. Where masks of different classes overlap, the smaller mask has the pixel: a part
(a tumour) lies in a whole (an organ) far more often than the other way round, and would be lost under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from casam_cache.errors import CasamError, memory_for
from casam_cache.geometry import Geometry
from casam_cache.training.epochs import area_matrix
from casam_cache.training.items import ItemMask, Items

UNCOUNTED = 255  # in targets: padding, and cells of which most is ignored


def classes_of(items: Items) -> tuple[int, ...]:
    """The ids of all classes that masks of some items have, ascending."""
    return tuple(
        sorted({mask.class_id for i, item in enumerate(items) if item.masks for mask in items.masks(i)})
    )


def with_background(items: Items, images: bool) -> Items:
    """The items, those without a mask among them only where such an image is known to show background alone."""
    if images:
        return items
    return replace(items, rows=tuple(row for row in items.rows if row.item.masks), content="")


def true_map(masks: Sequence[ItemMask], geometry: Geometry, classes: Sequence[int]) -> np.ndarray:
    """The masks of an image as one map, uint16 (H, W): 0 background, 1 + k where it is `classes[k]`.

    Raises:
        ValueError: a mask is of another class.
    """
    found = np.zeros((geometry.height, geometry.width), np.uint16)
    place = {number: 1 + index for index, number in enumerate(classes)}
    cutouts = [(mask.cutout, place[mask.class_id]) for mask in masks]
    for cutout, value in sorted(cutouts, key=lambda one: (-one[0].area, one[1])):
        height, width = cutout.pixels.shape
        part = found[cutout.top : cutout.top + height, cutout.left : cutout.left + width]
        part[cutout.pixels] = value
    return found


def grid_target(labels: np.ndarray, ignored: np.ndarray | None, geometry: Geometry, side: int) -> np.ndarray:
    """A map on a grid of `side` cells over the square input, uint8 (side, side).

    A cell has the label that most of its counted pixels have, the lower one where two have as many. A class too thin or
    small to win any cell keeps its fullest one. Padding, and cells of which more than half is ignored, are `UNCOUNTED`.

    Args:
        labels: (H, W), from `true_map`.
        ignored: bool (H, W), pixels that count nowhere, or None.
        geometry: of the image.
        side: cells a side.
    """
    rows = area_matrix(geometry.height, geometry.input_height, side, geometry.image_size)
    columns = area_matrix(geometry.width, geometry.input_width, side, geometry.image_size)
    counted = np.ones(labels.shape) if ignored is None else (~ignored).astype(np.float64)
    present = np.unique(labels)
    shares = np.stack([rows @ ((labels == value) * counted) @ columns.T for value in present])
    target = present[shares.argmax(axis=0)].astype(np.uint8)
    for value, share in zip(present, shares, strict=True):
        if value and share.max() > 0 and not (target == value).any():
            target[share == share.max()] = value
    inside = rows.sum(axis=1)[:, None] * columns.sum(axis=1)[None]
    target[(inside < 0.5) | (shares.sum(axis=0) < 0.5)] = UNCOUNTED
    return target


@dataclass(frozen=True)
class ClassMaps:
    """The targets of some items.

    Attributes:
        targets: uint8 (N, side, side), from `grid_target`.
    """

    targets: np.ndarray

    @classmethod
    def prepare(
        cls,
        items: Items,
        classes: Sequence[int],
        side: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> ClassMaps:
        """Decodes every mask once; `progress` is called with (items done, items).

        Raises:
            CasamError: no item has a mask.
        """
        if not any(item.masks for item in items):
            raise CasamError(
                f"task {items.task}: none of its {len(items)} training images has a mask",
                "casam data check shows what was found and in which split",
            )
        targets = np.empty((len(items), side, side), np.uint8)
        for index, item in enumerate(items):
            with memory_for(f"{item.task}/{item.id}"):
                masks = items.masks(index) if item.masks else ()
                labels = true_map(masks, item.geometry, classes)
                targets[index] = grid_target(labels, items.ignored(index), item.geometry, side)
            if progress:
                progress(index + 1, len(items))
        return cls(targets)
