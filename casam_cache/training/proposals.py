"""What a head of proposals learns: all objects of an image at once, as centres and boxes on its grid.

Around the cell that holds an object's centre there is a bump y = exp(-(dx^2 / 2 s_x^2 + dy^2 / 2 s_y^2)), at the centre
cell 1, with s a share of the box's sides (Liu et al., TTFNet, arXiv:1909.00700). The loss of a batch with N objects is

    L = 1/N sum over cells and classes of  -(1 - p)^2 log p                  at centres
                                           -(1 - y)^4 p^2 log(1 - p)         elsewhere
      + w 1/N sum over objects, sum over the cells of its bump of  y / (sum of y) (1 - GIoU)

where p is the sigmoid of a centre's logit, w `box_weight`, and GIoU that of the box a cell gives with the object's. A
cell in the bumps of several objects of a class has the box of the smallest. Cells of padding, or of which most is
ignored, count for no centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_precision
from casam_cache.errors import CasamError, memory_for
from casam_cache.fingerprint import digest, digest_arrays
from casam_cache.segmenters.proposals import Proposals
from casam_cache.training.epochs import area_matrix
from casam_cache.training.held_out import hold_out
from casam_cache.training.image_loop import LOOP, ImageFit, fit_images
from casam_cache.training.instance_scores import best_threshold, box_precision
from casam_cache.training.items import Item, Items, add_views
from casam_cache.training.loop import FitProgress
from casam_cache.training.options import VIEW_SEPARATOR
from casam_cache.training.segmentation_options import ProposalTrainingOptions
from casam_cache.views import parse_views

REACH = 0.2  # of a box's side: a bump's standard deviation; with TTFNet's 0.09 few images taught less
FARTHEST = 3  # standard deviations: no bump reaches further


@dataclass(frozen=True)
class Objects:
    """The objects of some items.

    Attributes:
        boxes: of each item, float32 (n, 4), x0, y0, x1, y1 in input pixels.
        classes: of each item, int64 (n,), places among the head's classes.
        counted: bool (N, s, s), cells where there is image that is not ignored.
    """

    boxes: list[np.ndarray]
    classes: list[np.ndarray]
    counted: np.ndarray

    @classmethod
    def prepare(cls, items: Items, classes: Sequence[int], side: int) -> Objects:
        """Reads the objects of some items; decodes no mask, whose boxes are stored.

        Raises:
            CasamError: no item has one.
        """
        if not any(item.masks for item in items):
            raise CasamError(
                f"task {items.task}: none of its {len(items)} training images has a mask",
                "casam data check shows what was found and in which split",
            )
        boxes, numbers = [], []
        counted = np.empty((len(items), side, side), bool)
        place = {number: index for index, number in enumerate(classes)}
        for index, item in enumerate(items):
            with memory_for(f"{item.task}/{item.id}"):
                masks = items.masks(index) if item.masks else ()
                corners = np.array([mask.box for mask in masks], np.float32).reshape(-1, 4)
                boxes.append(item.geometry.boxes_to_input(corners))
                numbers.append(np.array([place[mask.class_id] for mask in masks], np.int64))
                counted[index] = counted_cells(item, items.ignored(index), side)
        return cls(boxes, numbers, counted)


def counted_cells(item: Item, ignored: np.ndarray | None, side: int) -> np.ndarray:
    """Bool (side, side): cells that hold at least half a cell of image, of which no more than half is ignored."""
    geometry = item.geometry
    rows = area_matrix(geometry.height, geometry.input_height, side, geometry.image_size)
    columns = area_matrix(geometry.width, geometry.input_width, side, geometry.image_size)
    inside = rows.sum(axis=1)[:, None] * columns.sum(axis=1)[None] >= 0.5
    return inside if ignored is None else inside & (rows @ ignored @ columns.T <= 0.5)


@dataclass(frozen=True)
class Targets:
    """What is learnt of a batch.

    Attributes:
        centres: float32 (B, K, s, s), the bumps y.
        boxes: float32 (B, K, 4, s, s), the object whose box a cell is to give.
        weights: float32 (B, K, s, s), y / (sum of y) of that object; 0 where there is none.
        counted: bool (B, s, s).
        objects: N.
    """

    centres: torch.Tensor
    boxes: torch.Tensor
    weights: torch.Tensor
    counted: torch.Tensor
    objects: int

    def to(self, device: torch.device) -> Targets:
        moved = (one.to(device) for one in (self.centres, self.boxes, self.weights, self.counted))
        centres, boxes, weights, counted = moved
        return Targets(centres, boxes, weights, counted, self.objects)


def targets_of(objects: Objects, places: Sequence[int], classes: int, image_size: int) -> Targets:
    """The targets of the items at some places, on the CPU."""
    side = objects.counted.shape[-1]
    stride = image_size / side
    centres = np.zeros((len(places), classes, side, side), np.float32)
    boxes = np.zeros((len(places), classes, 4, side, side), np.float32)
    weights = np.zeros((len(places), classes, side, side), np.float32)
    for row, place in enumerate(places):
        corners, numbers = objects.boxes[place] / stride, objects.classes[place]
        areas = np.maximum(corners[:, 2:] - corners[:, :2], 0).prod(axis=1)
        owner = np.full((classes, side, side), -1)
        bump = np.zeros((classes, side, side), np.float32)
        for one in np.argsort(-areas, kind="stable"):
            rows, columns, height = _bump(corners[one], side)
            number = numbers[one]
            part = centres[row, number, rows, columns]
            np.maximum(part, height, out=part)
            owner[number, rows, columns], bump[number, rows, columns] = one, height
            boxes[row, number, :, rows, columns] = objects.boxes[place][one][:, None, None]
        inside = owner >= 0
        total = np.bincount(owner[inside], weights=bump[inside], minlength=len(corners))
        weights[row][inside] = bump[inside] / total[owner[inside]]
    drawn, held, shares = (torch.from_numpy(array) for array in (centres, boxes, weights))
    counted = torch.from_numpy(objects.counted[list(places)])
    return Targets(drawn, held, shares, counted, sum(len(objects.boxes[place]) for place in places))


def _bump(box: np.ndarray, side: int) -> tuple[slice, slice, np.ndarray]:
    """Where an object's bump is, and y there, float32; the box is in cells."""
    spans, heights = [], []
    for axis in (1, 0):
        low, high = float(box[axis]), float(box[axis + 2])
        centre = min(side - 1, max(0, int((low + high) / 2)))
        deviation = max(REACH * (high - low), 1e-3)
        reach = int(FARTHEST * deviation)
        first, last = max(0, centre - reach), min(side - 1, centre + reach)
        spans.append(slice(first, last + 1))
        heights.append(np.exp(-((np.arange(first, last + 1) - centre) ** 2) / (2 * deviation**2)))
    return spans[0], spans[1], (heights[0][:, None] * heights[1][None]).astype(np.float32)


def proposal_loss(
    logits: torch.Tensor, boxes: torch.Tensor, targets: Targets, box_weight: float
) -> torch.Tensor:
    """The loss of a batch, 0-d, in fp32.

    Args:
        logits: of centres, from `Proposals.maps`.
        boxes: from there too.
        targets: on their device.
        box_weight: w.
    """
    logits, y = logits.float(), targets.centres
    p = logits.sigmoid()
    there, not_there = F.logsigmoid(logits), F.logsigmoid(-logits)
    focal = torch.where(y == 1, -((1 - p) ** 2) * there, -((1 - y) ** 4) * p**2 * not_there)
    centres = (focal * targets.counted[:, None]).sum()
    held = targets.weights > 0
    found, true = boxes.float().movedim(2, -1)[held], targets.boxes.movedim(2, -1)[held]
    wrong = (targets.weights[held] * (1 - generalised_iou(found, true))).sum()
    return (centres + box_weight * wrong) / max(1, targets.objects)


def generalised_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU minus the share of the smallest box around both that neither has, (n,) of pairs (n, 4); in [-1, 1]."""
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(dim=1) for box in (first, second)]
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=1)
    union = (areas[0] + areas[1] - both).clamp(min=1e-6)
    low, high = torch.minimum(first[:, :2], second[:, :2]), torch.maximum(first[:, 2:], second[:, 2:])
    around = (high - low).prod(dim=1).clamp(min=1e-6)
    return both / union - (around - union) / around


class _Objects:
    """What a head of proposals is taught."""

    measure = "box_ap"

    def __init__(
        self,
        head: Proposals,
        backbone: Backbone,
        objects: Objects,
        apart: Items | None,
        options: ProposalTrainingOptions,
    ) -> None:
        self._head, self._backbone, self._objects = head, backbone, objects
        self._apart, self._options = apart, options

    def predict(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._head.maps(self._backbone, embedding)

    def loss(self, predicted: tuple[torch.Tensor, torch.Tensor], places: Sequence[int]) -> torch.Tensor:
        found = targets_of(self._objects, places, len(self._head.classes), self._backbone.image_size)
        return proposal_loss(*predicted, found.to(self._backbone.device), self._options.box_weight)

    def score(self) -> float:
        """AP of the boxes, which needs no pass of the decoder."""
        assert self._apart is not None
        return box_precision(self._head.eval(), self._backbone, self._apart)


def fit_proposals(
    head: Proposals,
    backbone: Backbone,
    items: Items,
    options: ProposalTrainingOptions,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint_dir: Path | None = None,
    on_step: Callable[[FitProgress], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> ImageFit:
    """Trains a head of proposals on the stored embeddings of some items, with the backbone frozen.

    With `held_out` some groups are set apart, the head is given the state with the best AP of its boxes on them, and
    then, where its options leave it open, the threshold with the best mSA of its masks on them.

    Args and errors as of `training.segmentation.fit_segmenter`.
    """
    where = backbone.device if device is None else torch.device(device)
    backbone = backbone.to(where)
    head.to(where)
    precision = choose_precision(options.precision, where)
    items, apart = hold_out(items, options.held_out)
    shown = len(items)
    if views := parse_views(options.views, VIEW_SEPARATOR):
        items = add_views(items, views)
    objects = Objects.prepare(items, head.classes, head.side(backbone))
    key = digest(
        {
            "loop": LOOP,
            "proposals": [head.name, head.options.model_dump(mode="json"), head.classes],
            "options": options.model_dump(mode="json"),
            "items": [[item.task, item.id, item.view] for item in items],
            "objects": [
                digest_arrays([("counted", objects.counted)]),
                *(
                    digest_arrays([("boxes", boxes), ("classes", classes)])
                    for boxes, classes in zip(objects.boxes, objects.classes, strict=True)
                ),
            ],
            "seed": seed,
            "precision": precision,
        }
    )
    fitted = fit_images(
        head, backbone, items, apart, _Objects(head, backbone, objects, apart, options), options, precision,
        shown=shown, key=key, seed=seed, checkpoint_dir=checkpoint_dir, on_step=on_step, warn=warn,
    )  # fmt: skip
    if apart is not None and head.options.threshold is None:
        head.threshold.fill_(best_threshold(head, backbone, apart))
    return fitted
