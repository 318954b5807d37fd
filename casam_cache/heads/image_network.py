"""A segmentation network from random weights in the place of SAM: what a prompted, pretrained model is compared with.

It sees the image as the store's preprocessing prepares it, S pixels a side, and is trained and scored at that size.
Plain, it sees no prompt and predicts a map for each class; the map of a mask's class is its answer to every prompt for
a mask of that class. With the box as a fourth channel of the image, 1 inside and 0 outside, it answers each prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts
from casam_cache.heads.base import Head
from casam_cache.heads.class_maps import answer, check_classes, corners_and_classes, expected_iou, inside
from casam_cache.heads.networks import STRIDE, make_network
from casam_cache.heads.options import ImageNetworkOptions


class ImageNetwork(Head):
    """A network of `segmentation_models_pytorch`, with no part of SAM.

    Its estimate of a mask's IoU is learned by nothing: see `class_maps.expected_iou`.

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
        check_classes(item, classes, self.class_maps, self._of.cut, "a method with -box")

    def embed_prompts(
        self, backbone: Backbone, prompts: Prompts, classes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (P, 5), the corners of a box in input pixels and a class, and (P, 0): nothing.

        A point is the box of two low-res cells around it. Of networks that see no box, prompts may be anything.

        Raises:
            CasamError: they are no boxes nor single points, and boxes are what the network sees; or nobody says which
                of several classes is meant.
        """
        boxes = self._of.box or self._of.cut == "box"
        asked = corners_and_classes(backbone, prompts, classes, boxes, self.class_maps)
        return asked, asked[:, :0]

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
            own = inside(sparse[:, :4], side, side)[:, None]
            logits = self._maps(torch.cat([aligned, own.to(aligned)], 1)).float()
        else:
            logits = answer(aligned, sparse, side, "none" if self.training else self._of.cut)
        ends = torch.cat([torch.zeros_like(sizes), sizes.flip(1) - 1], 1)
        return logits, expected_iou(logits.detach(), inside(ends, side, side)[:, None])

    def _maps(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, S, S) -> logits (N, K, S, S); at a multiple of the encoder's stride in between."""
        side = images.shape[-1]
        more = -side % STRIDE
        found: torch.Tensor = self.network(F.pad(images, (0, more, 0, more)))
        return found[..., :side, :side]
