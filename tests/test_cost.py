"""Arithmetic of a training pass: three times the forward of what is trained, also of grouped convolutions."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.heads.files import build_head
from casam_cache.heads.testing import TINY
from casam_cache.training.cost import training_flops


@pytest.mark.parametrize("kind", ["full", "depthwise", "bottleneck"])
def test_a_further_block_costs_three_times_its_forward_pass(kind: str) -> None:
    backbone = seeded_backbone(TINY, 0)
    trained, forward = [], []
    for blocks in (1, 2):
        head = build_head("alignment", {"kind": kind, "blocks": blocks}, backbone, 0).train()
        trained.append(training_flops(head, backbone))
        embedding = torch.zeros(1, backbone.channels, backbone.grid, backbone.grid)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            head(embedding)
        forward.append(counter.get_total_flops())
    assert trained[1] - trained[0] == 3 * (forward[1] - forward[0])


def test_grouped_and_transposed_convolutions_count_by_their_groups() -> None:
    from casam_cache.training.cost import _convolution_backward

    layers = (
        (torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), False, 8),
        (torch.nn.Conv2d(8, 16, 3, stride=2, groups=4), False, 4),
        (torch.nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), True, 2),
    )
    for layer, transposed, groups in layers:
        x = torch.zeros(2, 8, 12, 12)
        with FlopCounterMode(display=False) as counter:
            y = layer(x)
        weight = layer.weight.shape
        for wanted in ((True, True, True), (False, True, True)):
            found = _convolution_backward(
                y.shape, x.shape, weight, None, None, None, None, transposed, None, groups, wanted
            )
            assert found == sum(wanted[:2]) * counter.get_total_flops()
