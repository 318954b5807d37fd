"""Arithmetic of one training pass, as the paper's Table 3 counts it: one image, one prompt, encoder included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts
from casam_cache.heads.base import Head, run_head
from casam_cache.training.items import VALID
from casam_cache.training.pixels import INPUT_SIZE, PIXELS


def training_flops(head: Head, backbone: Backbone) -> int:
    """Floating-point operations of one training pass on one image with one box prompt.

    The frozen encoder forward, then head and decoder forward and, if anything is trained, backward.
    A multiplication and an addition count as two; matrix products and convolutions only. From the cache, the encoder's
    share is paid once for all passes.

    Args:
        head: with its trained parameters requiring gradients.
        backbone: whose decoder it uses.
    """
    grid, device = backbone.grid, backbone.device
    features = {
        name: torch.zeros((1, *backbone.feature_shape(name)), device=device)
        for name in head.needs
        if name not in (VALID, PIXELS, INPUT_SIZE)
    }
    if PIXELS in head.needs:
        image = backbone.image_size
        features[PIXELS] = torch.zeros((1, 3, image, image), device=device)
        features[INPUT_SIZE] = torch.tensor([[image, image]], device=device)
    if VALID in head.needs:
        features[VALID] = torch.ones((1, grid, grid), dtype=torch.bool, device=device)
    side = float(backbone.image_size - 1)
    box = Prompts(boxes=torch.tensor([[0.0, 0.0, side, side]])).to(device)
    sparse, dense = head.embed_prompts(backbone, box, torch.ones(1, dtype=torch.long, device=device))
    # What a process computes once and keeps, such as the positional encoding, does not count.
    with torch.no_grad():
        run_head(head, backbone, features, None, sparse, dense)
    trained = any(parameter.requires_grad for parameter in head.parameters())
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with counter, torch.set_grad_enabled(trained):
        _, low_res, iou = run_head(head, backbone, features, None, sparse.detach(), dense.detach())
        if trained:
            (low_res.sum() + iou.sum()).backward()
    head.zero_grad(set_to_none=True)
    passed = 0 if PIXELS in head.needs else backbone.encoder_flops()  # else it is among what was counted
    return passed + counter.get_total_flops()


def _convolution_backward(
    gradient: Sequence[int],
    inputs: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """As much as the forward pass for each of the gradients of input and weight that are wanted.

    Torch's own count takes no account of groups in the weight's: of a depthwise convolution it is C times too much. The
    first three are shapes; a weight's second axis has the channels of one group.
    """
    once = 2 * math.prod(inputs if transposed else gradient) * math.prod(weight[1:])
    return once * sum(wanted[:2])
