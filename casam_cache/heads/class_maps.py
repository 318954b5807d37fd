"""Maps of classes as answers to prompts: which map is meant, what of it counts, and the IoU to be expected of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import BOX_FIRST, BOX_SECOND, FOREGROUND, NOT_A_POINT, Prompts
from casam_cache.errors import CasamError

Cut = Literal["none", "box"]


def check_classes(item: str, classes: Sequence[int], maps: int, cut: Cut, otherwise: str) -> None:
    """There is a map for each class, and one mask of each class unless maps are cut.

    Args:
        item: name of the image, for messages.
        classes: of its masks.
        maps: how many are predicted.
        cut: what of a map counts as the answer to a prompt.
        otherwise: what else to choose, for messages.

    Raises:
        CasamError: a mask has no map, or several share one.
    """
    if max(classes) > maps:
        raise CasamError(
            f"{item} has a mask of class {max(classes)}, and the network predicts {maps} "
            f"{'map' if maps == 1 else 'maps'}",
            f"give it a map for each class, --set classes={max(classes)}, or choose {otherwise}",
        )
    if cut == "none" and len(set(classes)) < len(classes):
        raise CasamError(
            f"{item} has several masks of one class, and a network without a box predicts one map of all of them",
            f"choose {otherwise}; or --set cut=box, which scores what of the map is in the box of each mask",
        )


def corners_and_classes(
    backbone: Backbone, prompts: Prompts, classes: torch.Tensor | None, boxes: bool, maps: int
) -> torch.Tensor:
    """float32 (P, 5): the corners of a box in input pixels, zeros where `boxes` is False, and a class, 1 if unsaid.

    A point is the box of two low-res cells around it.

    Args:
        backbone: whose device, and whose cells.
        prompts: in input pixels.
        classes: int64 (P,), of what each prompt means; None where nobody says.
        boxes: whether the box matters.
        maps: how many classes have a map; 0 where prompts are answered without.

    Raises:
        CasamError: boxes are asked for, and a prompt is no box nor a single point; or nobody says which of several
            classes is meant.
    """
    if classes is None and maps > 1:
        raise CasamError(
            f"the network predicts maps of {maps} classes, and a prompt does not say which is meant",
            "casam fit and casam evaluate score it, since masks have classes; prompt a run with a box instead",
        )
    found = as_boxes(prompts, backbone) if boxes else torch.zeros((len(prompts), 4), device=backbone.device)
    number = torch.ones_like(found[:, :1]) if classes is None else classes[:, None].to(found)
    return torch.cat([found, number], 1)


def answer(maps: torch.Tensor, asked: torch.Tensor, size: int, cut: Cut) -> torch.Tensor:
    """Logits (P, K, s, s) of every class for each prompt -> (P, 1, s, s), of the one that is meant.

    Args:
        maps: of the image of each prompt.
        asked: as `corners_and_classes` gives them.
        size: S, input pixels a side.
        cut: `box`: outside the box nothing is answered.
    """
    place = asked[:, 4].long().sub(1).clamp(0, maps.shape[1] - 1)
    logits = maps[torch.arange(len(place), device=place.device), place][:, None]
    if cut == "box":
        own = inside(asked[:, :4], maps.shape[-1], size)[:, None]
        logits = torch.where(own, logits, -logits.abs())
    return logits.float()


def inside(corners: torch.Tensor, side: int, size: int) -> torch.Tensor:
    """Bool (N, side, side): cells whose centres lie in the boxes (N, 4) x0, y0, x1, y1, last pixels included.

    Args:
        corners: in input pixels.
        side: cells a side over the whole input.
        size: S, input pixels a side.
    """
    at = (torch.arange(side, device=corners.device) + 0.5) * (size / side) - 0.5
    x0, y0, x1, y1 = (corners[:, number, None] for number in range(4))
    across, down = (at >= x0 - 0.5) & (at <= x1 + 0.5), (at >= y0 - 0.5) & (at <= y1 + 0.5)
    return down[:, :, None] & across[:, None, :]


def expected_iou(logits: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The IoU (P, 1) to be expected of masks (P, 1, s, s) where every cell is drawn by its own probability, roughly.

    With p the probability of a cell and M the mask, p > 1/2: sum of p in M / (|M| + sum of p outside M); 0 for no mask.

    Args:
        logits: of the masks.
        valid: bool (P, 1, s, s), where the image is; beyond it nothing counts.
    """
    probability = logits.sigmoid() * valid
    predicted = (logits > 0) & valid
    shared = (probability * predicted).sum((-2, -1))
    union = predicted.sum((-2, -1)) + probability.sum((-2, -1)) - shared
    return shared / union.clamp_min(1e-7)


def as_boxes(prompts: Prompts, backbone: Backbone) -> torch.Tensor:
    """float32 (P, 4); a single point is a square of two low-res cells a side."""
    if prompts.masks is not None:
        raise CasamError("a network that sees a box takes no mask as a prompt", "prompt it with a box")
    packed = prompts.pack()
    points, labels = packed.points, packed.labels
    found: Any = None if labels is None else labels.sort(dim=1).values
    if points is None or found is None or found.shape[1] != 2:
        raise CasamError(
            "a network that sees a box takes one box or one point a mask", "prompt it with a box"
        )
    kinds = torch.tensor([[BOX_FIRST, BOX_SECOND], [NOT_A_POINT, FOREGROUND]], device=found.device)
    is_box, is_point = ((found == kind).all(dim=1) for kind in kinds)
    if not bool((is_box | is_point).all()):
        raise CasamError(
            "a network that sees a box takes one box or one point on the object a mask",
            "prompt it with a box",
        )
    boxes, cell = points.float().flatten(1), backbone.image_size / backbone.low_res
    around = boxes[:, [0, 1, 0, 1]] + boxes.new_tensor([-cell, -cell, cell, cell])
    return torch.where(is_box[:, None], boxes, around)
