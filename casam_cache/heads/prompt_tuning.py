"""Prompt tuning: learned prompt embeddings beside the user's prompt, the same for every image of a task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from casam_cache.backbones.base import Backbone
from casam_cache.fingerprint import generator
from casam_cache.heads.base import Head
from casam_cache.heads.options import PromptTuningOptions

SPREAD = 0.02  # of a new token; SAM's own prompt embeddings are of the order of one


class PromptTuning(Head):
    """Sparse prompt embeddings behind those of the prompt, and a dense one that is added to the prompt's.

    SAM adds the dense prompt embedding to the image embedding before anything else happens to either, so here it is
    added there. It starts at zero; the tokens start near it.

    Args:
        options: how many, and what of the dense one is learned.
        backbone: whose C and grid they have.
        seed: of the tokens.
    """

    name = "prompt-tuning"
    Options = PromptTuningOptions

    def __init__(self, options: PromptTuningOptions, backbone: Backbone, seed: int) -> None:
        super().__init__(options)
        channels, *grid = backbone.feature_shape("embedding")
        self.tokens = learned_tokens(options.tokens, channels, seed)
        shape = (channels, *grid) if options.dense == "cell" else (channels, 1, 1)
        self.dense = None if options.dense == "none" else nn.Parameter(torch.zeros(shape))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, g, g) -> (B, C, g, g), with the learned dense prompt embedding added."""
        return embedding if self.dense is None else embedding + self.dense

    def prompt_tokens(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """(B, tokens, C), the same for every image."""
        return None if self.tokens is None else self.tokens.expand(len(features["embedding"]), -1, -1)


def learned_tokens(count: int, channels: int, seed: int) -> nn.Parameter | None:
    """(count, C) near zero; the first of more are those of fewer. None for none."""
    if not count:
        return None
    drawn = [
        generator(seed, "prompt-tuning", channels, index).normal(0, SPREAD, channels)
        for index in range(count)
    ]
    return nn.Parameter(torch.stack([torch.from_numpy(each).float() for each in drawn]))
