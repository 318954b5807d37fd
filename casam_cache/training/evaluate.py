"""How good a head is: every true mask prompted with its frozen box, scored at original resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.heads.base import Head, predict_low_res
from casam_cache.metrics.base import Metric
from casam_cache.metrics.registry import STANDARD, make_metrics
from casam_cache.training.items import Item, ItemMask, Items
from casam_cache.training.outcomes import Outcomes

MASKS_AT_ONCE = 16


def evaluate(
    head: Head,
    backbone: Backbone,
    items: Items,
    *,
    metrics: Sequence[str] = STANDARD,
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
        metrics: names of metrics, or `FILE.py:Class`; the standard ones are always among them.
        masks_at_once: prompts in one pass of the decoder; bounds its memory.
        on_mask: called with each item, true mask and predicted bool mask (H, W), e.g. to draw them.
        progress: called with (images done, images).

    Raises:
        OptionError: there is no such metric.
    """
    scorers = make_metrics(metrics)
    head.to(backbone.device).eval()
    outcomes = Outcomes(scores={name: [] for name in scorers})
    for chunk, done in _chunks(items, masks_at_once):
        predictions = _predict(head, backbone, items, chunk)
        for part, (logits, estimates) in zip(chunk, predictions, strict=True):
            predicted = (logits > 0).cpu().numpy()
            scored = zip(part.masks, predicted, estimates.tolist(), strict=True)
            for mask, bitmap, estimate in scored:
                _append(outcomes, scorers, part.item, mask, bitmap, estimate)
                if on_mask:
                    on_mask(part.item, mask, bitmap)
        if progress:
            progress(done, len(items))
    return outcomes


def _append(
    outcomes: Outcomes,
    scorers: Mapping[str, Metric],
    item: Item,
    mask: ItemMask,
    bitmap: np.ndarray,
    estimate: float,
) -> None:
    outcomes.task.append(item.task)
    outcomes.item.append(item.id)
    outcomes.group.append(item.group)
    outcomes.class_id.append(int(mask.class_id))
    outcomes.instance.append(int(mask.instance))
    outcomes.area.append(int(np.count_nonzero(mask.bitmap)))
    outcomes.predicted_iou.append(estimate)
    for name, metric in scorers.items():
        outcomes.scores[name].append(float(metric(bitmap, mask.bitmap)))


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
        name: torch.from_numpy(np.stack([items.feature(name, part.index) for part in chunk]))
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
