"""Embeddings through a head and the mask decoder: the one path of training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts
from casam_cache.heads.base import Head, backbone_for

__all__ = ["backbone_for", "predict_low_res", "run_head"]


def run_head(
    head: Head,
    backbone: Backbone,
    features: Mapping[str, torch.Tensor],
    image_index: torch.Tensor | None,
    sparse: torch.Tensor,
    dense: torch.Tensor,
    multimask: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head and its decoder on P embedded prompts and B images, with whatever gradients are asked for.

    Args:
        head: on the backbone's device.
        backbone: whose mask decoder is used unless the head has its own.
        features: everything the head `needs`, by name: float32 (B, ...) on the device.
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        sparse: prompt embeddings (P, n, C).
        dense: prompt embeddings (P, C, g, g).
        multimask: three masks a prompt instead of one.

    Returns:
        The aligned embedding (B, C, g, g), float32 logits (P, 1 or 3, 4g, 4g), IoU estimates (P, 1 or 3).
    """
    aligned = head.align(features)
    added = head.prompt_tokens(features)
    if added is not None:
        own = added if image_index is None else added.index_select(0, image_index)
        sparse = torch.cat([sparse, own], dim=1)
    low_res, iou = head.decode(backbone, features, aligned, image_index, sparse, dense, multimask)
    return aligned, low_res, iou


@torch.no_grad()
def predict_low_res(
    head: Head,
    backbone: Backbone,
    features: torch.Tensor | Mapping[str, torch.Tensor],
    prompts: Prompts,
    image_index: torch.Tensor | None = None,
    *,
    multimask: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-res logits for P prompts on B images, without gradients.

    Args:
        head: on the backbone's device.
        backbone: prompt encoder and frozen mask decoder.
        features: everything the head `needs`, by name, (B, ...) as stored, any dtype, on any device; the embedding
            (B, C, g, g) alone for a head that needs no more.
        prompts: P prompts in input pixels (`Geometry.to_input`, `boxes_to_input`).
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        multimask: three masks a prompt instead of one.

    Returns:
        float32 logits (P, 1 or 3, 4g, 4g) and the IoU head's estimates (P, 1 or 3). `upscale` of
        `casam_cache.backbones.decoder` brings logits to the image's size; a mask is where they exceed 0.
    """
    device = backbone.device
    sparse, dense = backbone.embed_prompts(prompts.to(device))
    named = {"embedding": features} if isinstance(features, torch.Tensor) else features
    moved = {name: tensor.to(device).float() for name, tensor in named.items()}
    index = None if image_index is None else image_index.to(device)
    _, low_res, iou = run_head(head, backbone, moved, index, sparse, dense, multimask)
    return low_res, iou
