"""HQ-SAM's mask decoder on the cache: a further output token, and features from early in the encoder.

Beside SAM's own decoder (width C, Z the image embedding, E the early feature of the ViT's width):

    fused   = embed(Z) + compress(E)              global and local image features, (C / 8, 4g, 4g)
    hq      = refine(upscaled) + fused            upscaled: SAM's own features before the mask product
    logits  = sam_logits + mlp(hq token) . hq     the error-corrected mask

embed, compress: ConvTranspose2d, LayerNorm2d, GELU, ConvTranspose2d, each doubling the side; refine: Conv2d,
LayerNorm2d, GELU, Conv2d. The three, the token and its MLP have 1,071,104 parameters at ViT-B's dimensions.

The paper's 5.14 M is the whole mask decoder (4,058,340), these parts, and the prompt encoder (6,220): 5,135,664. So its
baseline trains the decoder, which HQ-SAM itself keeps frozen (`train_decoder`). The prompt encoder is frozen here,
as for every head, since prompts are embedded once an epoch: 5,129,444 numbers are trained.

HQ-SAM trains the added mask alone and adds SAM's at test. Here the loss sees the sum, which is what is tested: with a
decoder that trains, SAM's part would otherwise have no loss.

In HQ-SAM training does not begin with SAM's own mask: the added one is random (its MLP has torch's default
initialisation) though small beside SAM's logits, and the further token takes part in the attention between tokens.
That is `init=random`, the default. With `init=zero` the last layer of the MLP starts at zero, and so does the added
mask; the token's part in the attention is all that then differs from SAM.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.decoder import SamDecoding, decode_further
from casam_cache.fingerprint import generator
from casam_cache.heads.alignment import LayerNorm2d
from casam_cache.heads.base import Head, backbone_for, draw_uniform
from casam_cache.heads.options import HQOptions


class HQDecoder(Head):
    """A mask decoder with HQ-SAM's token and fusion; the embedding passes unchanged.

    Args:
        mask_decoder: the backbone's, copied if it is to be trained.
        channels: C of the embedding, a multiple of 8.
        width: of the early feature, the ViT's.
        options: see `HQOptions`.
        seed: initial weights of the added parts depend on it, C, the width and the options alone.
    """

    name = "hq-sam"
    Options = HQOptions
    needs: ClassVar[tuple[str, ...]] = ("embedding", "early")

    def __init__(
        self,
        mask_decoder: nn.Module,
        channels: int,
        width: int,
        options: HQOptions | None = None,
        seed: int = 0,
    ) -> None:
        options = options or HQOptions()
        super().__init__(options)
        if options.train_decoder:
            self.mask_decoder = copy.deepcopy(mask_decoder).requires_grad_(True)
        half, eighth = channels // 4, channels // 8
        self.token = nn.Parameter(torch.empty(1, channels))
        self.mlp = nn.ModuleList(
            skip_init(nn.Linear, channels, after) for after in (channels, channels, eighth)
        )
        self.embed = _doubled_twice(channels, half, eighth)
        self.compress = _doubled_twice(width, channels, eighth)
        self.refine = nn.Sequential(
            skip_init(nn.Conv2d, eighth, half, 3, padding=1),
            LayerNorm2d(half),
            nn.GELU(),
            skip_init(nn.Conv2d, half, eighth, 3, padding=1),
        )
        self._draw(seed, channels, width)
        if options.init == "zero":
            for parameter in self.mlp[2].parameters():
                nn.init.zeros_(parameter)

    @classmethod
    def build(cls, options: BaseModel, backbone: Backbone, seed: int) -> Head:
        """See `Head.build`."""
        assert isinstance(options, HQOptions)
        decoder, width = backbone.decoder_to_copy(cls.name), backbone.feature_shape("early")[0]
        return cls(decoder, backbone.channels, width, options, seed)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, g, g), returned as it is: what changes is the decoder behind."""
        return embedding

    def decode(
        self,
        backbone: Backbone,
        features: Mapping[str, torch.Tensor],
        aligned: torch.Tensor,
        image_index: torch.Tensor | None,
        sparse: torch.Tensor,
        dense: torch.Tensor,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SAM's logits, each corrected by the added mask, and SAM's IoU estimates; see `Head.decode`.

        Args:
            backbone: frozen.
            features: `early`, (B, width, g, g).
            aligned: (B, C, g, g).
            image_index: int64 (P,) or None.
            sparse: (P, n, C).
            dense: (P, C, g, g).
            multimask: three candidate masks, all with the same correction.
        """
        own = backbone_for(self, backbone)
        assert isinstance(own, SamDecoding)
        decoded = decode_further(own, aligned, image_index, sparse, dense, multimask, self.token)
        fused = self.embed(aligned) + self.compress(features["early"])  # (B, C / 8, 4g, 4g)
        fused = fused if image_index is None else fused.index_select(0, image_index)
        pixels = self.refine(decoded.upscaled) + fused  # (P, C / 8, 4g, 4g)
        weights = decoded.further[:, 0]  # (P, C)
        for index, layer in enumerate(self.mlp):
            weights = layer(F.relu(weights) if index else weights)
        with torch.autocast(pixels.device.type, enabled=False):
            added = torch.einsum("pc,pcyx->pyx", weights.float(), pixels.float())
        return decoded.low_res + added[:, None], decoded.iou

    def _draw(self, seed: int, channels: int, width: int) -> None:
        """Torch's default distributions, each tensor from a generator of its own."""
        belongs_to = (seed, "hq-sam", channels, width)
        with torch.no_grad():
            drawn = generator(*belongs_to, "token").standard_normal((1, channels))
            self.token.copy_(torch.from_numpy(drawn))
        for name, module in self.named_modules():
            if name.startswith("mask_decoder"):
                continue
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                # What torch takes for the fan-in of a transposed convolution is the second dimension, too.
                draw_uniform(module, module.weight[0].numel(), *belongs_to, name)


def _doubled_twice(channels: int, between: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        skip_init(nn.ConvTranspose2d, channels, between, 2, stride=2),
        LayerNorm2d(between),
        nn.GELU(),
        skip_init(nn.ConvTranspose2d, between, after, 2, stride=2),
    )
