"""Objects of an image without a prompt of a person: proposals, each a box that SAM's frozen decoder answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.cutout import Cutout
from casam_cache.geometry import Geometry
from casam_cache.segmenters.proposals import Boxes, Proposals, propose

BOXES_AT_ONCE = 16


@dataclass(frozen=True)
class Instance:
    """One object that was found.

    Attributes:
        cutout: its mask, tight.
        class_id: of its class.
        score: in [0, 1]; higher is surer.
        box: float32 (4,), x0, y0, x1, y1 in pixels of the image: the proposal, which prompted the mask.
    """

    cutout: Cutout
    class_id: int
    score: float
    box: np.ndarray


@dataclass(frozen=True)
class Answered:
    """The objects of an image on SAM's own grid, highest score first, without such as overlap a surer one of a class.

    Attributes:
        logits: float32 (n, 4g, 4g).
        boxes: float32 (n, 4), the proposals, in input pixels.
        scores: float32 (n,).
        classes: int64 (n,), places among the head's classes.
    """

    logits: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor


def find_instances(
    head: Proposals, backbone: Backbone, embedding: torch.Tensor, geometry: Geometry, least: float = 0.0
) -> list[Instance]:
    """The objects of one image, highest score first, without empty masks and such as overlap a surer one of a class.

    Args:
        head: on the backbone's device, in evaluation mode.
        backbone: frozen.
        embedding: of the image, (C, g, g), any dtype.
        geometry: how the image lies in the input.
        least: objects with a lower score are left out.
    """
    (proposed,) = propose(head, backbone, embedding[None], [geometry])
    return masks_of(head, backbone, embedding, geometry, proposed, least)


def masks_of(
    head: Proposals,
    backbone: Backbone,
    embedding: torch.Tensor,
    geometry: Geometry,
    proposed: Boxes,
    least: float = 0.0,
) -> list[Instance]:
    """As `find_instances`, of the proposals that are given."""
    answered = answer_boxes(head, backbone, embedding, proposed, least)
    scale = np.array([geometry.width / geometry.input_width, geometry.height / geometry.input_height] * 2)
    found: list[Instance] = []
    for place, low_res in enumerate(answered.logits):
        mask = (upscale(low_res[None], geometry)[0] > 0).cpu().numpy()
        if mask.any():
            box = (answered.boxes[place].cpu().numpy() * scale).astype(np.float32)
            number, score = head.classes[int(answered.classes[place])], float(answered.scores[place])
            found.append(Instance(Cutout.of(mask).tight(), number, score, box))
    return found


@torch.no_grad()
def answer_boxes(
    head: Proposals, backbone: Backbone, embedding: torch.Tensor, proposed: Boxes, least: float = 0.0
) -> Answered:
    """What SAM's frozen decoder makes of the proposals of one image; arguments as of `masks_of`."""
    kept = proposed.scores >= least  # an estimate of an IoU only lowers a score
    boxes, scores, classes = proposed.boxes[kept], proposed.scores[kept], proposed.classes[kept]
    image = embedding[None].to(backbone.device).float()
    answers: list[torch.Tensor] = []
    for part in boxes.split(BOXES_AT_ONCE):
        sparse, dense = backbone.embed_prompts(Prompts(boxes=part))
        first = torch.zeros(len(part), dtype=torch.long, device=part.device)
        low_res, estimate = backbone.decode(image, first, sparse, dense, multimask=False)
        answers.append(low_res[:, 0])
        if head.options.score == "centre-iou":
            start = sum(map(len, answers[:-1]))
            scores[start : start + len(part)] *= estimate[:, 0].clamp(0, 1)
    if not len(boxes):
        return Answered(image.new_zeros((0, backbone.low_res, backbone.low_res)), boxes, scores, classes)
    logits = torch.cat(answers)
    order = [int(place) for place in scores.argsort(descending=True, stable=True) if scores[place] >= least]
    apart = _apart(logits > 0, classes, order, head.options.overlap)
    return Answered(logits[apart], boxes[apart], scores[apart], classes[apart])


def _apart(masks: torch.Tensor, classes: torch.Tensor, order: list[int], most: float) -> list[int]:
    """The places in `order` whose mask has no greater IoU than `most` with any before it of its class that is kept."""
    flat = masks.flatten(1).float()
    both = flat @ flat.T
    areas = both.diagonal()
    union = areas[:, None] + areas[None] - both
    overlaps = ((both > most * union) & (classes[:, None] == classes)).cpu().numpy()
    kept: list[int] = []
    for place in order:
        if not overlaps[place, kept].any():
            kept.append(place)
    return kept


def label_map(found: list[Instance], height: int, width: int) -> np.ndarray:
    """uint16 (H, W): 0 background, 1 + i where `found[i]` is; where objects overlap the earlier one has the pixel."""
    labels = np.zeros((height, width), np.uint16)
    for number in range(len(found), 0, -1):
        cutout = found[number - 1].cutout
        rows, columns = cutout.pixels.shape
        part = labels[cutout.top : cutout.top + rows, cutout.left : cutout.left + columns]
        part[cutout.pixels] = number
    return labels
