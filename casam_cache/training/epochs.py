"""What an epoch consists of: which images, which of their masks, with which prompts, in which order.

Every choice belongs to (seed, task, epoch, sample) through a generator of its own. The order is by a random number that
each visit draws, so that adding an image, joining tasks or resuming changes no other image's choices. Where tasks are
balanced, images are visited more or less than once an epoch: then which images, too, is drawn anew in each epoch, and
each further visit draws for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.training.items import Item, Items
from casam_cache.training.options import TrainingOptions
from casam_cache.training.prompts import MaskRuns, draw_prompt
from casam_cache.training.resize import low_res_cover, low_res_target


@dataclass(frozen=True)
class Visit:
    """One visit of one image.

    Attributes:
        turn: in [0, 1); visits are ordered by it.
        item: index of the image.
        masks: rows of `TrainingMasks`.
        prompts: for each mask, whether it is a box, and float32 (4,) in input pixels.
    """

    turn: float
    item: int
    masks: list[int]
    prompts: list[tuple[bool, np.ndarray]]


@dataclass(frozen=True)
class VisitBatch:
    """One step's image-mask pairs: the visits of B images with P masks between them.

    Attributes:
        items: indexes of the images, B of them.
        image: int64 (P,), which of the B images each pair belongs to; ascending.
        masks: int64 (P,), rows of `TrainingMasks`.
        is_box: bool (P,), the form of each prompt.
        coordinates: float32 (P, 4) in input pixels: a box, or a point twice.
    """

    items: tuple[int, ...]
    image: np.ndarray
    masks: np.ndarray
    is_box: np.ndarray
    coordinates: np.ndarray

    @classmethod
    def of(cls, visits: Sequence[Visit]) -> VisitBatch:
        """The batch of some visits, in their order."""
        prompts = [prompt for visit in visits for prompt in visit.prompts]
        return cls(
            items=tuple(visit.item for visit in visits),
            image=np.repeat(np.arange(len(visits)), [len(visit.masks) for visit in visits]),
            masks=np.array([row for visit in visits for row in visit.masks], dtype=np.int64),
            is_box=np.array([is_box for is_box, _ in prompts], dtype=bool),
            coordinates=np.stack([coordinates for _, coordinates in prompts]).astype(np.float32),
        )


@dataclass(frozen=True)
class TrainingMasks:
    """Every non-empty mask of some items, prepared once: runs for prompts, and low-res targets as packed bits.

    Attributes:
        items: descriptions of the items.
        trained: indexes of the items that have a mask.
        rows: for each item, its rows in the tables below.
        runs: one entry a mask.
        targets: uint8 (M, L * L / 8), the bits of each bool (L, L) target, the first cell in the highest bit.
        row_cover, column_cover: float32 (N, L), share of each low-res row and column that holds image.
    """

    items: tuple[Item, ...]
    trained: tuple[int, ...]
    rows: tuple[range, ...]
    runs: tuple[MaskRuns, ...]
    targets: np.ndarray
    row_cover: np.ndarray
    column_cover: np.ndarray

    @classmethod
    def prepare(cls, items: Items, progress: Callable[[int, int], None] | None = None) -> TrainingMasks:
        """Decodes every mask once; `progress` is called with (items done, items).

        Raises:
            CasamError: if no item has a mask.
        """
        runs: list[MaskRuns] = []
        targets: list[np.ndarray] = []
        rows: list[range] = []
        for index, item in enumerate(items):
            first = len(runs)
            for mask in items.masks(index) if item.masks else ():
                found = MaskRuns.of(mask.bitmap)
                if found is not None:
                    runs.append(found)
                    targets.append(np.packbits(low_res_target(mask.bitmap, item.geometry).reshape(-1)))
            rows.append(range(first, len(runs)))
            if progress:
                progress(index + 1, len(items))
        if not runs:
            raise CasamError(
                f"task {items.task}: none of its {len(items)} training images has a mask",
                "casam data check shows what was found and in which split",
            )
        covers = [low_res_cover(item.geometry) for item in items]
        return cls(
            tuple(items),
            tuple(index for index, own in enumerate(rows) if len(own)),
            tuple(rows),
            tuple(runs),
            np.stack(targets),
            np.stack([row for row, _ in covers]),
            np.stack([column for _, column in covers]),
        )

    @property
    def visits(self) -> int:
        """Visits in an epoch, of all items together: the items that have masks, unless tasks are balanced."""
        return sum(round(sum(self.items[index].visits for index in own)) for own in self.by_task())

    def by_task(self) -> list[list[int]]:
        """The items that have a mask, by task in sorted order."""
        ordered = sorted(self.trained, key=lambda index: self.items[index].task)
        return [list(own) for _, own in groupby(ordered, key=lambda index: self.items[index].task)]

    def draw(self, index: int, options: TrainingOptions, rng: np.random.Generator) -> Visit:
        """A visit of an item: turn, masks, view and prompts, all from the generator that belongs to it."""
        item, rows = self.items[index], self.rows[index]
        turn = float(rng.random())
        chosen = [int(k) for k in rng.permutation(len(rows))[: options.masks_per_image]]
        if item.variants:
            index = (index, *item.variants)[int(rng.integers(1 + len(item.variants)))]
            item, rows = self.items[index], self.rows[index]  # the same masks in the same order
        prompts = [draw_prompt(self.runs[rows[k]], item.geometry, options, rng) for k in chosen]
        return Visit(turn, index, [rows[k] for k in chosen], prompts)

    def in_turn(self, visits: Iterable[Visit]) -> list[Visit]:
        """The visits in the order of the numbers they drew."""
        items = self.items
        return sorted(visits, key=lambda visit: (visit.turn, items[visit.item].task, items[visit.item].id))


def draw_epoch(masks: TrainingMasks, options: TrainingOptions, seed: int, epoch: int) -> list[VisitBatch]:
    """The batches of one epoch: each image that has masks once, or as often as its `visits` say.

    Args:
        masks: of all items.
        options: batch size, masks an image, prompts.
        seed: of the run.
        epoch: from 0.
    """
    drawn = []
    for index, again in _visits(masks, seed, epoch):
        item = masks.items[index]
        rng = generator(seed, item.task, epoch, item.id, *item.purpose, *((again,) if again else ()))
        drawn.append(masks.draw(index, options, rng))
    ordered, size = masks.in_turn(drawn), options.batch_size
    return [VisitBatch.of(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def _visits(masks: TrainingMasks, seed: int, epoch: int) -> list[tuple[int, int]]:
    """(item, number of the visit) for each visit of an epoch.

    Each item gets the whole part of its mean number; what is left of a task's total goes to items in turns that are
    drawn for this epoch, so that the total is the same in every epoch and over the epochs all have their share.
    """
    drawn = [(index, visit) for index in masks.trained for visit in range(int(masks.items[index].visits))]
    for own in masks.by_task():
        rest = [index for index in own if masks.items[index].visits % 1]
        turns = {
            index: generator(seed, masks.items[index].task, "visits", epoch, masks.items[index].id).random()
            for index in rest
        }
        share = 0.5
        for index in sorted(rest, key=lambda index: (turns[index], masks.items[index].id)):
            visits = masks.items[index].visits
            before, share = share, share + visits % 1
            if int(share) > int(before):
                drawn.append((index, int(visits)))
    return drawn
