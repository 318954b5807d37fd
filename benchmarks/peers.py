"""What users could pick instead of our encoder, with the weights of one of our backbones and on the same images.

A peer takes part where it is installed; none is a dependency of this project.

- `segment_anything`: SamPredictor.set_image in float32, one image after the other, which is all it offers. micro-sam's
  precomputation is this call too.
- `transformers` (pip install transformers): its SAM vision encoder, on whole batches, in the precision asked for.
- `segment_anything_fast` (pip install git+https://github.com/pytorch-labs/segment-anything-fast; the package that pip
  finds under that name is another project): its encoder on whole batches, in the precision asked for (its builders
  always choose bf16), compiled on CUDA as they do it.

The last two get images that SamPredictor's own code has resized and normalised: transformers' processor rounds in
another way and would encode other pixels.
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

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.sam import backbone_state

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
        bf16: whether ours runs in bfloat16.
    """
    sides: dict[str, Side] = {}
    packages = {}
    for name, distribution in DISTRIBUTIONS.items():
        if importlib.util.find_spec(name) is None:
            continue
        try:
            sides[name] = SIDES[name](backbone, bf16)
        except ImportError as error:  # segment_anything_fast needs triton
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        packages[distribution] = _version(distribution)
    return sides, packages


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "unknown"


def segment_anything(backbone: Backbone, bf16: bool) -> Side:
    """SamPredictor.set_image, float32."""
    sam = upstream_sam(backbone).to(backbone.device)

    def side(images: list[np.ndarray]) -> torch.Tensor:
        reference, embeddings = predictor(sam), []
        for image in images:
            reference.set_image(image)
            embeddings.append(reference.get_image_embedding())
        return torch.cat(embeddings)

    return side


def transformers(backbone: Backbone, bf16: bool) -> Side:
    """The vision encoder of transformers."""
    model = vision_encoder(backbone).to(backbone.device)
    return _in_batches(backbone, model, lambda pixels: model(pixels).last_hidden_state, bf16)


def segment_anything_fast(backbone: Backbone, bf16: bool) -> Side:
    """The encoder of segment_anything_fast; on CUDA compiled as its builders do."""
    encoder = upstream_sam(backbone, "segment_anything_fast").image_encoder.to(backbone.device)
    run = torch.compile(encoder, mode="max-autotune") if backbone.device.type == "cuda" else encoder
    return _in_batches(backbone, encoder, run, bf16)


def _in_batches(backbone: Backbone, module: Any, run: Any, bf16: bool) -> Side:
    sam = upstream_sam(backbone).to(backbone.device)
    transform = predictor(sam).transform
    kind = torch.bfloat16 if bf16 else torch.float32
    module.to(kind)

    def side(images: list[np.ndarray]) -> torch.Tensor:
        ready = []
        for image in images:
            pixels = torch.as_tensor(transform.apply_image(image), device=sam.device)
            ready.append(sam.preprocess(pixels.permute(2, 0, 1)))
        # A copy: what a CUDA graph gave is overwritten by the next batch.
        found: torch.Tensor = run(torch.stack(ready).to(kind)).to(torch.float32, copy=True)
        return found

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
