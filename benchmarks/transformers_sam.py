"""The vision encoder of Hugging Face `transformers` with the weights of one of our backbones, as a peer to measure."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.sam import Backbone, backbone_state

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from upstream_sam import declare_torchvision_operators

PREFIX = "image_encoder."
RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.", "layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)


def installed() -> bool:
    """Whether there is a `transformers` to measure: it is no dependency of this project."""
    return importlib.util.find_spec("transformers") is not None


def vision_encoder(backbone: Backbone) -> Any:
    """`transformers.SamVisionModel`, its attention the library's default, in evaluation mode.

    Its state dict is ours under other names; strict loading says that nothing is missing.
    """
    declare_torchvision_operators()
    from transformers import SamVisionConfig, SamVisionModel

    own = backbone.architecture
    model = SamVisionModel(
        SamVisionConfig(
            hidden_size=own.width, output_channels=own.channels, num_hidden_layers=own.depth,
            num_attention_heads=own.heads, image_size=own.image_size, patch_size=own.patch_size,
            mlp_dim=int(own.width * own.mlp_ratio), window_size=own.window,
            global_attn_indexes=list(own.global_blocks), layer_norm_eps=1e-6, use_rel_pos=True,
        )
    )  # fmt: skip
    state = {}
    for name, value in backbone_state(backbone).items():
        if name.startswith(PREFIX):
            name = name.removeprefix(PREFIX)
            for pattern, replacement in RENAMED:
                name = re.sub(pattern, replacement, name)
            state["vision_encoder." + name] = value
    model.load_state_dict(state, strict=True)
    return model.eval()


def embed(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Normalised, padded pixels (B, 3, S, S) to image embeddings (B, C, g, g)."""
    found: torch.Tensor = model(pixels).last_hidden_state
    return found
