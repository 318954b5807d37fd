"""What users could pick instead of our encoder, with the weights of one of our backbones and on the same images.

A peer takes part where it is installed; none is a dependency of this project.

- `segment_anything`, SamPredictor.set_image, one image after the other. micro-sam's precomputation is this call too.
- `transformers` (pip install transformers): its SAM vision encoder. Its images are prepared by SamPredictor's own code,
  since its processor rounds otherwise and would encode other pixels.
- `segment_anything_fast` (pip install git+https://github.com/pytorch-labs/segment-anything-fast; the package that pip
  finds under that name is another project): on CUDA its encoder is compiled as its own builders do it.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.sam import Backbone, backbone_state

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from upstream_sam import declare_torchvision_operators, predictor, upstream_sam

Side = Callable[[list[np.ndarray]], torch.Tensor]
DISTRIBUTIONS = {
    "segment_anything": "segment-anything",
    "transformers": "transformers",
    "segment_anything_fast": "pytorch-labs-segment-anything-fast",
}

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


def peers(backbone: Backbone, bf16: bool) -> tuple[dict[str, Side], dict[str, str]]:
    """The installed peers on the backbone's device, by name, and the versions of their packages.

    Args:
        backbone: whose weights they get.
        bf16: whether ours runs in bfloat16; then segment_anything_fast does, too (the other two have no such mode).
    """
    sides: dict[str, Side] = {}
    packages = {}
    for name, distribution in DISTRIBUTIONS.items():
        if importlib.util.find_spec(name) is None:
            continue
        sides[name] = SIDES[name](backbone, bf16)
        packages[distribution] = _version(distribution)
    return sides, packages


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "unknown"


def _one_by_one(sam: Any, package: str) -> Side:
    def side(images: list[np.ndarray]) -> torch.Tensor:
        reference, embeddings = predictor(sam, package), []
        for image in images:
            reference.set_image(image)
            embeddings.append(reference.get_image_embedding().float())
        return torch.cat(embeddings)

    return side


def segment_anything(backbone: Backbone, bf16: bool) -> Side:
    """SamPredictor.set_image, float32."""
    return _one_by_one(upstream_sam(backbone).to(backbone.device), "segment_anything")


def segment_anything_fast(backbone: Backbone, bf16: bool) -> Side:
    """The same call of segment_anything_fast, in the type asked for; compiled on CUDA, as its builders do."""
    sam = upstream_sam(backbone, "segment_anything_fast").to(backbone.device)
    if bf16:
        for part in (sam.image_encoder, sam.prompt_encoder, sam.mask_decoder):
            part.to(torch.bfloat16)
    if backbone.device.type == "cuda":
        sam.image_encoder = torch.compile(sam.image_encoder, mode="max-autotune")
    return _one_by_one(sam, "segment_anything_fast")


def transformers(backbone: Backbone, bf16: bool) -> Side:
    """The vision encoder of transformers in float32, one image after the other."""
    sam, model = upstream_sam(backbone).to(backbone.device), vision_encoder(backbone).to(backbone.device)
    transform = predictor(sam).transform

    def side(images: list[np.ndarray]) -> torch.Tensor:
        embeddings = []
        for image in images:
            pixels = torch.as_tensor(transform.apply_image(image), device=sam.device)
            ready = sam.preprocess(pixels.permute(2, 0, 1)[None])
            embeddings.append(model(ready).last_hidden_state)
        return torch.cat(embeddings)

    return side


SIDES = {
    "segment_anything": segment_anything,
    "transformers": transformers,
    "segment_anything_fast": segment_anything_fast,
}


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
