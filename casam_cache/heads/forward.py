"""Embeddings through a head and the mask decoder: the one path of training, evaluation and prediction."""

from __future__ import annotations

import copy

import torch

from casam_cache.backbones.decoder import Prompts, decode, embed_prompts
from casam_cache.backbones.sam import Backbone
from casam_cache.heads.base import Head


def backbone_for(head: Head, backbone: Backbone) -> Backbone:
    """The backbone a head decodes with: the frozen one, or one that holds the head's own mask decoder."""
    if head.mask_decoder is None:
        return backbone
    own = copy.copy(backbone)
    own.mask_decoder = head.mask_decoder
    return own


@torch.no_grad()
def predict_low_res(
    head: Head,
    backbone: Backbone,
    embedding: torch.Tensor,
    prompts: Prompts,
    image_index: torch.Tensor | None = None,
    *,
    multimask: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-res logits for P prompts on B images, without gradients.

    Args:
        head: on the backbone's device.
        backbone: prompt encoder and frozen mask decoder.
        embedding: (B, C, g, g) as stored, any float dtype, on any device.
        prompts: P prompts in input pixels (`Geometry.to_input`, `boxes_to_input`).
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        multimask: three masks a prompt instead of one.

    Returns:
        float32 logits (P, 1 or 3, 4g, 4g) and the IoU head's estimates (P, 1 or 3). `upscale` of
        `casam_cache.backbones.decoder` brings logits to the image's size; a mask is where they exceed 0.
    """
    device = backbone.device
    sparse, dense = embed_prompts(backbone, prompts.to(device))
    aligned = head(embedding.to(device).float())
    index = None if image_index is None else image_index.to(device)
    return decode(backbone_for(head, backbone), aligned, index, sparse, dense, multimask)
