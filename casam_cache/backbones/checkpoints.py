"""A SAM checkpoint: its tensors under SAM's names, held against the architecture that they must fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.checkpoint_file import OTHER_FILE, read_content
from casam_cache.backbones.dialects import ENCODER, MASK_DECODER, PROMPT_ENCODER, sam_state
from casam_cache.errors import CheckpointError

if TYPE_CHECKING:
    from casam_cache.backbones.published import Dimensions

__all__ = [
    "ENCODER", "MASK_DECODER", "PROMPT_ENCODER", "Checkpoint", "check_shapes", "check_state", "empty_modules",
    "expected_shapes", "fitted_input", "looks_like", "read_checkpoint",
]  # fmt: skip

_SHOWN = 3
_FOREIGN = (
    (r"image_encoder\.blocks\.\d+\.Adapter\.", "a SAM-Med2D, with adapters in its encoder"),
    (r"image_encoder\..*(?:lora|w_[ab]_linear|qkv_proj)", "a SAM with LoRA layers that were not merged"),
    (r"image_encoder\.blocks\..*[Aa]dapter", "a SAM with adapters in its encoder"),
    (r"image_encoder\.(?:trunk|backbone)\.|memory_(?:attention|encoder)\.", "a SAM 2"),
    (r"encoder\.blocks\.\d+\.", "an encoder with another decoder, such as micro-sam's UNETR"),
)
"""Models with tensors that this package does not run, by the names of those."""


class Checkpoint(NamedTuple):
    """What `read_checkpoint` gives.

    Attributes:
        state: tensors by their names in `segment_anything`'s Sam state dict, as they lie in the file.
        notes: a line for a person on each thing that was unwrapped, stripped, translated, left out or converted.
    """

    state: dict[str, Tensor]
    notes: list[str]


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a checkpoint under the names of `segment_anything`'s Sam state dict, on the CPU.

    A file of safetensors or torch, or a folder of transformers' `save_pretrained`; what it is decides, not its name.
    torch files are memory-mapped where their format allows, so the tensors must be copied before the file may change.
    No code of the file is run. `dialects` says whose names are understood.

    Raises:
        CheckpointError: missing, an HTML page, text, truncated, nothing but Python objects, no tensors, or several
            SAMs.
    """
    content, notes = read_content(path)
    state, said = sam_state(content, path)
    return Checkpoint(state, [*notes, *said])


def empty_modules(architecture: Dimensions) -> dict[str, nn.Module]:
    """The modules of a SAM by their prefix in its state dict, their weights to be replaced.

    The encoder is built without memory. The small rest is not: normal_ on the meta device imports sympy, two
    seconds. It is initialised from a copy of the random state, because the caller's must not move.
    """
    with torch.random.fork_rng(devices=[]):
        prompt_encoder, mask_decoder = architecture.build_decoder()
    with torch.device("meta"):
        encoder = architecture.build_encoder()
    return {PROMPT_ENCODER: prompt_encoder, MASK_DECODER: mask_decoder, ENCODER: encoder}


@cache
def expected_shapes(architecture: Dimensions) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a SAM."""
    return {
        f"{prefix}{name}": tuple(tensor.shape)
        for prefix, module in empty_modules(architecture).items()
        for name, tensor in module.state_dict().items()
    }


def fitted_input(architecture: Architecture, state: Mapping[str, Tensor]) -> Architecture:
    """The architecture with the size of input that the checkpoint's position embedding is for.

    A SAM-Med2D without adapters is a ViT-B with an input of 256 x 256. Whatever else differs is left to the check.
    """
    positions = state.get(f"{ENCODER}pos_embed")
    if positions is None or positions.ndim != 4 or positions.shape[1] != positions.shape[2]:
        return architecture
    return replace(architecture, image_size=positions.shape[1] * architecture.patch_size)


def check_state(
    state: Mapping[str, Tensor],
    architecture: Dimensions,
    path: Path,
    model: str,
    others: Mapping[str, Architecture] | None = None,
) -> None:
    """Refuse a checkpoint unless it has exactly the tensors of the architecture, with finite numbers.

    Args:
        state: from `read_checkpoint`.
        architecture: what it must fit.
        path: for the message.
        model: for the message.
        others: architectures by name that it may be of instead, beside the official ones.

    Raises:
        CheckpointError: as `check_shapes`.
    """
    check_shapes(state, expected_shapes(architecture), path, model, others)


def check_shapes(
    state: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    path: Path,
    model: str,
    others: Mapping[str, Architecture] | None = None,
) -> None:
    """As `check_state`, for any encoder: `expected` holds the shape of every tensor by name.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors (the first few of each are listed, and the
            architecture they do fit is named), or NaN or infinite weights.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        if (kind := _foreign(state)) is not None:
            raise CheckpointError(
                f"{path} is {kind}, which this package does not run: {'; '.join(problems)}",
                "pass a checkpoint of a plain SAM, or encode with a class of your own: --model FILE.py:CLASS "
                "(docs/own-backbone.md)",
            )
        raise CheckpointError(
            f"{path} does not fit {model}: {'; '.join(problems)}", _hint(state, path, model, others)
        )
    for name, tensor in state.items():
        if not tensor.is_floating_point() and not name.endswith(".num_batches_tracked"):
            raise CheckpointError(f"{path} does not fit {model}: {name} holds {tensor.dtype}", OTHER_FILE)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path} holds NaN or infinite weights in {name}",
                "the training that wrote it diverged, or it is damaged",
            )


def _foreign(state: Mapping[str, Tensor]) -> str | None:
    for pattern, kind in _FOREIGN:
        if any(re.match(pattern, name) for name in state):
            return kind
    return None


def _hint(
    state: Mapping[str, Tensor], path: Path, model: str, others: Mapping[str, Architecture] | None
) -> str:
    from casam_cache.backbones.registry import BACKBONES

    fits = looks_like(state, others)
    if fits in (None, model):
        return OTHER_FILE
    if fits not in BACKBONES.names():
        return f"this looks like a {fits} checkpoint, a model that is not installed here"
    return f"this looks like a {fits} checkpoint: --model {fits} --checkpoint {path} --name {path.stem}"


def looks_like(state: Mapping[str, Tensor], others: Mapping[str, Architecture] | None = None) -> str | None:
    """The model that a checkpoint is of by its names and shapes, or None.

    TinyViT's two models have the same names; the first convolution, 1 x 1 or 3 x 3, tells them apart. For a ViT nearly
    all tensors must fit, so that another size of input does not hide which one it is.
    """
    stem = state.get(f"{ENCODER}patch_embed.seq.0.c.weight")
    if stem is not None and any(re.match(rf"{ENCODER}layers\.\d+\.blocks\.", name) for name in state):
        return "lite_medsam" if tuple(stem.shape[2:]) == (1, 1) else "mobile_sam"
    for name, architecture in {**ARCHITECTURES, **(others or {})}.items():
        expected = expected_shapes(architecture)
        fitting = sum(key in state and tuple(state[key].shape) == shape for key, shape in expected.items())
        if fitting >= 0.9 * len(expected):
            return name
    return None
