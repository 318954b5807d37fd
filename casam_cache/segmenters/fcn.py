"""A light fully convolutional decoder on the embedding.

    x = block_0(LeakyReLU(norm(conv1x1(E))))            g cells a side, `width` channels
    x = block_i(upsample(x))       i = 1 ... `blocks`   2^i g cells, half the channels of before, 16 at least
    logits = conv1x1(x)

A block is `depth` times conv 3 x 3, GroupNorm, LeakyReLU; upsampling is bilinear.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import draw_uniform
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.options import FCNOptions

NARROWEST, NORMALISED = 16, 8  # channels, groups of a GroupNorm
SLOPE = 0.01  # of LeakyReLU below zero, as in nnU-Net: channels of plain ReLUs died at high rates and never came back


class FCN(Segmenter):
    """Convolutions and bilinear upsampling from (B, C, g, g) to logits (B, 1 + K, 2^blocks g, 2^blocks g).

    Args:
        options: width, blocks and depth.
        backbone: whose C it reads.
        classes: K ids.
        seed: of the weights.
    """

    name = "fcn"
    Options = FCNOptions

    def __init__(self, options: FCNOptions, backbone: Backbone, classes: Sequence[int], seed: int) -> None:
        super().__init__(options, backbone, classes, seed)
        widths = [max(NARROWEST, options.width >> number) for number in range(options.blocks + 1)]
        self.entry = nn.Sequential(*_layer(backbone.channels, widths[0], 1, seed, "entry"))
        self.blocks = nn.ModuleList(
            _block(inside, outside, options.depth, seed, number)
            for number, (inside, outside) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )
        self.out = _convolution(widths[-1], 1 + len(self.classes), 1, seed, "out")

    def logits(self, backbone: Backbone, embedding: torch.Tensor) -> torch.Tensor:
        """See `Segmenter.logits`."""
        x = self.entry(embedding)
        for number, block in enumerate(self.blocks):
            if number:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(x)
        logits: torch.Tensor = self.out(x).float()
        return logits

    def side(self, backbone: Backbone) -> int:
        """2^blocks g."""
        return backbone.grid << (len(self.blocks) - 1)


def _block(inside: int, outside: int, depth: int, seed: int, number: int) -> nn.Sequential:
    widths = [inside, *[outside] * depth]
    layers = [_layer(widths[i], outside, 3, seed, str(number), str(i)) for i in range(depth)]
    return nn.Sequential(*(part for layer in layers for part in layer))


def _layer(inside: int, outside: int, kernel: int, seed: int, *belongs_to: str) -> list[nn.Module]:
    made = _convolution(inside, outside, kernel, seed, *belongs_to)
    return [made, nn.GroupNorm(NORMALISED, outside), nn.LeakyReLU(SLOPE)]


def _convolution(inside: int, outside: int, kernel: int, seed: int, *belongs_to: str) -> nn.Module:
    made = skip_init(nn.Conv2d, inside, outside, kernel, padding=kernel // 2)
    draw_uniform(made, inside * kernel**2, seed, "fcn", inside, outside, *belongs_to)
    return made
