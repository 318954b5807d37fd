"""The dimensions of a SAM and the modules they give. No other module knows a literal 256, 64 or 768."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Architecture:
    """Every dimension of one SAM: encoder, prompt encoder and mask decoder (square input, square grid).

    Attributes:
        image_size: side S of the encoder's square input, pixels.
        patch_size: side of one patch, pixels; the embedding grid has g = S / patch_size cells a side.
        width, depth, heads, mlp_ratio: of the ViT.
        window: window size of the windowed blocks, in tokens.
        global_blocks: indexes of the blocks with global attention.
        channels: C, channels of the image embedding and width of the decoder.
        decoder_depth, decoder_heads, decoder_mlp: of the decoder's two-way transformer.
        decoder_downsample: how much narrower than `channels` its cross attentions are inside.
        mask_channels: width of the prompt encoder's mask branch.
        iou_depth, iou_width: of the IoU head.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    channels: int
    mlp_ratio: float = 4.0
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    mask_channels: int = 16
    multimask: int = 3
    iou_depth: int = 3
    iou_width: int = 256
    decoder_downsample: int = 2

    @property
    def grid(self) -> int:
        """Cells g a side of the embedding grid."""
        return self.image_size // self.patch_size

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `Architecture.from_json` reads it back.

        `decoder_downsample` is left out where it is SAM's own: stores made before it was an option name their
        architecture without it.
        """
        data = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }
        if self.decoder_downsample == 2:
            del data["decoder_downsample"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Architecture:
        return cls(**{**data, "global_blocks": tuple(data["global_blocks"])})

    def build_encoder(self) -> nn.Module:
        """`segment_anything`'s ImageEncoderViT: (B, 3, S, S) normalised float -> (B, C, g, g)."""
        from torch.nn import LayerNorm

        from casam_cache.backbones.upstream import ImageEncoderViT

        encoder: nn.Module = ImageEncoderViT(
            depth=self.depth,
            embed_dim=self.width,
            img_size=self.image_size,
            mlp_ratio=self.mlp_ratio,
            norm_layer=partial(LayerNorm, eps=1e-6),
            num_heads=self.heads,
            patch_size=self.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=self.global_blocks,
            window_size=self.window,
            out_chans=self.channels,
        )
        return encoder

    def build_decoder(self) -> tuple[nn.Module, nn.Module]:
        """`segment_anything`'s PromptEncoder and MaskDecoder of these dimensions."""
        return build_decoder(
            image_size=self.image_size, patch_size=self.patch_size, channels=self.channels,
            depth=self.decoder_depth, heads=self.decoder_heads, mlp=self.decoder_mlp,
            downsample=self.decoder_downsample, mask_channels=self.mask_channels, multimask=self.multimask,
            iou_depth=self.iou_depth, iou_width=self.iou_width,
        )  # fmt: skip


def build_decoder(
    *,
    image_size: int,
    patch_size: int,
    channels: int,
    depth: int = 2,
    heads: int = 8,
    mlp: int = 2048,
    downsample: int = 2,
    mask_channels: int = 16,
    multimask: int = 3,
    iou_depth: int = 3,
    iou_width: int = 256,
) -> tuple[nn.Module, nn.Module]:
    """`segment_anything`'s PromptEncoder and MaskDecoder, low-res masks of 4g x 4g; by default of SAM's dimensions.

    The arguments are those of `Architecture`.
    """
    from casam_cache.backbones.upstream import MaskDecoder, PromptEncoder, TwoWayTransformer

    grid = image_size // patch_size
    prompt_encoder: nn.Module = PromptEncoder(
        embed_dim=channels,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=mask_channels,
    )
    mask_decoder: nn.Module = MaskDecoder(
        num_multimask_outputs=multimask,
        transformer=TwoWayTransformer(
            depth=depth,
            embedding_dim=channels,
            mlp_dim=mlp,
            num_heads=heads,
            attention_downsample_rate=downsample,
        ),
        transformer_dim=channels,
        iou_head_depth=iou_depth,
        iou_head_hidden_dim=iou_width,
    )
    return prompt_encoder, mask_decoder


def _official(width: int, depth: int, heads: int, global_blocks: tuple[int, ...]) -> Architecture:
    return Architecture(
        image_size=1024, patch_size=16, width=width, depth=depth, heads=heads, window=14,
        global_blocks=global_blocks, channels=256,
    )  # fmt: skip


ARCHITECTURES: dict[str, Architecture] = {
    "vit_b": _official(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _official(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _official(1280, 32, 16, (7, 15, 23, 31)),
}
