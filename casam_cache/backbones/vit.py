"""SAM's image encoder: the embedding, and two further features that its blocks can give on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.blocks import prepare_blocks
from casam_cache.backbones.decoder import normalise_in_float
from casam_cache.fingerprint import generator

TOKENS = 10
TOKEN_SEED = 0
TOKEN_READ = 0


def early_block(architecture: Architecture) -> int:
    """Index of the first block with global attention, whose output is HQ-SAM's early feature."""
    return min(architecture.global_blocks)


class PreparedViT:
    """A frozen ImageEncoderViT of `segment_anything`, with whatever can be computed once.

    *embedding* is SAM's image embedding. Weights and function are upstream's; its blocks run in a form that
    does less work (`blocks`, `attention`), measured equal to `segment_anything` in float32 to 1e-5 of the
    largest value (tests/test_parity.py). Under bf16 LayerNorm and the residual stream stay in float32.

    *early* is the output of the first block with global attention (the first of HQ-SAM's
    `interm_embeddings`), channels first. If it is all that is asked for, the later blocks do not run.

    *tokens* is MoDA's task token, after its released code: 10 tokens of the ViT's width, drawn once from N(0,
    1) with a fixed seed, pass the frozen blocks beside the patches, and token 0 is read after the last block.
    Upstream's windows and relative positions have no place for tokens that are not on the grid, and the image
    embedding must not change, so here, in windowed and in global blocks alike, with x the block's input and t
    the tokens:

        q = queries of norm1(t);  k, v = keys and values of [norm1(x), norm1(t)], x being all g x g grid
        tokens t <- t + proj(softmax(q k^T / sqrt(head dim)) v);  t <- t + mlp(norm2(t))

    Tokens have no absolute position, their attention no relative position term, and no window padding takes
    part. Image tokens never attend to them: x goes on through the block bit for bit as without tokens.

    Args:
        encoder: on its device.
        architecture: its dimensions.
        form: of attention, one of `attention.FORMS`.
    """

    def __init__(self, encoder: nn.Module, architecture: Architecture, form: str) -> None:
        self._encoder: Any = encoder
        self._early = early_block(architecture)
        self._blocks = prepare_blocks(encoder, architecture.grid, form)
        drawn = generator("moda tokens", TOKEN_SEED).standard_normal((TOKENS, architecture.width))
        self.tokens = torch.from_numpy(drawn.astype(np.float32)).to(next(encoder.parameters()).device)

    def run(self, images: Tensor, features: Sequence[str]) -> dict[str, Tensor]:
        """Normalised images (B, 3, S, S) -> the features asked for."""
        encoder, found = self._encoder, {}
        grid = encoder.patch_embed(images) + encoder.pos_embed  # (B, g, g, width)
        tokens = self.tokens.expand(len(images), -1, -1) if "tokens" in features else None
        for index, block in enumerate(self._blocks):
            projected = block.project(grid)
            if tokens is not None:
                tokens = block.forward_tokens(tokens, projected)
            grid = block.forward(grid, projected)
            if index == self._early and "early" in features:
                found["early"] = grid.permute(0, 3, 1, 2)
                if set(features) == {"early"}:
                    break
        if tokens is not None:
            found["tokens"] = tokens[:, TOKEN_READ]
        if "embedding" in features:
            found["embedding"] = normalise_in_float(encoder.neck, grid.permute(0, 3, 1, 2))
        return {name: found[name].float().contiguous() for name in features}
