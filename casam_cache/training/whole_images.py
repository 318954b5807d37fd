"""Masks of tiles, scored as objects of the whole images: what each tile predicts in its core, put together.

The cores of an image's tiles are the image, each pixel once (overlaps are cut in the middle), so that the pixels of an
object, of what was predicted for it and of both are sums over tiles, and no image is ever held. An object is one row:
the pieces of it in several tiles are known by their number, or, where each tile numbers its connected regions anew, by
the true pixels that they share where tiles overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.metrics.base import MetricFacts
from casam_cache.training import mask_tables
from casam_cache.training.items import Item, ItemMask
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.tiles import TilePlace

FILE = "whole_images.csv"
WHOLE_METRICS = (MetricFacts("iou", "IoU"), MetricFacts("dice", "Dice"))


@dataclass
class _Piece:
    """Counts of pixels in the core of a tile, of one object; `region` is where it is, where pieces are to be joined."""

    group: str
    predicted: int
    truth: int
    both: int
    region: _Region | None = None


@dataclass(frozen=True)
class _Region:
    """True pixels of a piece: first column and row in the image, height and width, and the bits of its rows."""

    x: int
    y: int
    shape: tuple[int, int]
    bits: np.ndarray

    @classmethod
    def of(cls, place: TilePlace, truth: np.ndarray) -> _Region | None:
        """None of an empty mask."""
        if not truth.any():
            return None
        cutout = Cutout.of(truth).tight()
        height, width = cutout.pixels.shape
        bits = np.packbits(cutout.pixels, axis=1)
        return cls(place.x + cutout.left, place.y + cutout.top, (height, width), bits)

    @property
    def bottom(self) -> int:
        return self.y + self.shape[0]

    @property
    def first_pixel(self) -> tuple[int, int]:
        return self.y, self.x + int(np.flatnonzero(np.unpackbits(self.bits[0]))[0])

    def shares(self, other: _Region) -> bool:
        """Whether a pixel of the image belongs to both."""
        y0, y1 = max(self.y, other.y), min(self.bottom, other.bottom)
        x0 = max(self.x, other.x)
        x1 = min(self.x + self.shape[1], other.x + other.shape[1])
        return y0 < y1 and x0 < x1 and bool((self._part(y0, y1, x0, x1) & other._part(y0, y1, x0, x1)).any())

    def _part(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        rows = np.unpackbits(self.bits[y0 - self.y : y1 - self.y], axis=1)
        return rows[:, x0 - self.x : x1 - self.x]


class WholeImages:
    """Takes masks tile by tile, in any order; holds counts, and of regions that are to be joined their pixels as bits.

    Images that were small enough to stay whole are whole images too.
    """

    def __init__(self) -> None:
        self._pieces: dict[tuple[str, str, int], list[tuple[int, _Piece]]] = {}

    def add(self, item: Item, mask: ItemMask, bitmap: np.ndarray) -> None:
        """One true mask of a tile and what was predicted for it, bool (H, W)."""
        self.add_counts(item, int(mask.class_id), int(mask.instance), bitmap, mask.bitmap)

    def add_counts(
        self,
        item: Item,
        class_id: int,
        instance: int,
        predicted: np.ndarray,
        truth: np.ndarray,
        *,
        joined: bool = False,
    ) -> None:
        """As `add`, of a class or object by its number: two bool (H, W), pixels that count nowhere being in neither.

        With `joined` it is one by its number in all tiles, whatever the masks are.
        """
        height, width = truth.shape
        place = item.tile or TilePlace(item.id, 0, 0, (0, 0, width, height), joined=True)
        rows, columns = place.core_inside
        own, wanted = predicted[rows, columns], truth[rows, columns]
        piece = _Piece(
            item.group,
            int(np.count_nonzero(own)),
            int(np.count_nonzero(wanted)),
            int(np.count_nonzero(own & wanted)),
            None if joined or place.joined else _Region.of(place, truth),
        )
        self._pieces.setdefault((item.task, place.image, class_id), []).append((instance, piece))

    def outcomes(self) -> Outcomes:
        """A row an object of an image, sorted: `item` is the whole image, `area` its true pixels.

        `scores` are IoU and Dice; `predicted_iou` is NaN. Joined regions are numbered anew, by their first pixels.
        """
        found = Outcomes(scores={metric.name: [] for metric in WHOLE_METRICS})
        for (task, image, class_id), pieces in sorted(self._pieces.items()):
            for instance, own in _objects(pieces):
                predicted, truth, both = (
                    sum(getattr(piece, name) for piece in own) for name in ("predicted", "truth", "both")
                )
                found.task.append(task)
                found.item.append(image)
                found.group.append(own[0].group)
                found.class_id.append(class_id)
                found.instance.append(instance)
                found.area.append(truth)
                found.predicted_iou.append(math.nan)
                either = predicted + truth - both
                found.scores["iou"].append(both / either if either else math.nan)
                found.scores["dice"].append(2 * both / (predicted + truth) if either else math.nan)
        return found


def _objects(pieces: list[tuple[int, _Piece]]) -> Iterator[tuple[int, list[_Piece]]]:
    """The pieces of each object, sorted by its number."""
    regions = [(piece.region, piece) for _, piece in pieces if piece.region is not None]
    if regions:
        regions.sort(key=lambda pair: pair[0].first_pixel)
        yield from enumerate(_joined(regions), start=1)
        return
    by_number: dict[int, list[_Piece]] = {}
    for number, piece in pieces:
        by_number.setdefault(number, []).append(piece)
    yield from sorted(by_number.items())


def _joined(regions: list[tuple[_Region, _Piece]]) -> list[list[_Piece]]:
    """Pieces that share true pixels, through others too; in the order of the first of each. Sorted by first pixels."""
    parent = list(range(len(regions)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    active: list[int] = []  # whose rows may reach the next ones'
    for place, (region, _) in enumerate(regions):
        active = [other for other in active if regions[other][0].bottom > region.y]
        for other in active:
            if root(other) != root(place) and regions[other][0].shares(region):
                first, second = sorted((root(other), root(place)))
                parent[second] = first
        active.append(place)
    found: dict[int, list[_Piece]] = {}
    for place, (_, piece) in enumerate(regions):
        found.setdefault(root(place), []).append(piece)
    return list(found.values())


def whole_images_of(items: Iterable[Item]) -> WholeImages | None:
    """Where the masks of items go that are tiles; None where none is."""
    return WholeImages() if any(item.tile is not None for item in items) else None


def write_whole_images(folder: Path, outcomes: Outcomes) -> None:
    mask_tables.write(folder / FILE, outcomes.to_csv())


def read_whole_images(folder: Path) -> Outcomes:
    """The table that `write_whole_images` wrote.

    Raises:
        CasamError: missing or damaged.
    """
    return mask_tables.read(folder / FILE, Outcomes.from_csv)
