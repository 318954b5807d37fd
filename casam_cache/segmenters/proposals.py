"""Where objects are, from an image's embedding: centres and boxes, as prompts of SAM's frozen mask decoder.

A light convolutional network (`segmenters/fcn.py`) gives each cell of a grid of s a side a logit z_k a class, that an
object's centre is there, and four numbers a class of its box (Zhou et al., Objects as Points, arXiv:1904.07850):

    centre = (cell + 1/2 + (d_x, d_y)) S / s          size = exp(l_w, l_h) S / s

in pixels of the input of S a side. Proposals are the cells whose sigmoid(z_k) is the highest of the 3 x 3 around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.geometry import Geometry
from casam_cache.segmenters.fcn import FCN
from casam_cache.segmenters.options import FCNOptions, ProposalOptions

RARE = 0.01  # what a centre's score begins at: nearly all cells have none
UNSURE = 0.3  # the threshold where there is nothing to choose it on
LEAST = 0.05  # no proposal has a lower score: what is so unlikely is not worth a pass of the decoder
SAME = 0.9  # of two boxes with a greater IoU the decoder sees one


@dataclass(frozen=True)
class Boxes:
    """The proposals of an image, highest score first.

    Attributes:
        boxes: float32 (P, 4), x0, y0, x1, y1 in input pixels, inside the image.
        scores: float32 (P,), of the centres.
        classes: int64 (P,), places among the head's classes.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor


class Proposals(nn.Module):
    """Centres and boxes of the objects of an image. Every parameter is trained, and nothing of the backbone.

    Attributes:
        name: in the registry, files and tables.
        Options: model of its options.
        revision: raised when the same options would give another result.
        recipe: options of training that stand where nothing else is said.
        classes: K ids, ascending.
        threshold: the least score of an object that a prediction holds; saved with the weights.
    """

    name: ClassVar[str] = "proposals"
    Options: ClassVar[type[BaseModel]] = ProposalOptions
    revision: ClassVar[int | str] = 3
    recipe: ClassVar[Mapping[str, Any]] = {}
    threshold: torch.Tensor

    def __init__(
        self, options: ProposalOptions, backbone: Backbone, classes: Sequence[int], seed: int
    ) -> None:
        """Initial weights depend on the seed, the options, the backbone and the number of classes alone."""
        super().__init__()
        self.options, self.classes = options, tuple(classes)
        inner = FCNOptions(width=options.width, blocks=options.blocks, depth=options.depth)
        count = len(self.classes)
        self.network = FCN(inner, backbone, range(5 * count - 1), seed)  # K centres, K boxes
        with torch.no_grad():
            bias = self.network.out.bias
            assert isinstance(bias, torch.Tensor)
            bias.zero_()
            bias[:count] = math.log(RARE / (1 - RARE))
        least = UNSURE if options.threshold is None else options.threshold
        self.register_buffer("threshold", torch.tensor(least, dtype=torch.float32))

    def maps(self, backbone: Backbone, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, C, g, g) -> what each cell says.

        Returns:
            float32 logits (B, K, s, s) of centres, and float32 (B, K, 4, s, s), the box of an object of each class
            whose centre is in the cell: x0, y0, x1, y1 in input pixels. A class has its own, since what lies in a ring
            has the ring's centre.
        """
        said = self.network.logits(backbone, embedding)
        count, side = len(self.classes), said.shape[-1]
        stride = backbone.image_size / side
        cells = torch.arange(side, device=said.device, dtype=said.dtype) + 0.5
        grid = torch.stack([cells.expand(side, side), cells[:, None].expand(side, side)])
        told = said[:, count:].unflatten(1, (count, 4))
        centre = (grid + told[:, :, :2]) * stride
        half = told[:, :, 2:].clamp(-4, math.log(2 * side)).exp() * (stride / 2)
        return said[:, :count], torch.cat([centre - half, centre + half], dim=2)

    def side(self, backbone: Backbone) -> int:
        """s, cells a side of the grid over the backbone's square input."""
        return self.network.side(backbone)

    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


@torch.no_grad()
def propose(
    head: Proposals, backbone: Backbone, embeddings: torch.Tensor, geometries: Sequence[Geometry]
) -> list[Boxes]:
    """The proposals of some images, at most `most` of each.

    Args:
        head: on the backbone's device, in evaluation mode.
        backbone: frozen.
        embeddings: (B, C, g, g), any dtype.
        geometries: how each image lies in the input; centres in padding are none.
    """
    logits, boxes = head.maps(backbone, embeddings.to(backbone.device).float())
    scores = logits.sigmoid()
    peaks = scores * (scores == F.max_pool2d(scores, 3, stride=1, padding=1))
    return [
        _best(one, box, geometry, head.options.most)
        for one, box, geometry in zip(peaks, boxes, geometries, strict=True)
    ]


def _best(peaks: torch.Tensor, boxes: torch.Tensor, geometry: Geometry, most: int) -> Boxes:
    side = peaks.shape[-1]
    stride = geometry.image_size / side
    rows, columns = (
        -(-inside // stride) for inside in (geometry.input_height, geometry.input_width)
    )  # cells that hold image
    inside = torch.zeros_like(peaks[0], dtype=torch.bool)
    inside[: int(rows), : int(columns)] = True
    flat = torch.where(inside & (peaks >= LEAST), peaks, torch.zeros_like(peaks)).flatten()
    places = flat.argsort(descending=True, stable=True)[: int((flat > 0).sum())]
    classes = places // (side * side)
    ends = torch.tensor([geometry.input_width, geometry.input_height] * 2, device=boxes.device)
    found = boxes.flatten(2).movedim(1, 2).flatten(0, 1)[places].clamp(min=0).minimum(ends - 1)
    apart = _apart(found, classes, most)
    return Boxes(found[apart], flat[places[apart]], classes[apart])


def _apart(boxes: torch.Tensor, classes: torch.Tensor, most: int) -> torch.Tensor:
    """int64, the first `most` places of boxes that are not `SAME` as an earlier one of their class."""
    kept: list[int] = []
    for place in range(len(boxes)):
        if len(kept) == most:
            break
        before = [one for one in kept if classes[one] == classes[place]]
        if not before or float(box_iou(boxes[place : place + 1], boxes[before]).max()) <= SAME:
            kept.append(place)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def box_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU (n, m) of boxes (n, 4) and (m, 4), corners as numbers on a line: a box of no extent has 0 with any other."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - both
    return torch.where(union > 0, both / union.clamp(min=1e-9), torch.zeros_like(both))
