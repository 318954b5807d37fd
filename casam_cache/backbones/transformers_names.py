"""transformers' `SamModel`: its names for SAM's tensors, and the dimensions that its config.json states."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.checkpoint_file import CONFIG
from casam_cache.errors import CheckpointError

_MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_MLP = r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\."
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"^vision_encoder\.", "image_encoder."),
    (r"^image_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^image_encoder\.layers\.(\d+)\.", r"image_encoder.blocks.\1."),
    (r"^(image_encoder\.blocks\.\d+)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"^image_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^image_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^image_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^image_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^shared_image_embedding\.positional_embedding$", _MATRIX),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", _MATRIX),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
)


def is_transformers(names: Iterable[str]) -> bool:
    return any(name.startswith(("vision_encoder.", "shared_image_embedding.")) for name in names)


def translations(names: Iterable[str]) -> dict[str, str]:
    """segment_anything's name of each tensor; names that SAM does not have stay as they are."""
    listed = list(names)
    hidden: dict[str, int] = {}  # how many layers each small MLP has between its first and its last
    for name in listed:
        if match := re.match(_MLP + r"layers\.(\d+)\.", name):
            hidden[match[1]] = max(hidden.get(match[1], 0), int(match[2]) + 1)
    return {name: _translated(name, hidden) for name in listed}


def _translated(name: str, hidden: Mapping[str, int]) -> str:
    """SAM numbers the layers of an MLP from the first to the last; transformers names those two apart."""
    if match := re.match(_MLP + r"(proj_in|proj_out|layers\.(\d+))\.(.*)$", name):
        own, part, number, rest = match.groups()
        index = {"proj_in": 0, "proj_out": hidden.get(own, 0) + 1}.get(part)
        return f"{own}.layers.{int(number) + 1 if index is None else index}.{rest}"
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def config_of(path: Path) -> Path | None:
    """The config.json that belongs to a folder of `save_pretrained`, or to a file of weights in one."""
    whole = path.name.startswith(("model.safetensors", "model-", "pytorch_model"))
    config = path / CONFIG if path.is_dir() else path.parent / CONFIG
    return config if config.is_file() and (path.is_dir() or whole) else None


def configured_architecture(config: Path) -> Architecture:
    """The dimensions that a config.json states; what it leaves out is as in transformers' own defaults, SAM's ViT-B.

    Raises:
        CheckpointError: it is not a SAM's, cannot be read, or asks for parts that SAM does not have.
    """
    try:
        stated = json.loads(config.read_text(encoding="utf-8"))
        kind = stated.get("model_type")
        if kind not in ("sam", "sam_hq"):
            raise CheckpointError(
                f"{config} is of a model of the kind '{kind}', not of a SAM",
                "pass a checkpoint of a SAM: the kind 'sam' or 'sam_hq'",
            )
        vision, prompt, decoder = (
            stated.get(f"{part}_config") or {} for part in ("vision", "prompt_encoder", "mask_decoder")
        )
        _refuse_others(config, vision)
        return _architecture(vision, prompt, decoder)
    except (OSError, ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{config} is not a readable config.json: {error}", "copy it again") from error


def _refuse_others(config: Path, vision: Mapping[str, Any]) -> None:
    usual = {
        "qkv_bias": True,
        "use_rel_pos": True,
        "use_abs_pos": True,
        "hidden_act": "gelu",
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
    }
    for name, value in usual.items():
        if vision.get(name, value) != value:
            raise CheckpointError(
                f"{config} states {name} {vision[name]}; this package runs encoders with {name} {value} only",
                "pass a checkpoint of such an encoder",
            )


def _architecture(
    vision: Mapping[str, Any], prompt: Mapping[str, Any], decoder: Mapping[str, Any]
) -> Architecture:
    usual = ARCHITECTURES["vit_b"]
    width = int(vision.get("hidden_size", usual.width))
    mlp = vision.get("mlp_dim")
    return Architecture(
        image_size=int(vision.get("image_size", usual.image_size)),
        patch_size=int(vision.get("patch_size", usual.patch_size)),
        width=width,
        depth=int(vision.get("num_hidden_layers", usual.depth)),
        heads=int(vision.get("num_attention_heads", usual.heads)),
        window=int(vision.get("window_size", usual.window)),
        global_blocks=tuple(vision.get("global_attn_indexes", usual.global_blocks)),
        channels=int(vision.get("output_channels", usual.channels)),
        mlp_ratio=float(vision.get("mlp_ratio", usual.mlp_ratio)) if mlp is None else mlp / width,
        decoder_depth=int(decoder.get("num_hidden_layers", usual.decoder_depth)),
        decoder_heads=int(decoder.get("num_attention_heads", usual.decoder_heads)),
        decoder_mlp=int(decoder.get("mlp_dim", usual.decoder_mlp)),
        mask_channels=int(prompt.get("mask_input_channels", usual.mask_channels)),
        multimask=int(decoder.get("num_multimask_outputs", usual.multimask)),
        iou_depth=int(decoder.get("iou_head_depth", usual.iou_depth)),
        iou_width=int(decoder.get("iou_head_hidden_dim", usual.iou_width)),
        decoder_downsample=int(decoder.get("attention_downsample_rate", usual.decoder_downsample)),
    )
