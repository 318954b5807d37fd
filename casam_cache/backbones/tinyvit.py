"""TinyViT as MobileSAM and LiteMedSAM have it: the weights under their checkpoints' names, and the frozen forward pass.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers" (ECCV 2022), with the two changes of
MobileSAM: the last stage does not halve the grid, and SAM's neck stands behind it. LiteMedSAM's stem does not shrink
the image. No library has this variant: timm's TinyViT halves the grid once more and names its tensors otherwise.

    stem (two convolutions) -> MBConv blocks -> [merge -> blocks] x 3 -> neck
    block:  x <- x + proj(attention in windows(LayerNorm x));  x <- depthwise 3 x 3 (x);  x <- x + MLP(x)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from casam_cache.backbones.architecture import build_decoder
from casam_cache.backbones.base import EMBEDDING

EARLY = 1  # the merge behind which `early` is read: the first whose output has the embedding's grid
LOCAL = 3  # side of the depthwise convolution inside a block
NORM_EPS = 1e-5  # of batch norm and of the blocks' LayerNorm; the neck's is SAM's
NECK_EPS = 1e-6


@dataclass(frozen=True)
class TinyArchitecture:
    """Every dimension of a SAM whose encoder is a TinyViT.

    Attributes:
        image_size: side S of the encoder's square input, pixels.
        stem_stride: of each of the stem's two convolutions: 2 (kernel 3), or 1 (kernel 1).
        widths, depths, heads, windows: of the four stages; the first has MBConv blocks, without heads and windows.
        expansion: of MBConv blocks and MLPs.
        channels: C, channels of the image embedding and width of the decoder.
        decoder_heads, decoder_mlp, mask_channels, iou_width: as in `Architecture`.
    """

    kind: ClassVar[str] = "tiny_vit"

    image_size: int
    stem_stride: int
    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)
    expansion: int = 4
    channels: int = 256
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    mask_channels: int = 16
    iou_width: int = 256

    @property
    def grid(self) -> int:
        """Cells g a side of the embedding grid: a quarter of the stem's output."""
        return self.image_size // self.stem_stride**2 // 4

    @property
    def patch_size(self) -> int:
        """Side of an embedding cell, pixels of the input."""
        return self.image_size // self.grid

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` reads it back."""
        data = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }
        return {"encoder": self.kind, **data}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TinyArchitecture:
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**{key: value for key, value in given.items() if key != "encoder"})

    def build_encoder(self) -> nn.Module:
        """The modules that hold the encoder's weights; `PreparedTinyViT` computes with them."""
        return TinyViT(self)

    def build_decoder(self) -> tuple[nn.Module, nn.Module]:
        """`segment_anything`'s PromptEncoder and MaskDecoder of these dimensions."""
        return build_decoder(
            image_size=self.image_size, patch_size=self.patch_size, channels=self.channels, heads=self.decoder_heads,
            mlp=self.decoder_mlp, mask_channels=self.mask_channels, iou_width=self.iou_width,
        )  # fmt: skip


class TinyViT(nn.Module):
    """The weights of the encoder, named as in the checkpoints. Batch norms hold what evaluation needs of them."""

    def __init__(self, architecture: TinyArchitecture) -> None:
        super().__init__()
        own = architecture
        side, first = (3 if own.stem_stride > 1 else 1), own.widths[0]
        # Numbers as in the checkpoints, where an activation stands between the two.
        seq = {"0": NormedConv(3, first // 2, side), "2": NormedConv(first // 2, first, side)}
        self.patch_embed = _named(seq=_named(**seq))
        self.layers = nn.ModuleList(_stage(own, index) for index in range(4))
        self.neck = nn.Sequential(
            skip_init(nn.Conv2d, own.widths[3], own.channels, 1, bias=False),
            _Affine(own.channels),
            skip_init(nn.Conv2d, own.channels, own.channels, 3, padding=1, bias=False),
            _Affine(own.channels),
        )


class NormedConv(nn.Module):
    """A convolution without bias and the batch norm behind it.

    Args:
        inputs, outputs: channels; depthwise where `depthwise`.
        side: of the kernel.
        depthwise: one kernel a channel.
    """

    def __init__(self, inputs: int, outputs: int, side: int, *, depthwise: bool = False) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.c = skip_init(nn.Conv2d, inputs, outputs, side, padding=side // 2, groups=groups, bias=False)
        self.bn = _Affine(outputs)
        self.bn.register_buffer("running_mean", torch.zeros(outputs))
        self.bn.register_buffer("running_var", torch.ones(outputs))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that computes the same; folded in float64."""
        weight, bias, mean, variance = (
            tensor.double()
            for tensor in (self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var)
        )
        gain = weight / (variance + NORM_EPS).sqrt()
        kernel = self.c.weight.double() * gain.view(-1, 1, 1, 1)
        return kernel.float(), (bias - mean * gain).float()


class _Affine(nn.Module):
    """Weight and bias of a normalisation."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


def _named(**modules: nn.Module) -> nn.Module:
    """A module that only holds others."""
    holder = nn.Module()
    for name, module in modules.items():
        holder.add_module(name, module)
    return holder


def _stage(own: TinyArchitecture, index: int) -> nn.Module:
    width, hidden = own.widths[index], own.widths[index] * own.expansion
    made = [
        _named(
            conv1=NormedConv(width, hidden, 1),
            conv2=NormedConv(hidden, hidden, LOCAL, depthwise=True),
            conv3=NormedConv(hidden, width, 1),
        )
        if index == 0
        else _named(
            attn=_attention(width, own.heads[index], own.windows[index]),
            mlp=_named(
                norm=_Affine(width),
                fc1=skip_init(nn.Linear, width, hidden),
                fc2=skip_init(nn.Linear, hidden, width),
            ),
            local_conv=NormedConv(width, width, LOCAL, depthwise=True),
        )
        for _ in range(own.depths[index])
    ]
    stage = _named(blocks=nn.ModuleList(made))
    if index < 3:
        after = own.widths[index + 1]
        stage.add_module(
            "downsample",
            _named(
                conv1=NormedConv(width, after, 1),
                conv2=NormedConv(after, after, 3, depthwise=True),
                conv3=NormedConv(after, after, 1),
            ),
        )
    return stage


def _attention(width: int, heads: int, window: int) -> nn.Module:
    attention = _named(
        norm=_Affine(width),
        qkv=skip_init(nn.Linear, width, 3 * width),
        proj=skip_init(nn.Linear, width, width),
    )
    attention.register_parameter("attention_biases", nn.Parameter(torch.zeros(heads, window**2)))
    return attention


def _relative_index(window: int) -> Tensor:
    """Which entry of `attention_biases` belongs to two cells of a window: int64 (window^2, window^2).

    The table has an entry for each pair of absolute row and column distances, row by row.
    """
    rows, columns = np.divmod(np.arange(window**2), window)
    apart = np.abs(rows[:, None] - rows) * window + np.abs(columns[:, None] - columns)
    return torch.from_numpy(apart)


class PreparedTinyViT:
    """The TinyViT's forward pass: norms folded into convolutions, channels last, in strips that fit the cache.

    The same function as upstream's modules (tests/test_tinyvit.py: to 1e-5 in float32) with less work. Batch norms are
    part of the convolutions; 1 x 1 convolutions are matrix products on (cells, channels); no layout is copied; biases
    of relative positions are gathered once; windows are padded behind the linear layer (upstream pads in front of its
    LayerNorm, so that pad cells hold what that makes of zeros, and take part in the softmax). On a CPU each step runs
    over strips of rows: what lies between two steps is four times as wide as the stream, and as a whole would go
    through main memory. Weights that want gradients get them.

    Args:
        encoder: a `TinyViT`, on its device.
        architecture: its dimensions.
        strip: cells of a strip; 0 for everything at once, as a GPU wants it.
    """

    def __init__(self, encoder: nn.Module, architecture: TinyArchitecture, strip: int) -> None:
        own: Any = encoder
        seq, stages = own.patch_embed.seq._modules, list(own.layers)
        self._stem = _Stem(seq["0"], seq["2"], architecture.stem_stride)
        self._mobile = [_Mobile(block, strip) for block in stages[0].blocks]
        self._merges = [
            _Merge(stage.downsample, 2 if index < 2 else 1, strip) for index, stage in enumerate(stages[:3])
        ]
        self._blocks = [
            [_Block(block, heads, window, strip) for block in stage.blocks]
            for stage, heads, window in zip(
                stages[1:], architecture.heads[1:], architecture.windows[1:], strict=True
            )
        ]
        self._neck = own.neck

    def run(self, images: Tensor, features: Sequence[str] = (EMBEDDING,)) -> dict[str, Tensor]:
        """Images (B, 3, S, S) as `normalise` gives them -> the features asked for, float32.

        `embedding` is (B, C, g, g), and `early` (B, width of the third stage, g, g) what enters that stage.
        """
        found = {}
        early = self.early(images)
        if "early" in features:
            found["early"] = early.permute(0, 3, 1, 2).float().contiguous()
        if EMBEDDING in features:
            found[EMBEDDING] = self._behind(self.before_neck(early))
        return {name: found[name] for name in features}

    def early(self, images: Tensor) -> Tensor:
        """What enters the third stage (B, g, g, width)."""
        x = self._stem(images.permute(0, 2, 3, 1))
        for mobile in self._mobile:
            x = mobile(x)
        x = self._merges[0](x)
        for block in self._blocks[0]:
            x = block(x)
        return self._merges[EARLY](x)

    def before_neck(self, early: Tensor) -> Tensor:
        """From what enters the third stage to the last one's output (B, g, g, width)."""
        x = early
        for block in self._blocks[EARLY]:
            x = block(x)
        x = self._merges[EARLY + 1](x)
        for block in self._blocks[EARLY + 1]:
            x = block(x)
        return x

    def _behind(self, x: Tensor) -> Tensor:
        """The neck: (B, g, g, width) -> (B, C, g, g)."""
        first, inner, second, outer = self._neck
        x = _norm(F.linear(x, first.weight.flatten(1)).float(), inner, NECK_EPS)
        x = _convolve(x, second.weight, None)
        return _norm(x.float(), outer, NECK_EPS).permute(0, 3, 1, 2).contiguous()


class _Stem:
    """Two convolutions, a GELU between them."""

    def __init__(self, first: NormedConv, second: NormedConv, stride: int) -> None:
        (self._first, self._bias1), (self._second, self._bias2) = first.folded(), second.folded()
        self._stride = stride

    def __call__(self, x: Tensor) -> Tensor:
        x = F.gelu(_convolve(x, self._first, self._bias1, self._stride))
        return _convolve(x, self._second, self._bias2, self._stride)


class _Hidden:
    """1 x 1, GELU, depthwise 3 x 3, GELU, 1 x 1: what MBConv blocks and merges begin with."""

    def __init__(self, convs: Any, stride: int, strip: int) -> None:
        self._w1, self._b1 = _pointwise(convs.conv1)
        self._w2, self._b2 = convs.conv2.folded()
        self._w3, self._b3 = _pointwise(convs.conv3)
        self._stride, self._strip = stride, strip

    def strips(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the output, and what they hold: (B, rows, w, channels)."""
        height, stride = int(x.shape[1]), self._stride  # numbers, also where the pass is traced
        outputs = height // stride
        rows = max(2, self._strip // x.shape[2]) if self._strip else outputs
        for top in range(0, outputs, rows):
            bottom = min(top + rows, outputs)
            above, below = (
                top * stride - 1,
                (bottom - 1) * stride + 2,
            )  # with a row of neighbours on each side
            hidden = F.gelu(F.linear(x[:, max(above, 0) : below], self._w1, self._b1))
            missing = (0, 0, 0, 0, int(above < 0), int(below > height))  # rows of zeros beyond the image
            hidden = F.pad(hidden, missing) if any(missing) else hidden
            hidden = F.gelu(_convolve(hidden, self._w2, self._b2, stride, self._w2.shape[0], (0, 1)))
            yield slice(top, bottom), F.linear(hidden, self._w3, self._b3)


class _Mobile:
    """MBConv: a residual around `_Hidden`, a GELU behind it."""

    def __init__(self, block: Any, strip: int) -> None:
        self._hidden = _Hidden(block, 1, strip)

    def __call__(self, x: Tensor) -> Tensor:
        found = torch.empty_like(x)
        for rows, part in self._hidden.strips(x):
            found[:, rows] = F.gelu(part + x[:, rows])
        return found


class _Merge:
    """To the next stage's width, its grid halved or not."""

    def __init__(self, merge: Any, stride: int, strip: int) -> None:
        self._hidden = _Hidden(merge, stride, strip)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part for _, part in self._hidden.strips(x)], 1)


class _Block:
    """Window attention, depthwise convolution and MLP on (B, h, w, channels)."""

    def __init__(self, block: Any, heads: int, window: int, strip: int) -> None:
        attention, mlp = block.attn, block.mlp
        self._heads, self._window, self._strip = heads, window, strip
        self._norm, self._qkv, self._proj = attention.norm, attention.qkv, attention.proj
        index = _relative_index(window).to(attention.attention_biases.device)
        self._positions = attention.attention_biases[:, index].contiguous()
        self._padding = F.linear(self._norm.bias, self._qkv.weight, self._qkv.bias)
        self._local, self._local_bias = block.local_conv.folded()
        self._mlp_norm, self._fc1, self._fc2 = mlp.norm, mlp.fc1, mlp.fc2
        # An adapter that a head put there; it may look at the whole grid.
        self._beside: nn.Module | None = getattr(mlp, "beside", None)

    def __call__(self, x: Tensor) -> Tensor:
        height, window = int(x.shape[1]), self._window
        rows = window if self._strip else height
        x = torch.cat([self._attend(x[:, top : top + rows]) for top in range(0, height, rows)], 1)
        x = _convolve(x, self._local, self._local_bias, 1, self._local.shape[0])
        rows = max(1, self._strip // x.shape[2]) if self._strip and self._beside is None else height
        return torch.cat([self._widen(x[:, top : top + rows]) for top in range(0, height, rows)], 1)

    def _widen(self, x: Tensor) -> Tensor:
        normed = _norm(x, self._mlp_norm, NORM_EPS)
        x = x + self._fc2(F.gelu(self._fc1(normed)))
        return x if self._beside is None else x + self._beside(normed)

    def _attend(self, x: Tensor) -> Tensor:
        """Whole windows of rows (B, h, w, channels); the last ones may lack rows, as all may columns on the right."""
        height, width = map(int, x.shape[1:3])
        window = self._window
        down, across = -(-height // window), -(-width // window)
        projected = self._qkv(_norm(x, self._norm, NORM_EPS))
        if (height, width) != (down * window, across * window):
            whole = projected.new_empty(len(x), down * window, across * window, projected.shape[3])
            whole[:, :height, :width] = projected
            whole[:, height:] = whole[:, :height, width:] = self._padding.to(projected.dtype)
            projected = whole
        split = projected.unflatten(2, (across, window)).unflatten(1, (down, window))
        split = split.transpose(2, 3).reshape(
            -1, window**2, self._heads, 3, split.shape[-1] // self._heads // 3
        )
        query, key, value = split.permute(3, 0, 2, 1, 4).unbind(0)
        heard = F.scaled_dot_product_attention(query, key, value, self._positions.to(query.dtype)[None])
        heard = heard.transpose(1, 2).reshape(len(x), down, across, window, window, -1).transpose(2, 3)
        heard = heard.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return x + self._proj(heard)


def _pointwise(conv: NormedConv) -> tuple[Tensor, Tensor]:
    """A folded 1 x 1 convolution as a matrix (outputs, inputs) and a bias."""
    weight, bias = conv.folded()
    return weight.flatten(1), bias


def _norm(x: Tensor, affine: Any, eps: float) -> Tensor:
    return F.layer_norm(x, affine.weight.shape, affine.weight, affine.bias, eps)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    groups: int = 1,
    padding: tuple[int, int] | None = None,
) -> Tensor:
    """A convolution with odd kernel on (B, h, w, channels), its input and output never laid out anew."""
    side = weight.shape[-1]
    if side == 1 and stride == 1:
        return F.linear(x, weight.flatten(1), bias)
    around = (side // 2, side // 2) if padding is None else padding
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, around, 1, groups).permute(0, 2, 3, 1)
