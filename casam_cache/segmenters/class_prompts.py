"""Learned prompts of each class through SAM's frozen mask decoder.

A class has `tokens` sparse prompt embeddings in the place of a user's prompt, which begin near the two of a box over
the whole input, and a learned dense one that is added to SAM's for "no mask" and begins at zero. The decoder's single
mask is the class's logit against a background of 0, so that with one class the map is where SAM's mask would be. Each
class is a pass of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts
from casam_cache.fingerprint import generator
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.options import ClassPromptsOptions

SPREAD = 0.1  # of what is drawn: SAM's own prompt embeddings are of the order of one


class ClassPrompts(Segmenter):
    """One set of prompt embeddings a class, the same for every image.

    Args:
        options: how many, and what of the dense one is learned.
        backbone: whose C and grid they have.
        classes: K ids.
        seed: of the tokens.
    """

    name = "class-prompts"
    Options = ClassPromptsOptions
    # Few numbers, of the order of one, behind a decoder; a pass a class and image is what a step costs.
    recipe: ClassVar[Mapping[str, Any]] = {"learning_rate": 3e-2, "batch_size": 2}

    def __init__(
        self, options: ClassPromptsOptions, backbone: Backbone, classes: Sequence[int], seed: int
    ) -> None:
        super().__init__(options, backbone, classes, seed)
        channels, *grid = backbone.feature_shape("embedding")
        with torch.no_grad():  # the whole input as a box: where a decoder that needs a prompt looks anywhere
            side = float(backbone.image_size)
            corners, _ = backbone.embed_prompts(
                Prompts(boxes=torch.tensor([[0.0, 0.0, side, side]], device=backbone.device))
            )
        box = corners[0].float().cpu()
        drawn = [
            [
                generator(seed, "class-prompts", channels, place, token).normal(0, SPREAD, channels)
                for token in range(options.tokens)
            ]
            for place in range(len(self.classes))
        ]
        start = torch.from_numpy(np.array(drawn)).float()
        known = min(len(box), options.tokens)
        start[:, :known] += box[:known]
        self.tokens = nn.Parameter(start)  # (K, tokens, C)
        shape = (len(self.classes), channels, *(grid if options.dense == "cell" else (1, 1)))
        self.dense = None if options.dense == "none" else nn.Parameter(torch.zeros(shape))

    def logits(self, backbone: Backbone, embedding: torch.Tensor) -> torch.Tensor:
        """See `Segmenter.logits`."""
        count, classes = len(embedding), len(self.classes)
        _, dense = backbone.embed_prompts(Prompts(count=1))
        dense = dense.expand(classes, -1, -1, -1)
        if self.dense is not None:
            dense = dense + self.dense
        image = torch.arange(count, device=embedding.device).repeat_interleave(classes)
        sparse, own = self.tokens.repeat(count, 1, 1), dense.repeat(count, 1, 1, 1)
        low_res, _ = backbone.decode(embedding, image, sparse, own, multimask=False)
        found = low_res[:, 0].unflatten(0, (count, classes))
        return torch.cat([torch.zeros_like(found[:, :1]), found], dim=1)

    def side(self, backbone: Backbone) -> int:
        """That of the decoder's logits."""
        return backbone.low_res
