"""What an epoch consists of: which images, which of their masks, with which prompts and targets, in which order.

Every choice belongs to (seed, task, epoch, sample) through a generator of its own. The order is by a random number that
each visit draws, so that adding an image, joining tasks or resuming changes no other image's choices. Where tasks are
balanced, images are visited more or less than once an epoch: then which images, too, is drawn anew in each epoch, and
each further visit draws for itself.

Prompts are drawn as SAM's were: half points, half boxes; a point is uniform over the mask's pixels; a box is the tight
one with noise on each side, standard deviation 10 % of the box's side, at most 20 pixels of a 1024 pixel input.

Targets lie on the low-res grid (4g x 4g), where the loss is computed: the backward of a bilinear upsampling has no
deterministic kernel on CUDA, and 4g is the resolution at which SAM itself was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.errors import CasamError, memory_for
from casam_cache.fingerprint import generator
from casam_cache.geometry import Geometry
from casam_cache.training.augmentation import Change
from casam_cache.training.items import Item, Items
from casam_cache.training.options import TrainingOptions


@dataclass(frozen=True)
class Visit:
    """One visit of one image.

    Attributes:
        turn: in [0, 1); visits are ordered by it.
        item: index of the image.
        masks: rows of `TrainingMasks`.
        prompts: for each mask, whether it is a box, and float32 (4,) in input pixels.
        change: how the image is changed; None: it is shown as it is.
    """

    turn: float
    item: int
    masks: list[int]
    prompts: list[tuple[bool, np.ndarray]]
    change: Change | None = None


@dataclass(frozen=True)
class VisitBatch:
    """One step's image-mask pairs: the visits of B images with P masks between them.

    Attributes:
        items: indexes of the images, B of them.
        image: int64 (P,), which of the B images each pair belongs to; ascending.
        masks: int64 (P,), rows of `TrainingMasks`.
        is_box: bool (P,), the form of each prompt.
        coordinates: float32 (P, 4) in input pixels: a box, or a point twice.
        changes: of each of the B images; empty where none is changed.
    """

    items: tuple[int, ...]
    image: np.ndarray
    masks: np.ndarray
    is_box: np.ndarray
    coordinates: np.ndarray
    changes: tuple[Change, ...] = ()

    @classmethod
    def of(cls, visits: Sequence[Visit]) -> VisitBatch:
        prompts = [prompt for visit in visits for prompt in visit.prompts]
        return cls(
            items=tuple(visit.item for visit in visits),
            image=np.repeat(np.arange(len(visits)), [len(visit.masks) for visit in visits]),
            masks=np.array([row for visit in visits for row in visit.masks], dtype=np.int64),
            is_box=np.array([is_box for is_box, _ in prompts], dtype=bool),
            coordinates=np.stack([coordinates for _, coordinates in prompts]).astype(np.float32),
            changes=tuple(visit.change for visit in visits if visit.change is not None),
        )


@dataclass(frozen=True)
class TrainingMasks:
    """Every non-empty mask of some items, prepared once: runs for prompts, and low-res targets as packed bits.

    Attributes:
        items: descriptions of the items.
        trained: indexes of the items that have a mask.
        rows: for each item, its rows in the tables below.
        runs: one entry a mask.
        classes: int64 (M,), the class of each mask.
        targets: uint8 (M, ceil(L * L / 8)), the bits of each bool (L, L) target, the first cell in the highest bit.
        row_cover, column_cover: float32 (N, L), share of each low-res row and column that holds image.
        counted: float16 (K, L, L), share of each low-res cell whose pixels count; the first, of ones, is for items
            without ignored pixels. Empty where no item has any.
        counted_of: int64 (N,), which of them is each item's.
    """

    items: tuple[Item, ...]
    trained: tuple[int, ...]
    rows: tuple[range, ...]
    runs: tuple[MaskRuns, ...]
    classes: np.ndarray
    targets: np.ndarray
    row_cover: np.ndarray
    column_cover: np.ndarray
    counted: np.ndarray
    counted_of: np.ndarray

    @classmethod
    def prepare(
        cls, items: Items, progress: Callable[[int, int], None] | None = None, side: int | None = None
    ) -> TrainingMasks:
        """Decodes every mask once.

        Args:
            items: whose masks.
            progress: called with (items done, items).
            side: L of targets and weights; None is that of SAM's masks, 4g.

        Raises:
            CasamError: if no item has a mask.
        """
        runs: list[MaskRuns] = []
        classes: list[int] = []
        targets: list[np.ndarray] = []
        rows: list[range] = []
        counted: list[np.ndarray] = []
        counted_of = np.zeros(len(items), dtype=np.int64)
        for index, item in enumerate(items):
            first = len(runs)
            ignored = items.ignored(index) if item.masks else None
            share = None if ignored is None else low_res_counted(ignored, item.geometry, side)
            if share is not None:
                counted = counted or [np.ones(share.shape, dtype=np.float16)]
                counted.append(share.astype(np.float16))
                counted_of[index] = len(counted) - 1
            for mask in items.masks(index) if item.masks else ():
                with memory_for(f"{item.task}/{item.id}"):
                    cutout = mask.cutout
                    found = MaskRuns.of(cutout)
                    if found is not None:
                        runs.append(found)
                        classes.append(int(mask.class_id))
                        target = low_res_target(cutout, item.geometry, share, side)
                        targets.append(np.packbits(target.reshape(-1)))
            rows.append(range(first, len(runs)))
            if progress:
                progress(index + 1, len(items))
        if not runs:
            raise CasamError(
                f"task {items.task}: none of its {len(items)} training images has a mask",
                "casam data check shows what was found and in which split",
            )
        covers = [low_res_cover(item.geometry, side) for item in items]
        return cls(
            tuple(items),
            tuple(index for index, own in enumerate(rows) if len(own)),
            tuple(rows),
            tuple(runs),
            np.array(classes, dtype=np.int64),
            np.stack(targets),
            np.stack([row for row, _ in covers]),
            np.stack([column for _, column in covers]),
            np.stack(counted) if counted else np.zeros((0, 0, 0), dtype=np.float16),
            counted_of,
        )

    def united(self) -> TrainingMasks:
        """The target of each mask is what all masks of its class in its image cover: for maps of classes."""
        targets = self.targets.copy()
        for rows in self.rows:
            for row in rows:
                own = [other for other in rows if self.classes[other] == self.classes[row]]
                targets[row] = np.bitwise_or.reduce(self.targets[own])
        return replace(self, targets=targets)

    @property
    def visits(self) -> int:
        """Visits in an epoch, of all items together: the items that have masks, unless tasks are balanced."""
        return sum(round(sum(self.items[index].visits for index in own)) for own in self.by_task())

    def by_task(self) -> list[list[int]]:
        """The items that have a mask, by task in sorted order."""
        ordered = sorted(self.trained, key=lambda index: self.items[index].task)
        return [list(own) for _, own in groupby(ordered, key=lambda index: self.items[index].task)]

    def draw(
        self, index: int, options: TrainingOptions, rng: np.random.Generator, change: Change | None = None
    ) -> Visit:
        """A visit of an item: turn, masks, view and prompts, all from the generator that belongs to it.

        Args:
            index: of the item.
            options: how many masks, and what prompts.
            rng: of this visit.
            change: of the image, if all of the masks that were drawn stay in it; else it is mirrored alone.
        """
        item, rows = self.items[index], self.rows[index]
        turn = float(rng.random())
        chosen = [int(k) for k in rng.permutation(len(rows))[: options.masks_per_image]]
        if item.variants:
            index = (index, *item.variants)[int(rng.integers(1 + len(item.variants)))]
            item, rows = self.items[index], self.rows[index]  # the same masks in the same order
        if change is not None and not all(
            change.keeps(self.runs[rows[k]].ends_in_input(item.geometry), item.geometry) for k in chosen
        ):
            change = change.mirrored_alone()
        prompts = [draw_prompt(self.runs[rows[k]], item.geometry, options, rng, change) for k in chosen]
        return Visit(turn, index, [rows[k] for k in chosen], prompts, change)

    def in_turn(self, visits: Iterable[Visit]) -> list[Visit]:
        items = self.items
        return sorted(visits, key=lambda visit: (visit.turn, items[visit.item].task, items[visit.item].id))


def draw_epoch(
    masks: TrainingMasks, options: TrainingOptions, seed: int, epoch: int, augment: bool = False
) -> list[VisitBatch]:
    """The batches of one epoch: each image that has masks once, or as often as its `visits` say.

    Args:
        masks: of all items.
        options: batch size, masks an image, prompts.
        seed: of the run.
        epoch: from 0.
        augment: whether images are changed.
    """
    drawn = []
    for index, again in _visits(masks, seed, epoch):
        item = masks.items[index]
        whose = (seed, item.task, epoch, item.id, *item.purpose, *((again,) if again else ()))
        change = Change.draw(generator(*whose, "augment")) if augment else None
        drawn.append(masks.draw(index, options, generator(*whose), change))
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


@dataclass(frozen=True)
class MaskRuns:
    """The foreground of one mask as runs along rows: what prompts need of it, in little memory.

    Attributes:
        starts: int32 (R,), flat index y * W + x of each run's first pixel.
        ends: int64 (R,), foreground pixels up to and including each run.
        width: W, pixels.
        box: float32 (4,), tight box x0, y0, x1, y1 in original pixels, inclusive.
    """

    starts: np.ndarray
    ends: np.ndarray
    width: int
    box: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray | Cutout) -> MaskRuns | None:
        """The runs of a bool mask (H, W), or of the part that holds it; None for an empty one, which has no prompt."""
        held = mask if isinstance(mask, Cutout) else Cutout.of(mask)
        if not held.area:
            return None
        tight = held.tight()
        rows, columns = tight.pixels.shape
        crop = np.zeros((rows, columns + 2), dtype=np.int8)  # a column of zeros on either side
        crop[:, 1:-1] = tight.pixels
        change = np.diff(crop, axis=1)
        row, column = np.nonzero(change == 1)
        _, beyond = np.nonzero(change == -1)
        width = tight.size[1]
        starts = ((row + tight.top) * width + column + tight.left).astype(np.int32)
        return cls(starts, np.cumsum(beyond - column), width, tight.box)

    @property
    def area(self) -> int:
        return int(self.ends[-1])

    def ends_in_input(self, geometry: Geometry) -> np.ndarray:
        """The first and last pixel of each run, float32 (2 R, 2) in input pixels: no pixel lies beyond all of them."""
        y, x = np.divmod(self.starts.astype(np.int64), self.width)
        last = x + np.diff(self.ends, prepend=0) - 1
        return geometry.to_input(np.stack([np.concatenate([x, last]), np.concatenate([y, y])], 1))

    def pixel(self, index: int) -> tuple[int, int]:
        """The x, y of the foreground pixel number `index` in row order."""
        run = int(np.searchsorted(self.ends, index, side="right"))
        before = int(self.ends[run - 1]) if run else 0
        y, x = divmod(int(self.starts[run]) + index - before, self.width)
        return x, y


def draw_prompt(
    runs: MaskRuns,
    geometry: Geometry,
    options: TrainingOptions,
    rng: np.random.Generator,
    change: Change | None = None,
) -> tuple[bool, np.ndarray]:
    """One prompt for one mask.

    Args:
        runs: the mask.
        geometry: of its image.
        options: `box_share`, `box_jitter`, `jitter_limit`.
        rng: the generator of this seed, task, epoch and sample.
        change: of the image; a box is the tight one of the mask as it is shown.

    Returns:
        Whether it is a box, and float32 (4,) in input pixels: the box, or the point as x, y, x, y.
    """
    # Always the same number of draws, so that changing one option leaves the other choices as they were.
    is_box = bool(rng.random() < options.box_share)
    index = int(rng.integers(runs.area))
    noise = rng.standard_normal(4)
    if not is_box:
        point = geometry.to_input(np.array(runs.pixel(index), dtype=np.float32))
        point = point if change is None else change.points(point, geometry).astype(np.float32)
        return False, np.concatenate([point, point])
    if change is None:
        box = geometry.boxes_to_input(runs.box)
    else:
        box = change.box(runs.ends_in_input(geometry), geometry).astype(np.float32)
    sides = np.tile(box[2:] - box[:2] + 1, 2)
    limit = options.jitter_limit * geometry.image_size
    moved = box + np.clip(noise * options.box_jitter * sides, -limit, limit)
    last = np.tile([geometry.input_width - 1, geometry.input_height - 1], 2)
    x0, y0, x1, y1 = np.clip(moved, 0, last)
    return True, np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], dtype=np.float32)


def low_res_target(
    mask: np.ndarray | Cutout,
    geometry: Geometry,
    counted: np.ndarray | None = None,
    side: int | None = None,
) -> np.ndarray:
    """A bool mask (H, W) at original resolution, or the part that holds it -> bool (L, L); padding is False.

    L is `side`, or 4g unless given: then a low-res cell covers patch / 4 input pixels a side. Its target is the share
    of the mask in the part of the original image it covers, at least half counting as foreground. A mask too thin to
    fill half of any cell would vanish, so its fullest cells stay. Where pixels are ignored it is the share of those
    that count (`low_res_counted`).

    Raises:
        ValueError: if the mask is not of the geometry's original size.
    """
    held = mask if isinstance(mask, Cutout) else Cutout.of(mask)
    if held.size != (geometry.height, geometry.width):
        raise ValueError(f"a mask of {held.size} for an image of {geometry.height} x {geometry.width} pixels")
    rows, columns = _side(geometry, 0, side), _side(geometry, 1, side)
    target = np.zeros((len(rows), len(columns)), dtype=bool)
    if not held.area:
        return target
    tight = held.tight()
    down = slice(tight.top, tight.top + tight.pixels.shape[0])
    across = slice(tight.left, tight.left + tight.pixels.shape[1])
    share = rows[:, down] @ tight.pixels.astype(np.float64) @ columns[:, across].T
    if counted is None:
        np.greater_equal(share, 0.5, out=target)
    else:
        np.logical_and(share > 0, share >= 0.5 * counted, out=target)
    if not target.any():
        np.equal(share, share.max(), out=target)
    return target


def low_res_counted(ignored: np.ndarray, geometry: Geometry, side: int | None = None) -> np.ndarray:
    """Share of each low-res cell's image whose pixels count, float64 (L, L); `ignored` is bool (H, W), L `side` or 4g.

    It is a factor of the cell's weight in the loss.
    """
    rows, columns = _side(geometry, 0, side), _side(geometry, 1, side)
    share = rows @ ignored.astype(np.float64) @ columns.T
    counted: np.ndarray = 1 - share.clip(0, 1)
    return counted


def low_res_cover(geometry: Geometry, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How much of each low-res row (L,) and column (L,), L `side` or 4g, holds image, not padding: float32 in [0, 1].

    The weight of a low-res cell in the loss is the product of the two.
    """
    size = side or 4 * (geometry.image_size // geometry.patch_size)
    cell = geometry.image_size / size
    edges = np.arange(size) * cell
    rows, columns = (
        np.clip((valid - edges) / cell, 0, 1).astype(np.float32)
        for valid in (geometry.input_height, geometry.input_width)
    )
    return rows, columns


def _side(geometry: Geometry, axis: int, side: int | None) -> np.ndarray:
    original, valid = (
        (geometry.height, geometry.input_height) if axis == 0 else (geometry.width, geometry.input_width)
    )
    size = side or 4 * (geometry.image_size // geometry.patch_size)
    return area_matrix(original, valid, size, geometry.image_size)


@lru_cache(maxsize=64)
def area_matrix(original: int, valid: int, size: int, image_size: int) -> np.ndarray:
    """Float64 (size, original): each row averages the original pixels that one low-res cell covers.

    Args:
        original: original pixels along this axis.
        valid: input pixels they were resized to.
        size: low-res cells along the axis, 4g.
        image_size: S, input pixels along the axis, padding included.

    Returns:
        Rows that sum to 1, or to 0 where the cell holds padding only.
    """
    cell = image_size / size
    edges = np.minimum(np.arange(size + 1) * cell, valid) * (original / valid)
    pixels = np.arange(original)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.clip(overlap, 0, None)
    total = overlap.sum(axis=1, keepdims=True)
    matrix = np.divide(overlap, total, out=np.zeros_like(overlap), where=total > 0)
    matrix.flags.writeable = False
    return matrix
