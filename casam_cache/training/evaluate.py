"""How good a head is: every true mask prompted with its frozen box, scored at original resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.heads.base import Head
from casam_cache.heads.forward import predict_low_res
from casam_cache.metrics.intervals import Interval, mean_interval
from casam_cache.metrics.overlap import boundary_iou, dice, iou
from casam_cache.training.data import Item, ItemMask, Items, read_feature

MASKS_AT_ONCE = 16
METRICS = ("iou", "biou", "dice")


@dataclass(frozen=True)
class Outcomes:
    """One row a true mask, as columns of equal length, in the order of the view.

    Attributes:
        task, item, group: where the mask is from.
        class_id, instance: which mask of the image.
        area: true foreground pixels.
        iou, biou, dice: in [0, 1], NaN where undefined (both masks empty).
        predicted_iou: the decoder's own estimate, not clipped.
    """

    task: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    class_id: list[int] = field(default_factory=list)
    instance: list[int] = field(default_factory=list)
    area: list[int] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)
    biou: list[float] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    predicted_iou: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.item)

    def columns(self) -> dict[str, list[Any]]:
        """The columns by name, for a table or a file; `Outcomes(**columns)` reads them back."""
        return dict(vars(self))

    def summary(self) -> dict[str, float | int | None]:
        """Means over the masks where a metric is defined (null where there is none), and how many masks.

        `masks` counts all rows; `undefined` those left out of the means.
        """
        means: dict[str, float | int | None] = {}
        for name in METRICS:
            finite = [value for value in getattr(self, name) if math.isfinite(value)]
            means[name] = float(np.mean(finite)) if finite else None
        return {**means, "masks": len(self), "undefined": sum(not math.isfinite(v) for v in self.iou)}

    def intervals(self, seed: int = 0) -> dict[str, Interval]:
        """Each metric's mean with its interval from resampling groups."""
        groups = [f"{task}\0{group}" for task, group in zip(self.task, self.group, strict=True)]
        return {name: mean_interval(getattr(self, name), groups, seed=seed) for name in METRICS}

    def _append(self, item: Item, mask: ItemMask, predicted: np.ndarray, predicted_iou: float) -> None:
        row: Mapping[str, Any] = {
            "task": item.task,
            "item": item.id,
            "group": item.group,
            "class_id": int(mask.class_id),
            "instance": int(mask.instance),
            "area": int(np.count_nonzero(mask.bitmap)),
            "iou": iou(predicted, mask.bitmap),
            "biou": boundary_iou(predicted, mask.bitmap),
            "dice": dice(predicted, mask.bitmap),
            "predicted_iou": predicted_iou,
        }
        for name, value in row.items():
            getattr(self, name).append(value)


def evaluate(
    head: Head,
    backbone: Backbone,
    items: Items,
    *,
    masks_at_once: int = MASKS_AT_ONCE,
    on_mask: Callable[[Item, ItemMask, np.ndarray], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcomes:
    """Scores a head with the view's frozen box prompts, in fp32 and with single-mask output.

    The identity head is the frozen SAM. The decoder runs over several images' masks at once.

    Args:
        head: moved to the backbone's device and set to evaluation mode.
        backbone: prompt encoder and mask decoder.
        items: the view to score on; images without masks have nothing to score.
        masks_at_once: prompts in one pass of the decoder; bounds its memory.
        on_mask: called with each item, true mask and predicted bool mask (H, W), e.g. to draw them.
        progress: called with (images done, images).
    """
    head.to(backbone.device).eval()
    outcomes = Outcomes()
    for chunk, done in _chunks(items, masks_at_once):
        predictions = _predict(head, backbone, items, chunk)
        for part, (logits, estimates) in zip(chunk, predictions, strict=True):
            predicted = (logits > 0).cpu().numpy()
            scored = zip(part.masks, predicted, estimates.tolist(), strict=True)
            for mask, bitmap, estimate in scored:
                outcomes._append(part.item, mask, bitmap, estimate)
                if on_mask:
                    on_mask(part.item, mask, bitmap)
        if progress:
            progress(done, len(items))
    return outcomes


@dataclass(frozen=True)
class _Part:
    """Some masks of one item."""

    index: int
    item: Item
    masks: Sequence[ItemMask]


def _chunks(items: Items, size: int) -> Iterator[tuple[list[_Part], int]]:
    """Parts with up to `size` masks in all, and the number of items that are done with them."""
    chunk: list[_Part] = []
    room = size
    for index in range(len(items)):
        item = items.item(index)
        masks = items.masks(index) if item.masks else ()
        while masks:
            chunk.append(_Part(index, item, masks[:room]))
            masks, room = masks[room:], room - len(chunk[-1].masks)
            if not room:
                yield chunk, index if masks else index + 1
                chunk, room = [], size
    yield chunk, len(items)


def _predict(
    head: Head, backbone: Backbone, items: Items, chunk: Sequence[_Part]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits (P, H, W) at original resolution and IoU estimates (P,) for each part."""
    if not chunk:
        return
    features = {
        name: torch.from_numpy(np.stack([read_feature(items, name, part.index) for part in chunk]))
        for name in head.needs
    }
    boxes = np.concatenate(
        [part.item.geometry.boxes_to_input(np.stack([mask.box for mask in part.masks])) for part in chunk]
    )
    sizes = [len(part.masks) for part in chunk]
    image = torch.repeat_interleave(torch.arange(len(chunk)), torch.tensor(sizes))
    low_res, estimates = predict_low_res(
        head, backbone, features, Prompts(boxes=torch.from_numpy(boxes)), image
    )
    for part, own, estimate in zip(
        chunk, low_res[:, 0].split(sizes), estimates[:, 0].split(sizes), strict=True
    ):
        yield upscale(own, part.item.geometry), estimate
