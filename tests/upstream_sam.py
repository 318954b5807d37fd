"""The real `segment_anything`, predictor included, with the weights of one of our backbones."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.base import Backbone
from casam_cache.backbones.sam import backbone_state
from casam_cache.heads.networks import declare_torchvision_operators

TINY = Architecture(
    image_size=64, patch_size=8, width=32, depth=4, heads=2, window=3, global_blocks=(1, 3), channels=16,
    decoder_heads=2, decoder_mlp=32, mask_channels=8, iou_width=16,
)  # fmt: skip
"""A SAM of milliseconds: windows that need padding (8 % 3 != 0), two global blocks."""


def upstream_sam(backbone: Backbone, package: str = "segment_anything") -> Any:
    """`segment_anything.modeling.Sam`, built from its own classes, with the backbone's weights.

    `package` may name a package of the same classes, such as segment_anything_fast.
    """
    declare_torchvision_operators()
    modeling = importlib.import_module(f"{package}.modeling")
    own = backbone.architecture
    sam = modeling.Sam(
        modeling.ImageEncoderViT(
            depth=own.depth, embed_dim=own.width, img_size=own.image_size, mlp_ratio=own.mlp_ratio,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), num_heads=own.heads, patch_size=own.patch_size,
            qkv_bias=True, use_rel_pos=True, global_attn_indexes=own.global_blocks, window_size=own.window,
            out_chans=own.channels,
        ),
        modeling.PromptEncoder(
            embed_dim=own.channels, image_embedding_size=(own.grid, own.grid),
            input_image_size=(own.image_size, own.image_size), mask_in_chans=own.mask_channels,
        ),
        modeling.MaskDecoder(
            num_multimask_outputs=own.multimask, transformer_dim=own.channels, iou_head_depth=own.iou_depth,
            iou_head_hidden_dim=own.iou_width,
            transformer=modeling.TwoWayTransformer(
                depth=own.decoder_depth, embedding_dim=own.channels, mlp_dim=own.decoder_mlp,
                num_heads=own.decoder_heads, attention_downsample_rate=own.decoder_downsample,
            ),
        ),
    )  # fmt: skip
    sam.load_state_dict(backbone_state(backbone), strict=True)
    return sam.eval()


def official_sam(name: str, backbone: Backbone) -> Any:
    """What `segment_anything.sam_model_registry` builds under that name, with the backbone's weights."""
    declare_torchvision_operators()
    from segment_anything import sam_model_registry

    sam = sam_model_registry[name]()
    sam.load_state_dict(backbone_state(backbone), strict=True)
    return sam.eval()


def predictor(sam: Any, package: str = "segment_anything") -> Any:
    """`segment_anything.SamPredictor`, or that of a `package` of the same classes, on that model."""
    declare_torchvision_operators()
    return importlib.import_module(package).SamPredictor(sam)


def relative_difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """max |ours - reference| / max |reference|."""
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())
