"""Segment Anything, with the ViT encoders it was published with and the small one of this package."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.attention import AUTO, CUDA_FORMS, choose_form
from casam_cache.backbones.base import EMBEDDING, Forward
from casam_cache.backbones.checkpoint_file import is_safetensors
from casam_cache.backbones.checkpoints import expected_shapes, fitted_input, looks_like, read_checkpoint
from casam_cache.backbones.cost import vit_flops
from casam_cache.backbones.decoder import backbone_state
from casam_cache.backbones.published import Dimensions, Downloaded, PublishedSam, fingerprint_of
from casam_cache.backbones.recipes import SMALL
from casam_cache.backbones.transformers_names import config_of, configured_architecture
from casam_cache.backbones.vit import TOKEN_READ, TOKEN_SEED, TOKENS, PreparedViT, early_block
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import digest_file, generator

__all__ = ["SamBackbone", "Small", "ViTB", "ViTH", "ViTL", "backbone_state", "seeded_backbone"]

WEIGHTS = Path(__file__).parent.parent / "weights"
OFFICIAL = "https://dl.fbaipublicfiles.com/segment_anything"
STAND_IN = "a stand-in trained on drawings, not a medical SAM: its results show that things work, no more"
REINSTALL = "reinstall the package: pip install --force-reinstall --no-deps casam-cache"


class SamBackbone(PublishedSam):
    """A SAM with a ViT encoder of any dimensions.

    Attributes:
        architecture: its dimensions.
    """

    settings = ("attention",)
    architecture: Architecture

    def __init__(self, description: Mapping[str, Any], *modules: Any, **others: Any) -> None:
        self.architecture = Architecture.from_json(dict(description))
        super().__init__(description, *modules, **others)

    @classmethod
    def dimensions(cls, description: Mapping[str, Any]) -> Architecture:
        return Architecture.from_json(dict(description))

    def features(self) -> Mapping[str, tuple[int, ...]]:
        """`embedding` (C, g, g), `early` (width, g, g) and `tokens` (width,); see `vit.PreparedViT`."""
        return feature_shapes(self.architecture)

    def feature_identity(self, name: str) -> dict[str, Any]:
        if name == "early":
            return {"after_block": early_block(self.architecture)}
        if name == "tokens":
            return {
                "tokens": TOKENS,
                "seed": TOKEN_SEED,
                "read": TOKEN_READ,
                "attend": "all image tokens of the block's input and themselves, without relative positions",
            }
        return {}

    def encode(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        return self.encoding({})(images, names)

    def encoding(self, settings: Mapping[str, Any]) -> Forward:
        """With `attention`, a form of `attention.FORMS`, or "auto" for the device's.

        Forms differ in rounding only, but bits that must be reproduced need the same one.
        """
        assert self.encoder is not None
        form = choose_form(settings.get("attention", AUTO), self.device)
        return PreparedViT(self.encoder, self.architecture, form).run

    def plain_encoding(self) -> Forward:
        """The embedding alone, by upstream's own forward pass."""
        encoder = self.encoder
        assert encoder is not None
        return lambda images, names: {EMBEDDING: encoder(images)}

    def choose_settings(self, precision: str, batch_size: int) -> dict[str, Any]:
        """On CUDA the form of attention that wins a race, else the device's own."""
        from casam_cache.backbones.race import attention_for

        return {"attention": attention_for(self, precision, batch_size)}

    def settings_of(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Forms made for CUDA are not used elsewhere, where they cost gigabytes: other devices have other last bits."""
        attention = identity.get("attention", AUTO)
        if attention in CUDA_FORMS and self.device.type != "cuda":
            attention = AUTO
        return {"attention": choose_form(attention, self.device)}

    @classmethod
    def flops_of(cls, architecture: Architecture) -> int:
        return vit_flops(architecture)

    @classmethod
    def feature_shapes(cls, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        return feature_shapes(architecture)


class Small(SamBackbone):
    """The bundled stand-in for demos and CPUs, not a medical-grade SAM.

    A safetensors file given as --checkpoint may state its own architecture.
    """

    name = "small"
    filename = "small.safetensors"
    source = "bundled"
    about = "a stand-in trained on drawings: for tests, phantoms and laptops, not for results"
    recipe = SMALL

    @classmethod
    def own_checkpoint(cls, progress: Callable[[int, int], None] | None = None) -> Path:
        path = WEIGHTS / cls.filename
        if not path.is_file():
            raise CheckpointError(f"the bundled checkpoint {path} is missing", REINSTALL)
        if digest_file(path) != _bundled_sha256(cls.filename):
            raise CheckpointError(
                f"the bundled checkpoint {path} is damaged: another SHA-256 than SHA256SUMS states", REINSTALL
            )
        return path

    @classmethod
    def architecture_of(cls, path: Path | None) -> Architecture:
        own = WEIGHTS / cls.filename
        stated = (path and stated_architecture(path)) or stated_architecture(own)
        if stated is None:
            raise CheckpointError(f"{own} does not state its architecture", REINSTALL)
        return stated

    @classmethod
    def here(cls) -> Path | None:
        path = WEIGHTS / cls.filename
        return path if path.is_file() else None

    @classmethod
    def get(cls) -> str:
        return REINSTALL

    @property
    def stand_in(self) -> str:
        return STAND_IN if self.fingerprint == _bundled_fingerprint() else ""


class _Official(Downloaded, SamBackbone):
    """A model with weights of Meta's; its sha256 is not the MD5 whose first digits the file's name carries."""

    source = OFFICIAL

    @classmethod
    def architecture_of(cls, path: Path | None) -> Architecture:
        return ARCHITECTURES[cls.name]

    @classmethod
    def fit(
        cls, architecture: Dimensions, state: Mapping[str, Tensor], path: Path
    ) -> tuple[Dimensions, list[str]]:
        """Another size of input is the same model; heads and windows, which no shape shows, are as it states them."""
        assert isinstance(architecture, Architecture)
        fitted = fitted_input(architecture, state)
        stated = stated_architecture(path)
        own = looks_like(state) == cls.name
        if own and stated is not None and stated != fitted:
            theirs, ours = stated.to_json(), fitted.to_json()
            name = next(name for name in theirs if theirs[name] != ours.get(name))
            raise CheckpointError(
                f"{path} does not fit {cls.name}: it states {name} {theirs[name]} instead of {ours.get(name)}",
                "pass another file with --checkpoint, or leave it out for the weights of the model itself",
            )
        if not own or fitted == architecture:
            return architecture, []
        side, usual = fitted.image_size, architecture.image_size
        return fitted, [
            f"{path.name}: its input is {side} x {side} pixels, where {cls.name} has {usual} x {usual}"
        ]


class ViTB(_Official):
    """Segment Anything ViT-B, 91 M parameters."""

    name = "vit_b"
    about = "Segment Anything, ViT-B"
    filename = "sam_vit_b_01ec64.pth"
    sha256 = "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"


class ViTL(_Official):
    """Segment Anything ViT-L, 308 M parameters."""

    name = "vit_l"
    about = "Segment Anything, ViT-L"
    filename = "sam_vit_l_0b3195.pth"
    sha256 = "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"


class ViTH(_Official):
    """Segment Anything ViT-H, 636 M parameters."""

    name = "vit_h"
    about = "Segment Anything, ViT-H"
    filename = "sam_vit_h_4b8939.pth"
    sha256 = "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"


def feature_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    grid, width = architecture.grid, architecture.width
    return {
        EMBEDDING: (architecture.channels, grid, grid),
        "early": (width, grid, grid),
        "tokens": (width,),
    }


def seeded_backbone(architecture: Architecture, seed: int, name: str = "seeded") -> SamBackbone:
    """A backbone with random weights, for tests and timings without a checkpoint.

    Every tensor is random, also those that upstream initialises to zero (position embeddings, relative
    positions, biases), so that a path that forgets one of them is seen. Each tensor belongs to (seed, its
    name).
    """
    state: dict[str, Tensor] = {}
    for key, shape in expected_shapes(architecture).items():
        values = torch.from_numpy(generator(seed, key).standard_normal(shape, dtype=np.float32))
        if key.endswith("positional_encoding_gaussian_matrix"):
            state[key] = values
        elif len(shape) == 1 and key.endswith("weight"):  # normalisation gains
            state[key] = 1 + 0.1 * values
        elif len(shape) == 1 or "rel_pos" in key:
            state[key] = 0.1 * values
        elif (
            key.endswith(("pos_embed", "_embed.weight", "token.weight", "tokens.weight"))
            or "_embeddings." in key
        ):
            state[key] = 0.5 * values
        else:
            state[key] = values / float(np.sqrt(np.prod(shape[1:])))
    return Small.of_state(architecture, state, name=name)


def stated_architecture(path: Path) -> Architecture | None:
    """What a safetensors file's metadata, or transformers' config.json, says; None where nothing does.

    Raises:
        CheckpointError: it cannot be read, or is of another kind of model.
    """
    from safetensors import SafetensorError, safe_open

    if (config := config_of(path)) is not None:
        return configured_architecture(config)
    if not is_safetensors(path):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            stated = (file.metadata() or {}).get("architecture")
        return None if stated is None else Architecture.from_json(json.loads(stated))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors checkpoint: {error}", "copy or download the file again"
        ) from error


def stand_in_dimensions() -> dict[str, Architecture]:
    """The bundled model's dimensions by its name, to tell whoever passes its file under another."""
    stated = stated_architecture(WEIGHTS / Small.filename)
    return {} if stated is None else {Small.name: stated}


def _bundled_sha256(filename: str) -> str:
    """The SHA-256 that the package's SHA256SUMS states for the bundled checkpoint."""
    sums = WEIGHTS / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    for digits, name in (line.split() for line in lines if len(line.split()) == 2):
        if name.lstrip("*") == filename:
            return digits
    raise CheckpointError(f"{sums} does not state the sum of {filename}", REINSTALL)


@functools.cache
def _bundled_fingerprint() -> str:
    """Of the bundled weights; empty where they are missing."""
    path = WEIGHTS / Small.filename
    if not path.is_file():
        return ""
    return fingerprint_of(read_checkpoint(path).state)
