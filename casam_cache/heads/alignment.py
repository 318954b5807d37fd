"""The Alignment Layer (sections 3.2 and 4.1.2): channel-attention residual blocks on the image embedding.

A block is Cutie's CAResBlock and a LayerNorm2d:

    u = conv2(ReLU(conv1(ReLU(x))))        3 x 3, padding 1, with bias
    w = sigmoid(conv1d_k(GAP(u)))          bias-free, one channel to one, along the C channel means
    y = LayerNorm2d(u * w + x)

Three blocks at C = 256 have 3,542,031 parameters, the paper's 3.54 M, which settles the number of blocks but
not where ReLU and LayerNorm stand: hence `relu` and `norm`.

`kind` chooses what stands for the two 3 x 3 convolutions; the rest of a block is the same:

- `full`: conv 3 x 3, conv 3 x 3. 1,180,677 parameters a block at C = 256.
- `depthwise`: depthwise 3 x 3, conv 1 x 1: 68,869.
- `bottleneck`: conv 1 x 1 to C / 4, conv 3 x 3, conv 1 x 1 back to C: 70,533.
- `affine`: no block at all, y = a * x + b with one a and one b a channel: 512 (Lian et al., "Scaling & Shifting Your
  Features", NeurIPS 2022, on the embedding alone).

Where training starts matters: a task has tens of images, the recipe a hundred steps of 1e-4. Three ways:

- `init=random`, torch's default: LayerNorm2d replaces the scale of SAM's features by one that the frozen decoder
  has never seen, and a random branch adds to that; training begins below the frozen SAM.
- `init=zero`: the last convolution starts at zero, as is usual for residual branches, so u = 0 and
  y = LayerNorm2d(x). The scale is still a foreign one.
- `init=matched`, the default: that convolution at zero, and LayerNorm2d's weight and bias at the deviation and mean
  that a cell has over its channels in this backbone (`Backbone.neck`: SAM's neck itself ends in a LayerNorm2d, whose
  weights tell). Only how cells differ in mean and deviation is lost at the start.

`norm=branch` (LayerNorm's weight at zero) and `norm=none` start at exactly the identity unless `init=random`, and so
does `kind=affine`.
The fallback to the frozen SAM never relies on this: it is the identity head.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head, draw_uniform
from casam_cache.heads.options import AlignmentOptions


class AlignmentLayer(Head):
    """CAResBlock x N, or one scale and shift a channel, on embeddings (B, C, g, g).

    Args:
        channels: C of the backbone.
        options: see `AlignmentOptions`.
        seed: initial weights depend on it, C, the options and `scale` alone; the first blocks of a deeper
            layer are those of a shallower one.
        scale: mean and deviation over the channels of a typical cell (`Backbone.neck`), for `init=matched`.
    """

    name = "alignment"
    Options = AlignmentOptions

    def __init__(
        self,
        channels: int,
        options: AlignmentOptions,
        seed: int = 0,
        scale: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(options)
        made = (
            [Affine(channels, options, seed)]
            if options.kind == "affine"
            else [CAResBlock(channels, options, seed, index, scale) for index in range(options.blocks)]
        )
        self.blocks = nn.ModuleList(made)
        self.begins_as_frozen = options.init == "matched" or (
            options.init == "zero" and options.norm != "post"
        )

    @classmethod
    def build(cls, options: BaseModel, backbone: Backbone, seed: int) -> Head:
        """See `Head.build`."""
        assert isinstance(options, AlignmentOptions)
        return cls(backbone.channels, options, seed, backbone.neck)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, g, g) -> (B, C, g, g)."""
        # Channels last: the LayerNorm reads one cell's channels together, and convolutions like it anywhere.
        x = embedding.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return x.contiguous()


class Affine(nn.Module):
    """y = weight * x + bias, a number of each a channel; drawn around the identity with `init=random`.

    Args:
        channels: C.
        options: `init` is read.
        seed: of the run.
    """

    def __init__(self, channels: int, options: AlignmentOptions, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if options.init == "random":
            draw_uniform(self, channels, seed, "alignment", channels, "affine")
            with torch.no_grad():
                self.weight.add_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class CAResBlock(nn.Module):
    """One channel-attention residual block with its LayerNorm2d.

    Args:
        channels: C.
        options: `kind`, `relu`, `norm` and `init` are read.
        seed, index: of the run, and the block's place in the layer; with C they name the initial weights.
        scale: as in `AlignmentLayer`.
    """

    def __init__(
        self, channels: int, options: AlignmentOptions, seed: int, index: int, scale: tuple[float, float]
    ) -> None:
        super().__init__()
        size = gate_kernel(channels)
        self.relu_first = options.relu == "pre"
        self.norm_at = options.norm
        convs = _convolutions(options.kind, channels)
        self.names = tuple(f"conv{number}" for number in range(1, len(convs) + 1))
        for name, conv in zip(self.names, convs, strict=True):
            self.add_module(name, conv)
        # Skipping torch's own initialisation leaves its global generator as it is.
        self.gate = skip_init(nn.Conv1d, 1, 1, size, padding=size // 2, bias=False)
        self.norm = None if options.norm == "none" else LayerNorm2d(channels)
        belongs_to = (seed, "alignment", channels, index)
        for name, conv in zip(self.names, convs, strict=True):
            draw_uniform(conv, conv.weight[0].numel(), *belongs_to, name)
        draw_uniform(self.gate, size, *belongs_to, "gate")
        if options.init != "random":
            self._silence(convs[-1])
        if options.init == "matched" and options.norm == "post" and self.norm is not None:
            nn.init.constant_(self.norm.bias, scale[0])
            nn.init.constant_(self.norm.weight, scale[1])

    def _silence(self, last: nn.Conv2d) -> None:
        """Makes the branch add nothing at first, with a gradient that can change it."""
        with torch.no_grad():
            if self.norm is not None and self.norm_at == "branch":
                self.norm.weight.zero_()  # a zero convolution in front of it would leave nothing to normalise
            else:
                # A ReLU behind a zero passes no gradient, so there the branch only starts very quiet.
                quiet = 0.0 if self.relu_first else 1e-3
                for tensor in last.parameters():
                    tensor.mul_(quiet)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        u = x
        for name in self.names:
            conv = self.get_submodule(name)
            u = conv(F.relu(u)) if self.relu_first else F.relu(conv(u))
        means = u.mean(dim=(2, 3)).unsqueeze(1)  # (B, 1, C)
        w = self.gate(means).sigmoid().transpose(1, 2).unsqueeze(-1)  # (B, C, 1, 1)
        branch = u * w
        if self.norm is None:
            return branch + x
        return self.norm(branch) + x if self.norm_at == "branch" else self.norm(branch + x)


def _convolutions(kind: str, channels: int) -> list[nn.Conv2d]:
    """The convolutions of a block, their weights to be drawn."""
    inner = max(1, channels // 4)
    dimensions: dict[str, list[tuple[int, int, int, int]]] = {  # inputs, outputs, side, groups
        "full": [(channels, channels, 3, 1), (channels, channels, 3, 1)],
        "depthwise": [(channels, channels, 3, channels), (channels, channels, 1, 1)],
        "bottleneck": [(channels, inner, 1, 1), (inner, inner, 3, 1), (inner, channels, 1, 1)],
    }
    return [
        skip_init(_Pointwise, inputs, outputs)
        if side == 1
        else skip_init(nn.Conv2d, inputs, outputs, side, padding=side // 2, groups=groups)
        for inputs, outputs, side, groups in dimensions[kind]
    ]


class _Pointwise(nn.Conv2d):
    """A 1 x 1 convolution as a matrix product on cells: torch's own on a CPU lays channels-last input out anew."""

    def __init__(self, inputs: int, outputs: int, device: torch.device | str | None = None) -> None:
        super().__init__(inputs, outputs, 1, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of each cell of (B, C, h, w): the function of `segment_anything`'s class.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        cells = x.permute(0, 2, 3, 1)
        return F.layer_norm(cells, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def gate_kernel(channels: int) -> int:
    """Width k of the gate: t = int((|log2 C| + 1) // 2), made odd. C = 256 gives 5, C = 64 gives 3."""
    t = int((abs(math.log2(channels)) + 1) // 2)
    return t if t % 2 else t + 1
