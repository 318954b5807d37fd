"""How good a head is: every true mask prompted, as a rule with its frozen box, and scored at original resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import BACKGROUND, FOREGROUND, Prompts, upscale
from casam_cache.cutout import Cutout
from casam_cache.errors import memory_for
from casam_cache.heads.base import Head, decode_aligned
from casam_cache.metrics.base import Metric, scored
from casam_cache.metrics.overlap import iou
from casam_cache.metrics.registry import STANDARD, make_metrics
from casam_cache.training.clicks import Click, ClickOutcomes, next_click
from casam_cache.training.evaluation_prompts import BOX, EvaluationPrompt, Owner
from casam_cache.training.items import Item, ItemMask, Items
from casam_cache.training.outcomes import Outcomes

MASKS_AT_ONCE = 16


def evaluate(
    head: Head,
    backbone: Backbone,
    items: Items,
    *,
    prompt: EvaluationPrompt = BOX,
    metrics: Sequence[str] = STANDARD,
    masks_at_once: int = MASKS_AT_ONCE,
    on_mask: Callable[[Item, ItemMask, np.ndarray], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    clicks: ClickOutcomes | None = None,
) -> Outcomes:
    """Scores a head, in fp32, with one mask for each true mask: as a rule from the view's frozen box prompts.

    The identity head is the frozen SAM. The decoder runs over several images' masks at once. Boxes are answered with
    SAM's single mask. A single point is ambiguous: of the masks that SAM answers it with, the one with the highest
    predicted IoU counts, as in `casam predict`.

    Args:
        head: moved to the backbone's device and set to evaluation mode.
        backbone: prompt encoder and mask decoder.
        items: the view to score on; images without masks have nothing to score.
        prompt: what masks are prompted with; of clicks, what is scored is the mask after the last.
        metrics: names of metrics, or `FILE.py:Class`; the standard ones are always among them.
        masks_at_once: prompts in one pass of the decoder; bounds its memory.
        on_mask: called with each item, true mask and predicted bool mask (H, W), e.g. to draw them.
        progress: called with (images done, images).
        clicks: takes a row for every click, where `prompt` is clicks.

    Raises:
        OptionError: there is no such metric.
    """
    scorers = make_metrics(metrics)
    head.to(backbone.device).eval()
    if head.class_maps:
        check_masks(head, items)
    outcomes = Outcomes(scores={name: [] for name in scorers})
    for chunk, done in _chunks(items, masks_at_once):
        with memory_for(", ".join(f"{part.item.task}/{part.item.id}" for part in chunk)):
            for part, answer in _answers(head, backbone, items, prompt, chunk):
                bitmap = answer.predicted.bitmap
                _append(outcomes, scorers, part, answer.mask, bitmap, answer.estimate)
                if clicks is not None:
                    _append_clicks(clicks, part.item, answer)
                if on_mask:
                    on_mask(part.item, answer.mask, bitmap)
        if progress:
            progress(done, len(items))
    return outcomes


def check_masks(head: Head, items: Items) -> None:
    """Whether a head that predicts maps of classes can say anything of every mask of some items.

    Raises:
        CasamError: it cannot; the message names the first image.
    """
    for index, item in enumerate(items):
        if item.masks:
            classes = [int(mask.class_id) for mask in items.masks(index)]
            head.check_masks(f"{item.task}/{item.id}", classes)


def _append(
    outcomes: Outcomes,
    scorers: Mapping[str, Metric],
    part: _Part,
    mask: ItemMask,
    bitmap: np.ndarray,
    estimate: float,
) -> None:
    item = part.item
    outcomes.task.append(item.task)
    outcomes.item.append(item.id)
    outcomes.group.append(item.group)
    outcomes.class_id.append(int(mask.class_id))
    outcomes.instance.append(int(mask.instance))
    truth = mask.bitmap
    outcomes.area.append(int(np.count_nonzero(truth)))
    outcomes.predicted_iou.append(estimate)
    for name, metric in scorers.items():
        outcomes.scores[name].append(float(scored(metric, bitmap, truth, part.ignored)))


@dataclass(frozen=True)
class _Part:
    """Some masks of one item, and its pixels that count nowhere: there nothing is predicted."""

    index: int
    item: Item
    masks: Sequence[ItemMask]
    ignored: np.ndarray | None


def _chunks(items: Items, size: int) -> Iterator[tuple[list[_Part], int]]:
    """Parts with up to `size` masks in all, and the number of items that are done with them."""
    chunk: list[_Part] = []
    room = size
    for index in range(len(items)):
        item = items.item(index)
        masks = items.masks(index) if item.masks else ()
        ignored = items.ignored(index) if masks else None
        while masks:
            chunk.append(_Part(index, item, masks[:room], ignored))
            masks, room = masks[room:], room - len(chunk[-1].masks)
            if not room:
                yield chunk, index if masks else index + 1
                chunk, room = [], size
    yield chunk, len(items)


@dataclass
class _Answer:
    """What a true mask was answered with.

    Attributes:
        mask: the true one.
        predicted: the part of the image that holds what was predicted, or all of it.
        estimate: of its IoU, by the decoder.
        clicks: that were made; steps: of each click, it or None, the estimate and the IoU after it.
    """

    mask: ItemMask
    predicted: Cutout
    estimate: float
    clicks: list[Click] = field(default_factory=list)
    steps: list[tuple[Click | None, float, float]] = field(default_factory=list)


def _append_clicks(clicks: ClickOutcomes, item: Item, answer: _Answer) -> None:
    own = (item.task, item.id, item.group, int(answer.mask.class_id), int(answer.mask.instance))
    for number, (click, estimate, score) in enumerate(answer.steps, 1):
        where = (-1, np.nan, np.nan) if click is None else (int(click.positive), click.x, click.y)
        clicks.append(*own, number, *where, estimate, score)


class _Images:
    """The images of a chunk, aligned by the head once, for as many prompts as follow."""

    def __init__(self, head: Head, backbone: Backbone, items: Items, chunk: Sequence[_Part]) -> None:
        self._head, self._backbone = head, backbone
        stacked = {
            name: torch.from_numpy(np.stack([items.feature(name, part.index) for part in chunk]))
            for name in head.needs
        }
        self._features = {name: tensor.to(backbone.device).float() for name, tensor in stacked.items()}
        self._aligned = head.align(self._features)

    def predict(
        self, prompts: Prompts, image: Sequence[int], classes: Sequence[int], *, multimask: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (P, L, L) and estimates (P,) of prompts, each on the image of its number; the best of several."""
        device = self._backbone.device
        sparse, dense = self._head.embed_prompts(
            self._backbone, prompts.to(device), torch.tensor(classes, device=device)
        )
        low_res, estimates = decode_aligned(
            self._head, self._backbone, self._features, self._aligned,
            torch.tensor(image, device=device), sparse, dense, multimask,
        )  # fmt: skip
        rows = torch.arange(len(estimates), device=device)
        best = estimates.argmax(dim=1) if multimask else torch.zeros_like(rows)
        return low_res[rows, best], estimates[rows, best]


@torch.no_grad()
def _answers(
    head: Head, backbone: Backbone, items: Items, prompt: EvaluationPrompt, chunk: Sequence[_Part]
) -> Iterator[tuple[_Part, _Answer]]:
    """What each mask of a chunk is answered with."""
    if not chunk:
        return
    images = _Images(head, backbone, items, chunk)
    if prompt.kind == "clicks":
        yield from _clicked(images, prompt, chunk)
        return
    numbers = [number for number, part in enumerate(chunk) for _ in part.masks]
    prompts = _boxes(prompt, chunk) if not prompt.ambiguous else _points(prompt, chunk)
    classes = [int(mask.class_id) for part in chunk for mask in part.masks]
    low_res, estimates = images.predict(prompts, numbers, classes, multimask=prompt.ambiguous)
    sizes = [len(part.masks) for part in chunk]
    for part, own, estimate in zip(chunk, low_res.split(sizes), estimates.split(sizes), strict=True):
        for mask, logits, value in zip(part.masks, own, estimate.tolist(), strict=True):
            yield part, _Answer(mask, Cutout.of(_bitmap(logits, part)), value)


def _bitmap(low_res: torch.Tensor, part: _Part) -> np.ndarray:
    """The mask (H, W) at original resolution of logits (L, L), L mostly 4g; one at a time, for large images' sake."""
    bitmap: np.ndarray = (upscale(low_res[None], part.item.geometry) > 0)[0].cpu().numpy()
    return bitmap if part.ignored is None else bitmap & ~part.ignored


def _boxes(prompt: EvaluationPrompt, chunk: Sequence[_Part]) -> Prompts:
    boxes = [
        part.item.geometry.boxes_to_input(
            np.stack([prompt.box(mask.box, _size(part.item), _whose(part.item, mask)) for mask in part.masks])
        )
        for part in chunk
    ]
    return Prompts(boxes=torch.from_numpy(np.concatenate(boxes)))


def _points(prompt: EvaluationPrompt, chunk: Sequence[_Part]) -> Prompts:
    points = [
        part.item.geometry.to_input(np.stack([_point(prompt, part.item, mask) for mask in part.masks]))
        for part in chunk
    ]
    coordinates = torch.from_numpy(np.concatenate(points))[:, None]
    return Prompts(points=coordinates, labels=torch.full((len(coordinates), 1), FOREGROUND))


def _point(prompt: EvaluationPrompt, item: Item, mask: ItemMask) -> np.ndarray:
    """The first point, for which only a random one needs the mask's pixels."""
    return prompt.point(mask.bitmap, mask.point, _whose(item, mask)) if prompt.random else mask.point


def _size(item: Item) -> tuple[int, int]:
    return item.geometry.height, item.geometry.width


def _whose(item: Item, mask: ItemMask) -> Owner:
    return item.task, item.id, int(mask.class_id), int(mask.instance)


def _clicked(
    images: _Images, prompt: EvaluationPrompt, chunk: Sequence[_Part]
) -> Iterator[tuple[_Part, _Answer]]:
    """Click after click on all masks of a chunk at once; a mask without any error left waits as it is."""
    parts = [(number, part) for number, part in enumerate(chunk) for _ in part.masks]
    masks = [mask for part in chunk for mask in part.masks]
    nothing = np.zeros((0, 0), dtype=bool)
    answers = [
        _Answer(mask, Cutout(nothing, 0, 0, _size(part.item)), np.nan)
        for mask, (_, part) in zip(masks, parts, strict=True)
    ]
    logits: torch.Tensor | None = None
    for _ in range(prompt.clicks):
        made: dict[int, Click] = {}
        for place, answer in enumerate(answers):
            click = _next(prompt, parts[place][1].item, answer)
            if click is not None:
                made[place] = click
                answer.clicks.append(click)
        if made:
            places = list(made)
            low_res, estimates = images.predict(
                _click_prompts(
                    [(parts[place][1], answers[place].clicks) for place in places],
                    None if logits is None else logits[places][:, None],
                ),
                [parts[place][0] for place in places],
                [int(masks[place].class_id) for place in places],
                multimask=logits is None,
            )
            where = torch.tensor(places, device=low_res.device)
            logits = low_res if logits is None else logits.index_copy(0, where, low_res)
            for place, own, estimate in zip(places, low_res, estimates.tolist(), strict=True):
                found = Cutout.of(_bitmap(own, parts[place][1]))
                answers[place].predicted = found.tight() if found.area else Cutout(nothing, 0, 0, found.size)
                answers[place].estimate = estimate
        for place, answer in enumerate(answers):
            score = float(iou(answer.predicted.bitmap, answer.mask.bitmap))
            answer.steps.append((made.get(place), answer.estimate, score))
    for (_, part), answer in zip(parts, answers, strict=True):
        yield part, answer


def _next(prompt: EvaluationPrompt, item: Item, answer: _Answer) -> Click | None:
    mask = answer.mask
    if answer.steps:
        return next_click(mask.bitmap, answer.predicted.bitmap, answer.clicks)
    x, y = _point(prompt, item, mask).tolist()
    return Click(x, y, positive=True)


def _click_prompts(clicked: Sequence[tuple[_Part, Sequence[Click]]], before: torch.Tensor | None) -> Prompts:
    """All clicks on each of some masks, equally many, and the logits (P, 1, 4g, 4g) that the last one gave."""
    points = [
        part.item.geometry.to_input(np.array([(click.x, click.y) for click in clicks]))
        for part, clicks in clicked
    ]
    labels = [[FOREGROUND if click.positive else BACKGROUND for click in clicks] for _, clicks in clicked]
    return Prompts(points=torch.from_numpy(np.stack(points)), labels=torch.tensor(labels), masks=before)
