"""SAM's prompt encoder and mask decoder for one prompt on one image, in operations that a traced graph can hold.

`SamDecoding.embed_prompts` and `decode` serve batches of prompts of many forms, which a graph with fixed inputs cannot
express. Here a prompt is what `segment_anything`'s own export takes: points and box corners in one list of any length,
and a mask that counts or does not. The weights and the arithmetic are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from casam_cache.backbones.decoder import SamDecoding
from casam_cache.backbones.prompts import NOT_A_POINT


class PromptGraph(nn.Module):
    """One prompt on one image -> all the masks that the decoder has tokens for.

    Args:
        backbone: whose prompt encoder and mask decoder to use; they are not copied.
    """

    kinds: Tensor
    dense_pe: Tensor

    def __init__(self, backbone: SamDecoding) -> None:
        super().__init__()
        encoder: Any = backbone.prompt_encoder
        self.prompt_encoder, self.mask_decoder = backbone.prompt_encoder, backbone.mask_decoder
        self._side = float(backbone.image_size)
        kinds = [encoder.not_a_point_embed.weight, *(each.weight for each in encoder.point_embeddings)]
        self.register_buffer("kinds", torch.cat(kinds).detach())  # of labels -1, 0, 1, 2, 3
        self.register_buffer("dense_pe", backbone.dense_pe().detach().clone())

    def forward(
        self, embedding: Tensor, coordinates: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (1, t, 4g, 4g) and estimates of IoU (1, t) for the decoder's t mask tokens, the single mask's first.

        Args:
            embedding: float32 (1, C, g, g), what the decoder is to see.
            coordinates: float32 (1, n, 2), x, y in pixels of the input.
            labels: float32 (1, n): 1 foreground, 0 background, 2 and 3 a box's first and second corner, -1 padding.
            mask: float32 (1, 1, 4g, 4g), low-res logits of an earlier pass.
            has_mask: float32 (1,): 1 if `mask` counts, 0 if not.
        """
        prompts: Any = self.prompt_encoder
        decoder: Any = self.mask_decoder
        position = prompts.pe_layer._pe_encoding((coordinates + 0.5) / self._side)
        kind = labels.long()
        position = torch.where((kind == NOT_A_POINT)[..., None], torch.zeros_like(position), position)
        sparse = position + self.kinds[kind - NOT_A_POINT]
        no_mask = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = torch.where(has_mask.reshape(1, 1, 1, 1) > 0, prompts.mask_downscaling(mask), no_mask)
        masks: tuple[Tensor, Tensor] = decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=self.dense_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        return masks
