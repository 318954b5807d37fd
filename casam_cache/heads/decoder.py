"""Decoder tuning ("Tuning Decoder" of Table 3): the mask decoder or a part of it is trained, the embedding is not."""

from __future__ import annotations

import copy

import torch
from pydantic import BaseModel
from torch import nn

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.decoder_parts import train_part
from casam_cache.heads.options import DecoderOptions


class DecoderTuning(Head):
    """A trainable copy of the backbone's mask decoder.

    With ViT-B's dimensions it has 4,058,340 parameters, the paper's 4.06 M. That counts the hypernetworks of
    the three mask tokens which single-mask training never reaches; they stay as they were.

    Args:
        mask_decoder: the backbone's; it is copied, never trained itself.
        options: which part of it is trained.
        seed: of what is drawn, for `train=lora`.
    """

    name = "decoder"
    Options = DecoderOptions
    begins_as_frozen = True

    def __init__(self, mask_decoder: nn.Module, options: DecoderOptions | None = None, seed: int = 0) -> None:
        options = options or DecoderOptions()
        super().__init__(options)
        self.mask_decoder = copy.deepcopy(mask_decoder)
        train_part(self.mask_decoder, options, seed)

    @classmethod
    def build(cls, options: BaseModel, backbone: Backbone, seed: int) -> Head:
        """See `Head.build`."""
        assert isinstance(options, DecoderOptions)
        return cls(backbone.decoder_to_copy(cls.name), options, seed)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, g, g), returned as it is: what changes is the decoder behind."""
        return embedding
