"""What an epoch consists of: which images, which of their masks, with which prompts, in which order.

Every choice belongs to (seed, task, epoch, sample) through a generator of its own. The order is by a random
number that each sample draws, so that adding an image, joining tasks or resuming changes no other image's
choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.training.data import Item, Items
from casam_cache.training.options import TrainingOptions
from casam_cache.training.prompts import MaskRuns, draw_prompt
from casam_cache.training.resize import low_res_cover, low_res_target


@dataclass(frozen=True)
class Batch:
    """One step's image-mask pairs: B images with P masks between them.

    Attributes:
        items: indexes into the view, B of them.
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


@dataclass(frozen=True)
class TrainingMasks:
    """Every non-empty mask of a view, prepared once: runs for prompts, and low-res targets as packed bits.

    Attributes:
        items: descriptions of the view's items.
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
        """Decodes every mask of the view once; `progress` is called with (items done, items).

        Raises:
            CasamError: if no item has a mask.
        """
        described: list[Item] = []
        runs: list[MaskRuns] = []
        targets, covers = [], []
        rows: list[range] = []
        for index in range(len(items)):
            item = items.item(index)
            described.append(item)
            covers.append(low_res_cover(item.geometry))
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
        return cls(
            tuple(described),
            tuple(index for index, own in enumerate(rows) if len(own)),
            tuple(rows),
            tuple(runs),
            np.stack(targets),
            np.stack([row for row, _ in covers]),
            np.stack([column for _, column in covers]),
        )


def draw_epoch(masks: TrainingMasks, options: TrainingOptions, seed: int, epoch: int) -> list[Batch]:
    """The batches of one epoch, each image that has masks once.

    Args:
        masks: of the view.
        options: batch size, masks an image, prompts.
        seed: of the run.
        epoch: from 0.
    """
    drawn = [_draw_sample(masks, index, options, seed, epoch) for index in masks.trained]
    drawn.sort(key=lambda sample: (sample.turn, masks.items[sample.item].task, masks.items[sample.item].id))
    size = options.batch_size
    return [_join(drawn[start : start + size]) for start in range(0, len(drawn), size)]


@dataclass(frozen=True)
class _Sample:
    turn: float
    item: int
    masks: list[int]
    prompts: list[tuple[bool, np.ndarray]]


def _draw_sample(
    masks: TrainingMasks, index: int, options: TrainingOptions, seed: int, epoch: int
) -> _Sample:
    item, rows = masks.items[index], masks.rows[index]
    rng = generator(seed, item.task, epoch, item.id)
    turn = float(rng.random())
    chosen = [rows[int(k)] for k in rng.permutation(len(rows))[: options.masks_per_image]]
    prompts = [draw_prompt(masks.runs[row], item.geometry, options, rng) for row in chosen]
    return _Sample(turn, index, chosen, prompts)


def _join(samples: Sequence[_Sample]) -> Batch:
    prompts = [prompt for sample in samples for prompt in sample.prompts]
    return Batch(
        items=tuple(sample.item for sample in samples),
        image=np.repeat(np.arange(len(samples)), [len(sample.masks) for sample in samples]),
        masks=np.array([row for sample in samples for row in sample.masks], dtype=np.int64),
        is_box=np.array([is_box for is_box, _ in prompts], dtype=bool),
        coordinates=np.stack([coordinates for _, coordinates in prompts]).astype(np.float32),
    )
