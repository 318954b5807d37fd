"""Adapters inside a frozen encoder's transformer blocks, as SAM-Med2D and Medical SAM Adapter have them.

With x what enters a block's MLP behind its norm, (B, h, w, C), and y what its attention gives:

    sam-med2d   mlp(x) + LN(x + up(down(s x)))     s = sigmoid(W2 relu(W1 mean(x))), a number a channel
                                                   down: 3 x 3, stride 2; up: 4 x 4, transposed, stride 2; a ReLU each
    msa         y + B1 gelu(A1 y)                  behind the attention
                mlp(x) + 0.5 B2 gelu(A2 x)         beside the MLP

W1 and A have a quarter of the block's width. The structure and its numbers are those of the two public programs
(`Adapter_Layer` and `Adapter` there). Where a TinyViT's block has a norm inside its MLP, x is behind that one too.

Everything begins as the frozen encoder: LN's gain, and B, are zero at first. In SAM-Med2D's program the gain begins at
1, which makes another encoder of it before anything is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator

REDUCTION = 4
MSA_SCALE = 0.5
ADAPTERS = ("sam-med2d", "msa")


class Bottleneck(nn.Module):
    """Medical SAM Adapter's: scale * B gelu(A x), with biases.

    Args:
        width: C.
        scale: of what it gives.
        belongs_to: what A is drawn for.
    """

    def __init__(self, width: int, scale: float, *belongs_to: str | int) -> None:
        super().__init__()
        self.scale = scale
        self.down, self.up = nn.Linear(width, width // REDUCTION), nn.Linear(width // REDUCTION, width)
        _draw(self.down, *belongs_to)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        added: torch.Tensor = self.scale * self.up(F.gelu(self.down(x)))
        return added


class ChannelSpatial(nn.Module):
    """SAM-Med2D's: channels weighed by what is in the whole image, then a convolution to half the grid and back.

    Args:
        width: C.
        belongs_to: what its weights are drawn for.
    """

    def __init__(self, width: int, *belongs_to: str | int) -> None:
        super().__init__()
        hidden = width // REDUCTION
        self.squeeze, self.excite = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(width)
        for name, layer in (
            ("squeeze", self.squeeze),
            ("excite", self.excite),
            ("down", self.down),
            ("up", self.up),
        ):
            _draw(layer, *belongs_to, name)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The whole grid (B, h, w, C) -> (B, h, w, C)."""
        height, width = x.shape[1:3]
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((1, 2))))))
        planes = (x * gates[:, None, None]).permute(0, 3, 1, 2)
        # A grid with an odd side comes back one cell larger.
        spatial = F.relu(self.up(F.relu(self.down(planes))))[:, :, :height, :width]
        added: torch.Tensor = self.norm(x + spatial.permute(0, 2, 3, 1))
        return added


class Beside(nn.Module):
    """m(x) + a(x).

    Args:
        frozen: m.
        adapter: a.
    """

    def __init__(self, frozen: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.frozen, self.adapter = frozen, adapter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What m and a take -> what m gives."""
        found: torch.Tensor = self.frozen(x) + self.adapter(x)
        return found


class Behind(nn.Module):
    """m(x) + a(m(x)).

    Args:
        frozen: m.
        adapter: a.
    """

    def __init__(self, frozen: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.frozen, self.adapter = frozen, adapter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What m takes -> what m gives."""
        found: torch.Tensor = self.frozen(x)
        return found + self.adapter(found)


def add_adapters(encoder: nn.Module, kind: str, seed: int) -> None:
    """Puts adapters into every transformer block of a frozen encoder, which is changed in place.

    Args:
        encoder: a ViT of blocks with `attn` and `mlp`, or a TinyViT.
        kind: one of `ADAPTERS`.
        seed: of what is drawn.

    Raises:
        CasamError: the encoder has no such blocks.
    """
    device = next(encoder.parameters()).device
    blocks = list(_blocks(encoder))
    if not blocks:
        raise CasamError(
            "the encoder has no transformer blocks with an attention `attn` and an `mlp`, which adapters stand in",
            "choose --method sam-full, or another backbone",
        )
    for name, block, width in blocks:
        if kind == "sam-med2d":
            beside: nn.Module = ChannelSpatial(width, seed, kind, name)
        else:
            beside = Bottleneck(width, MSA_SCALE, seed, kind, name, "mlp")
            _behind_attention(block, Bottleneck(width, 1.0, seed, kind, name, "attention").to(device))
        _beside_mlp(block, beside.to(device))


def _blocks(encoder: nn.Module) -> Iterator[tuple[str, Any, int]]:
    """Name, block and width C of every block with attention."""
    for name, module in list(encoder.named_modules()):
        block: Any = module
        projection = _projection(getattr(block, "attn", None))
        if projection is not None and isinstance(getattr(block, "mlp", None), nn.Module):
            yield name, block, projection.out_features


def _projection(attention: Any) -> nn.Linear | None:
    """The last layer of an attention, under whatever adapters stand round it."""
    while isinstance(attention, Behind | Beside):
        attention = attention.frozen
    last = getattr(attention, "proj", None)
    while isinstance(last, Behind | Beside):
        last = last.frozen
    return last if isinstance(last, nn.Linear) else None


def _is_held(part: nn.Module) -> bool:
    """Whether a part of a block only holds weights, as those of a TinyViT do, and is never called itself."""
    return type(part) is nn.Module


def _behind_attention(block: Any, adapter: nn.Module) -> None:
    if _is_held(block.attn):
        block.attn.proj = Behind(block.attn.proj, adapter)
    else:
        block.attn = Behind(block.attn, adapter)


def _beside_mlp(block: Any, adapter: nn.Module) -> None:
    if not _is_held(block.mlp):
        block.mlp = Beside(block.mlp, adapter)
    elif getattr(block.mlp, "beside", None) is None:
        block.mlp.beside = adapter
    else:  # two of them, their sum
        block.mlp.beside = Beside(block.mlp.beside, adapter)


def _draw(layer: nn.Module, *belongs_to: str | int) -> None:
    """Kaiming's normal distribution for a ReLU, fan out; a bias is zero."""
    weight: Any = layer.weight
    if weight.is_meta:  # nothing but its shape is wanted
        return
    transposed = isinstance(layer, nn.ConvTranspose2d)
    outputs = weight.shape[1 if transposed else 0] * weight[0, 0].numel()
    drawn = generator(*belongs_to).normal(0, (2 / outputs) ** 0.5, tuple(weight.shape))
    with torch.no_grad():
        weight.copy_(torch.from_numpy(drawn))
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()  # type: ignore[operator]
