"""Segment Anything, with the ViT encoders it was published with and the small one of this package."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from casam_cache.backbones.architecture import ARCHITECTURES, PIXEL_MEAN, PIXEL_STD, Architecture
from casam_cache.backbones.attention import AUTO, CUDA_FORMS, choose_form
from casam_cache.backbones.base import EMBEDDING, Fetch, Forward
from casam_cache.backbones.checkpoints import (
    ENCODER,
    MASK_DECODER,
    PROMPT_ENCODER,
    check_state,
    empty_modules,
    expected_shapes,
    read_checkpoint,
)
from casam_cache.backbones.cost import vit_flops
from casam_cache.backbones.decoder import SamDecoding, backbone_state, load_state
from casam_cache.backbones.download import download
from casam_cache.backbones.encoder import inside
from casam_cache.backbones.vit import TOKEN_READ, TOKEN_SEED, TOKENS, PreparedViT, early_block
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import digest_file, generator, weights_fingerprint
from casam_cache.folders import cache_folder

__all__ = ["SamBackbone", "Small", "ViTB", "ViTH", "ViTL", "backbone_state", "seeded_backbone"]

WEIGHTS = Path(__file__).parent.parent / "weights"
OFFICIAL = "https://dl.fbaipublicfiles.com/segment_anything"
REINSTALL = "reinstall the package: pip install --force-reinstall --no-deps casam-cache"


class SamBackbone(SamDecoding):
    """A SAM of any dimensions.

    Attributes:
        architecture: its dimensions.
    """

    settings = ("attention",)

    def __init__(self, description: Mapping[str, Any], *modules: Any, **others: Any) -> None:
        self.architecture = Architecture.from_json(dict(description))
        super().__init__(description, *modules, **others)

    @classmethod
    def architecture_of(cls, path: Path) -> Architecture:
        """The dimensions that a checkpoint file is expected to have.

        Raises:
            CheckpointError: only the file could say it, and does not.
        """
        raise NotImplementedError

    @classmethod
    def own_checkpoint(cls, progress: Callable[[int, int], None] | None = None) -> Path:
        """The file of the model's own weights, verified.

        Raises:
            CheckpointError: it cannot be had, or its SHA-256 is wrong.
        """
        raise NotImplementedError

    @classmethod
    def load(
        cls,
        checkpoint: Path | None,
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """From a .pth, .pt or .safetensors file of that architecture; see `Backbone.load`."""
        path = checkpoint if checkpoint is not None else cls.own_checkpoint(progress)
        state = read_checkpoint(path)
        architecture = cls.architecture_of(path)
        check_state(state, architecture, path, cls.name)
        return cls.of_state(architecture, state, checkpoint=path).to(device)

    @classmethod
    def of_state(cls, architecture: Architecture, state: Mapping[str, Tensor], **others: Any) -> Self:
        """From tensors under the names of `segment_anything`'s Sam state dict, which are copied as float32.

        Args:
            architecture: what they fit.
            state: all tensors of it.
            others: see `SamDecoding`.
        """
        modules = empty_modules(architecture)
        for prefix, module in modules.items():
            load_state(module, state, prefix)
        return cls(
            architecture.to_json(), modules[ENCODER], modules[PROMPT_ENCODER], modules[MASK_DECODER],
            fingerprint=weights_fingerprint((name, tensor.float().numpy()) for name, tensor in state.items()),
            neck=neck_scale(state), **others,
        )  # fmt: skip

    @classmethod
    def decoder_modules(cls, description: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
        return Architecture.from_json(dict(description)).build_decoder()

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

    def preprocessing(self) -> dict[str, Any]:
        return {
            "interpolation": "pillow-bilinear",
            "padding": "zero after normalisation, bottom and right",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
        }

    def normalise(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """Sam.preprocess for a batch: normalise, and *then* set the padding to zero."""
        mean, deviation = _mean_and_deviation(pixels.device)
        valid = inside(sizes, pixels.shape[-1])
        return torch.where(valid[:, None], (pixels - mean) / deviation, torch.zeros((), device=pixels.device))

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

    def encoder_flops(self) -> int:
        return vit_flops(self.architecture)


class Small(SamBackbone):
    """The bundled stand-in for demos and CPUs, not a medical-grade SAM.

    A safetensors file given as --checkpoint may state its own architecture.
    """

    name = "small"
    filename = "small.safetensors"

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
    def architecture_of(cls, path: Path) -> Architecture:
        own = WEIGHTS / cls.filename
        stated = stated_architecture(path) or stated_architecture(own)
        if stated is None:
            raise CheckpointError(f"{own} does not state its architecture", REINSTALL)
        return stated

    @classmethod
    def weights_here(cls) -> str:
        path = WEIGHTS / cls.filename
        return str(path) if path.is_file() else "missing from the package"


class _Official(SamBackbone):
    """A model with weights of Meta's.

    Attributes:
        filename: of the checkpoint, in the download cache.
        sha256: of that file, not the MD5 whose first digits its name carries.
    """

    filename: ClassVar[str]
    sha256: ClassVar[str]

    @classmethod
    def url(cls) -> str:
        return f"{OFFICIAL}/{cls.filename}"

    @classmethod
    def own_checkpoint(cls, progress: Callable[[int, int], None] | None = None) -> Path:
        return download(cls.url(), cls.sha256, cls.filename, progress=progress)

    @classmethod
    def architecture_of(cls, path: Path) -> Architecture:
        return ARCHITECTURES[cls.name]

    @classmethod
    def to_fetch(cls, checkpoint: Path | None) -> Fetch | None:
        if checkpoint is not None or (cache_folder() / cls.filename).is_file():
            return None
        return Fetch(cls.filename, feature_shapes(ARCHITECTURES[cls.name]))

    @classmethod
    def weights_here(cls) -> str:
        path = cache_folder() / cls.filename
        return str(path) if path.is_file() else f"not here yet, from {cls.url()}"


class ViTB(_Official):
    """Segment Anything ViT-B, 91 M parameters."""

    name = "vit_b"
    filename = "sam_vit_b_01ec64.pth"
    sha256 = "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"


class ViTL(_Official):
    """Segment Anything ViT-L, 308 M parameters."""

    name = "vit_l"
    filename = "sam_vit_l_0b3195.pth"
    sha256 = "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"


class ViTH(_Official):
    """Segment Anything ViT-H, 636 M parameters."""

    name = "vit_h"
    filename = "sam_vit_h_4b8939.pth"
    sha256 = "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"


def feature_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    grid, width = architecture.grid, architecture.width
    return {
        EMBEDDING: (architecture.channels, grid, grid),
        "early": (width, grid, grid),
        "tokens": (width,),
    }


def neck_scale(state: Mapping[str, Tensor]) -> tuple[float, float]:
    """Mean and standard deviation over the channels of a typical embedding cell, from the weights alone.

    The encoder's neck ends in a LayerNorm2d: a cell is w * z + b with z of mean 0 and variance 1 over the
    channels. For z without preferred channels that gives mean(b) and sqrt(mean(w^2) + var(b)). A head that
    normalises cells can start from these two instead of from a scale the decoder has never seen.
    """
    weight, bias = (state[f"{ENCODER}neck.3.{name}"].double() for name in ("weight", "bias"))
    return float(bias.mean()), float((weight.square().mean() + bias.var(unbiased=False)).sqrt())


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
    """The architecture in a safetensors file's metadata, None where it states none or is another format."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            stated = (file.metadata() or {}).get("architecture")
        return None if stated is None else Architecture.from_json(json.loads(stated))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors checkpoint: {error}", "copy or download the file again"
        ) from error


def _bundled_sha256(filename: str) -> str:
    """The SHA-256 that the package's SHA256SUMS states for the bundled checkpoint."""
    sums = WEIGHTS / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    for digits, name in (line.split() for line in lines if len(line.split()) == 2):
        if name.lstrip("*") == filename:
            return digits
    raise CheckpointError(f"{sums} does not state the sum of {filename}", REINSTALL)


@functools.cache
def _mean_and_deviation(device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        mean, deviation = (
            torch.tensor(values, device=device).view(-1, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD)
        )
    return mean, deviation
