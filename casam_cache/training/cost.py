"""Arithmetic of one training pass, as the paper's Table 3 counts it: one image, one prompt, encoder included."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from casam_cache.backbones.cost import encoder_flops
from casam_cache.backbones.decoder import Prompts, embed_prompts
from casam_cache.backbones.sam import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.forward import run_head
from casam_cache.training.items import VALID


def training_flops(head: Head, backbone: Backbone) -> int:
    """Floating-point operations of one training pass on one image with one box prompt.

    The frozen encoder forward (`encoder_flops`), then head and decoder forward and, if anything is trained, backward.
    A multiplication and an addition count as two; matrix products and convolutions only. From the cache, the encoder's
    share is paid once for all passes.

    Args:
        head: with its trained parameters requiring gradients.
        backbone: whose decoder it uses.
    """
    architecture = backbone.architecture
    grid, device = architecture.grid, backbone.device
    shapes = {
        "embedding": (1, architecture.channels, grid, grid),
        "early": (1, architecture.width, grid, grid),
        "tokens": (1, architecture.width),
    }
    features = {name: torch.zeros(shapes[name], device=device) for name in head.needs if name in shapes}
    if VALID in head.needs:
        features[VALID] = torch.ones((1, grid, grid), dtype=torch.bool, device=device)
    side = float(architecture.image_size - 1)
    sparse, dense = embed_prompts(backbone, Prompts(boxes=torch.tensor([[0.0, 0.0, side, side]])).to(device))
    # What a process computes once and keeps, such as the positional encoding, does not count.
    with torch.no_grad():
        run_head(head, backbone, features, None, sparse, dense)
    trained = any(parameter.requires_grad for parameter in head.parameters())
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trained):
        _, low_res, iou = run_head(head, backbone, features, None, sparse.detach(), dense.detach())
        if trained:
            (low_res.sum() + iou.sum()).backward()
    head.zero_grad(set_to_none=True)
    return encoder_flops(architecture) + counter.get_total_flops()
