"""Segmenters as heads, so that benches compare them with prompted ones, and routers choose between them.

    map_k = z_k - log sum_{j != k} exp z_j

is the log odds of class k under the softmax over background and classes: positive where p_k > 1/2. The map of a mask's
class is the answer to every prompt for a mask of that class; the prompt itself is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, cast

import torch
from pydantic import BaseModel
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts
from casam_cache.heads.base import Head
from casam_cache.heads.class_maps import Cut, answer, check_classes, corners_and_classes, expected_iou
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.class_prompts import ClassPrompts
from casam_cache.segmenters.fcn import FCN
from casam_cache.segmenters.options import ClassPromptsMapOptions, FCNMapOptions


class _Options(Protocol):
    classes: int
    cut: Cut


class SegmenterHead(Head):
    """A segmenter on the embedding, trained and scored at the side of its own map.

    Args:
        options: of the segmenter, how many classes, and what of a map counts.
        backbone: whose embeddings it reads.
        seed: of the initial weights.
    """

    segmenter: ClassVar[type[Segmenter]]
    needs = ("embedding", "valid")
    replaces_sam = True

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options)
        self._of = cast(_Options, options)
        self.class_maps = self._of.classes
        names = self.segmenter.Options.model_fields
        own = self.segmenter.Options(**{name: getattr(options, name) for name in names})
        self.maps = self.segmenter(own, backbone, range(1, self._of.classes + 1), seed)
        # Held so that the module does not own it: nothing of it is trained or saved.
        self._backbone = (backbone,)

    def mask_side(self, backbone: Backbone) -> int:
        """s, that of the segmenter's map."""
        return self.maps.side(backbone)

    def check_masks(self, item: str, classes: Sequence[int]) -> None:
        """See `Head.check_masks`."""
        check_classes(item, classes, self.class_maps, self._of.cut, "a method that answers prompts")

    def embed_prompts(
        self, backbone: Backbone, prompts: Prompts, classes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (P, 5), the corners of a box, where maps are cut, and a class; and (P, 0): nothing."""
        boxes = self._of.cut == "box"
        asked = corners_and_classes(backbone, prompts, classes, boxes, self.class_maps)
        return asked, asked[:, :0]

    def align(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings (B, C, g, g) -> the map of each class, logits (B, K, s, s)."""
        logits = self.maps.logits(self._backbone[0], features["embedding"])
        others = [
            logits[:, [other for other in range(logits.shape[1]) if other != own]].logsumexp(dim=1)
            for own in range(1, logits.shape[1])
        ]
        return logits[:, 1:] - torch.stack(others, dim=1)

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
        """Logits (P, 1, s, s) and estimates (P, 1); one mask, whatever `multimask` says."""
        valid = F.interpolate(features["valid"][:, None].float(), size=aligned.shape[-2:]) > 0
        if image_index is not None:
            aligned, valid = aligned.index_select(0, image_index), valid.index_select(0, image_index)
        logits = answer(aligned, sparse, backbone.image_size, "none" if self.training else self._of.cut)
        return logits, expected_iou(logits.detach(), valid)


class FCNHead(SegmenterHead):
    """The light convolutional decoder of `segmenters/fcn.py`."""

    name = "fcn"
    segmenter = FCN
    Options = FCNMapOptions


class ClassPromptsHead(SegmenterHead):
    """Learned prompts of each class through SAM's frozen decoder, `segmenters/class_prompts.py`."""

    name = "class-prompts"
    segmenter = ClassPrompts
    Options = ClassPromptsMapOptions
