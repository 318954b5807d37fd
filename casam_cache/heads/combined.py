"""An Alignment Layer before, a part of the mask decoder behind, and learned prompts beside it, trained together."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.heads.alignment import AlignmentLayer
from casam_cache.heads.base import Head
from casam_cache.heads.decoder_parts import train_part
from casam_cache.heads.options import AlignmentOptions, CombinedOptions, DecoderOptions
from casam_cache.heads.prompt_tuning import learned_tokens


class Combined(Head):
    """What `alignment`, `decoder` and `prompt-tuning` train, with the same beginnings for the same seed.

    Args:
        options: of all parts.
        backbone: whose mask decoder is copied.
        seed: of all parts.
    """

    name = "combined"
    Options = CombinedOptions

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        assert isinstance(options, CombinedOptions)
        super().__init__(options)
        own = {name: getattr(options, name) for name in AlignmentOptions.model_fields}
        self.layer = AlignmentLayer(backbone.channels, AlignmentOptions(**own), seed, backbone.neck)
        self.mask_decoder = copy.deepcopy(backbone.decoder_to_copy(self.name))
        part = DecoderOptions(train=options.train, rank=options.rank, targets=options.targets)
        train_part(self.mask_decoder, part, seed)
        self.tokens = learned_tokens(options.tokens, backbone.channels, seed)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, g, g) -> (B, C, g, g), the Alignment Layer's output."""
        aligned: torch.Tensor = self.layer(embedding)
        return aligned

    def prompt_tokens(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """(B, tokens, C), the same for every image; None without."""
        return None if self.tokens is None else self.tokens.expand(len(features["embedding"]), -1, -1)
