"""The tiny SAM as files that other projects write: its fixtures, and the shapes of their state dicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from upstream_sam import TINY

from casam_cache.backbones import sam
from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.checkpoints import expected_shapes
from casam_cache.backbones.sam import SamBackbone, backbone_state, seeded_backbone

State = dict[str, torch.Tensor]
Write = Callable[[State, Path], object]
N = len(expected_shapes(TINY))


@pytest.fixture(scope="session")
def tiny_sam() -> SamBackbone:
    return seeded_backbone(TINY, seed=4)


@pytest.fixture
def tiny_state(tiny_sam: SamBackbone) -> State:
    return {name: tensor.contiguous() for name, tensor in backbone_state(tiny_sam).items()}


def be_small(architecture: Architecture, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on `small` has these dimensions; its file is in the folder `weights`, which must not exist."""
    weights.mkdir()
    metadata = {"architecture": json.dumps(architecture.to_json())}
    save_file({"unused": torch.zeros(1)}, weights / "small.safetensors", metadata=metadata)
    monkeypatch.setattr(sam, "WEIGHTS", weights)


@pytest.fixture
def tiny_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`small` has the dimensions of the tiny SAM."""
    be_small(TINY, tmp_path / "own", monkeypatch)


@pytest.fixture
def tiny_is_vit_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vit_b` has the dimensions of the tiny SAM."""
    monkeypatch.setitem(ARCHITECTURES, "vit_b", TINY)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def under(prefix: str, inner: str, state: State) -> State:
    """With a prefix inside the names of one part, as compiling or parallelising that part alone leaves it."""
    return {name.replace(prefix, prefix + inner): tensor for name, tensor in state.items()}


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])


UNETR = {
    "decoder.blocks.0.weight": torch.zeros(3),
    "out_conv.weight": torch.zeros(2),
    "out_conv.bias": torch.zeros(2),
}
HQ_SHAPES = {
    "hf_token.weight": (1, 16),
    **{f"hf_mlp.layers.{i}.weight": (16 if i < 2 else 2, 16) for i in range(3)},
    **{f"hf_mlp.layers.{i}.bias": (16 if i < 2 else 2,) for i in range(3)},
    "compress_vit_feat.0.weight": (32, 16, 2, 2), "compress_vit_feat.0.bias": (16,),
    "compress_vit_feat.1.weight": (16,), "compress_vit_feat.1.bias": (16,),
    "compress_vit_feat.3.weight": (16, 2, 2, 2), "compress_vit_feat.3.bias": (2,),
    "embedding_encoder.0.weight": (16, 4, 2, 2), "embedding_encoder.0.bias": (4,),
    "embedding_encoder.1.weight": (4,), "embedding_encoder.1.bias": (4,),
    "embedding_encoder.3.weight": (4, 2, 2, 2), "embedding_encoder.3.bias": (2,),
    "embedding_maskfeature.0.weight": (4, 2, 3, 3), "embedding_maskfeature.0.bias": (4,),
    "embedding_maskfeature.1.weight": (4,), "embedding_maskfeature.1.bias": (4,),
    "embedding_maskfeature.3.weight": (2, 4, 3, 3), "embedding_maskfeature.3.bias": (2,),
}  # fmt: skip
"""The tensors that MaskDecoderHQ of the package segment_anything_hq has beside SAM's, at these dimensions."""


def hq(state: State) -> State:
    return {**state, **{f"mask_decoder.{name}": torch.randn(shape) for name, shape in HQ_SHAPES.items()}}


def adapters(state: State) -> State:
    """What SAM-Med2D adds to each block, Adapter_Layer."""
    shapes = {
        "norm.weight": (32,), "norm.bias": (32,), "channel.0.weight": (8, 32), "channel.2.weight": (32, 8),
        "spatial.0.weight": (32, 32, 3, 3), "spatial.2.weight": (32, 32, 4, 4),
    }  # fmt: skip
    added = {
        f"image_encoder.blocks.{i}.Adapter.{name}": torch.randn(s)
        for i in range(4)
        for name, s in shapes.items()
    }
    return {**state, **added}


TO_TRANSFORMERS = [
    ("mask_decoder.transformer.layers.", "mask_decoder.transformer.LAYERS."),
    ("image_encoder.blocks.", "vision_encoder.layers."), ("image_encoder.", "vision_encoder."),
    ("patch_embed.proj.", "patch_embed.projection."), ("neck.0.", "neck.conv1."), ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."), ("neck.3.", "neck.layer_norm2."), (".norm", ".layer_norm"),
    ("point_embeddings.", "point_embed."), ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."), ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."), ("mask_downscaling.6.", "mask_embed.conv3."),
    ("output_upscaling.0.", "upscale_conv1."), ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."), (".layers.0.", ".proj_in."), (".layers.2.", ".proj_out."),
    (".layers.1.", ".layers.0."), ("LAYERS", "layers"),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
]  # fmt: skip


def transformers_names(state: State) -> State:
    """As transformers' SamModel names them; a slow test holds it against the library itself."""
    renamed = {}
    for name, tensor in state.items():
        new = name
        for ours, theirs in TO_TRANSFORMERS:
            # The blocks of the encoder are already numbered as layers; only the decoder's MLPs count differently.
            if not (new.startswith("vision_encoder") and ".layers." in ours):
                new = new.replace(ours, theirs)
        renamed[new] = tensor
    return renamed


CONFIG = {
    "model_type": "sam",
    "vision_config": {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 8, "window_size": 3, "global_attn_indexes": [1, 3], "mlp_dim": 128, "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
    },
}  # fmt: skip


def save_pretrained(state: State, folder: Path, shards: int = 1) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return
    names = list(state)
    where = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: state[name] for name in names if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def write_config(state: State, folder: Path, **changes: Any) -> None:
    save_pretrained(transformers_names(state), folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
