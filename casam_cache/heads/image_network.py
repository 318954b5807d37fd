"""A segmentation network from random weights in the place of SAM: what a prompted, pretrained model is compared with.

It sees the image as the store's preprocessing prepares it, S pixels a side, and is trained and scored at that size.
Plain, it sees no prompt and predicts a map for each class; the map of a mask's class is its answer to every prompt for
a mask of that class. With the box as a fourth channel of the image, 1 inside and 0 outside, it answers each prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import BOX_FIRST, BOX_SECOND, FOREGROUND, NOT_A_POINT, Prompts
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.networks import STRIDE, make_network
from casam_cache.heads.options import ImageNetworkOptions


class ImageNetwork(Head):
    """A network of `segmentation_models_pytorch`, with no part of SAM.

    Its estimate of a mask's IoU is learned by nothing: with p the probability of a pixel and M the mask, p > 1/2, it is

        sum of p in M / (|M| + sum of p outside M).

    Args:
        options: which network, and what it sees and predicts.
        backbone: whose preprocessing its images have; no weight of it is used.
        seed: of the initial weights.
    """

    name = "image-network"
    Options = ImageNetworkOptions
    needs = ("pixels", "input_size")
    replaces_sam = True

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options)
        assert isinstance(options, ImageNetworkOptions)
        self._of = options
        self.augments = options.augment
        self.class_maps = 0 if options.box else options.classes
        channels = 4 if options.box else 3
        self.network = make_network(options.architecture, options.encoder, channels, options.classes, seed)
        # Held so that the module does not own it: nothing of it is trained or saved.
        self._backbone = (backbone,)

    def mask_side(self, backbone: Backbone) -> int:
        """S: a network of this kind predicts every pixel, and is taught each of them."""
        return backbone.image_size

    def check_masks(self, item: str, classes: Sequence[int]) -> None:
        """See `Head.check_masks`: there is a map for each class, and one mask of each class unless maps are cut."""
        if max(classes) > self.class_maps:
            raise CasamError(
                f"{item} has a mask of class {max(classes)}, and the network predicts {self.class_maps} "
                f"{'map' if self.class_maps == 1 else 'maps'}",
                f"give it a map for each class, --set classes={max(classes)}, or choose a method with -box",
            )
        if self._of.cut == "none" and len(set(classes)) < len(classes):
            raise CasamError(
                f"{item} has several masks of one class, and a network without a box predicts one map of all of them",
                "choose a method with -box; or --set cut=box, which scores what of the map is in the box of each mask",
            )

    def embed_prompts(
        self, backbone: Backbone, prompts: Prompts, classes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (P, 5), the corners of a box in input pixels and a class, and (P, 0): nothing.

        A point is the box of two low-res cells around it. Of networks that see no box, prompts may be anything.

        Raises:
            CasamError: they are no boxes nor single points, and boxes are what the network sees; or nobody says which
                of several classes is meant.
        """
        if classes is None and self.class_maps > 1:
            raise CasamError(
                f"the network predicts maps of {self.class_maps} classes, and a prompt does not say which is meant",
                "casam fit and casam evaluate score it, since masks have classes; prompt a run with a box instead",
            )
        boxes = torch.zeros((len(prompts), 4), device=backbone.device)
        if self._of.box or self._of.cut == "box":
            boxes = _as_boxes(prompts, backbone)
        number = torch.ones_like(boxes[:, :1]) if classes is None else classes[:, None].to(boxes)
        return torch.cat([boxes, number], 1), boxes[:, :0]

    def align(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Pixels (B, 3, S, S), the values of uint8, and the sizes (B, 2) of the images -> what answers prompts.

        That is the prepared image (B, 3, S, S) of a network that sees boxes, else its maps (B, K, S, S).
        """
        pixels, sizes = features["pixels"].to(torch.uint8), features["input_size"].long()
        images = self._backbone[0].normalise(pixels, sizes)
        return images if self._of.box else self._maps(images)

    def decode(
        self,
        backbone: Backbone,
        features: Mapping[str, torch.Tensor],
        aligned: torch.Tensor,
        image_index: torch.Tensor | None,
        sparse: torch.Tensor,
        dense: torch.Tensor,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (P, 1, S, S) and estimates (P, 1); one mask, whatever `multimask` says."""
        sizes = features["input_size"].long()
        if image_index is not None:
            aligned, sizes = aligned.index_select(0, image_index), sizes.index_select(0, image_index)
        side = aligned.shape[-1]
        if self._of.box:
            inside = _inside(sparse[:, :4], side)
            logits = self._maps(torch.cat([aligned, inside[:, None].to(aligned)], 1))
        else:
            place = sparse[:, 4].long().sub(1).clamp(0, aligned.shape[1] - 1)
            logits = aligned[torch.arange(len(place), device=place.device), place][:, None]
            if self._of.cut == "box" and not self.training:
                inside = _inside(sparse[:, :4], side)[:, None]
                logits = torch.where(inside, logits, -logits.abs())
        logits = logits.float()
        ends = torch.cat([torch.zeros_like(sizes), sizes.flip(1) - 1], 1)
        return logits, _expected_iou(logits.detach(), _inside(ends, side)[:, None])

    def _maps(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, S, S) -> logits (N, K, S, S); at a multiple of the encoder's stride in between."""
        side = images.shape[-1]
        more = -side % STRIDE
        found: torch.Tensor = self.network(F.pad(images, (0, more, 0, more)))
        return found[..., :side, :side]


def _inside(corners: torch.Tensor, side: int) -> torch.Tensor:
    """Bool (N, side, side): pixels whose centres lie in the boxes (N, 4) x0, y0, x1, y1, last pixels included."""
    at = torch.arange(side, device=corners.device)
    x0, y0, x1, y1 = (corners[:, number, None] for number in range(4))
    across, down = (at >= x0 - 0.5) & (at <= x1 + 0.5), (at >= y0 - 0.5) & (at <= y1 + 0.5)
    return down[:, :, None] & across[:, None, :]


def _expected_iou(logits: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The IoU (N, 1) to be expected where every pixel is drawn by its own probability, roughly; 0 for no mask."""
    probability = logits.sigmoid() * valid
    predicted = (logits > 0) & valid
    inside = (probability * predicted).sum((-2, -1))
    union = predicted.sum((-2, -1)) + probability.sum((-2, -1)) - inside
    return inside / union.clamp_min(1e-7)


def _as_boxes(prompts: Prompts, backbone: Backbone) -> torch.Tensor:
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
