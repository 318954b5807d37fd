"""SAMs from checkpoint files: loading, weights of their own, presets. What encodes differs by subclass."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from casam_cache.backbones.base import EMBEDDING, Fetch
from casam_cache.backbones.checkpoints import (
    ENCODER,
    MASK_DECODER,
    PROMPT_ENCODER,
    check_state,
    empty_modules,
    read_checkpoint,
)
from casam_cache.backbones.decoder import SamDecoding, load_state
from casam_cache.backbones.download import download
from casam_cache.backbones.presets import SAM, Preset
from casam_cache.fingerprint import weights_fingerprint
from casam_cache.folders import cache_folder
from casam_cache.geometry import Geometry


class Dimensions(Protocol):
    """What is asked of the dimensions of a SAM: `Architecture`, `TinyArchitecture`."""

    def __hash__(self) -> int: ...
    @property
    def image_size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def grid(self) -> int: ...
    def to_json(self) -> dict[str, Any]: ...
    def build_encoder(self) -> nn.Module: ...
    def build_decoder(self) -> tuple[nn.Module, nn.Module]: ...


class PublishedSam(SamDecoding):
    """A SAM whose weights come from a file with the names of `segment_anything`'s Sam state dict.

    Attributes:
        own_preset: the preprocessing that the model's own weights were trained with.
        preset: the one that is used.
        source: where its own weights come from, for people; licence: of them; about: one line.
    """

    own_preset: ClassVar[Preset] = SAM
    source: ClassVar[str] = ""
    licence: ClassVar[str] = "Apache-2.0"
    about: ClassVar[str] = ""
    preset: Preset

    def __init__(self, *parts: Any, **others: Any) -> None:
        super().__init__(*parts, **others)
        self.preset = self.own_preset

    @classmethod
    @abstractmethod
    def dimensions(cls, description: Mapping[str, Any]) -> Dimensions:
        """The dimensions that a description states."""

    @classmethod
    @abstractmethod
    def architecture_of(cls, path: Path | None) -> Dimensions:
        """The dimensions that a checkpoint file is expected to have; of the model's own weights without one.

        Raises:
            CheckpointError: only the file could say it, and does not.
        """

    @classmethod
    @abstractmethod
    def own_checkpoint(cls, progress: Callable[[int, int], None] | None = None) -> Path:
        """The file of the model's own weights, verified.

        Raises:
            CheckpointError: it cannot be had, or its SHA-256 is wrong.
        """

    @classmethod
    @abstractmethod
    def here(cls) -> Path | None:
        """The file of the model's own weights, if it is on this machine; nothing is verified."""

    @classmethod
    @abstractmethod
    def get(cls) -> str:
        """What brings the model's own weights here: a command, or what happens by itself."""

    @classmethod
    @abstractmethod
    def flops_of(cls, architecture: Any) -> int:
        """Of one image's encoding; see `encoder_flops`."""

    @classmethod
    def feature_shapes(cls, architecture: Any) -> dict[str, tuple[int, ...]]:
        """What `features` gives for these dimensions."""
        return {EMBEDDING: (architecture.channels, architecture.grid, architecture.grid)}

    @classmethod
    def weights_here(cls) -> str:
        path = cls.here()
        return f"not here yet: {cls.get()}" if path is None else str(path)

    def encoder_flops(self) -> int:
        return self.flops_of(self.dimensions(self.description))

    @classmethod
    def load(
        cls,
        checkpoint: Path | None,
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """From a checkpoint of that architecture, of any dialect `read_checkpoint` knows; see `Backbone.load`."""
        from casam_cache.backbones.sam import stand_in_dimensions

        path = checkpoint if checkpoint is not None else cls.own_checkpoint(progress)
        read = read_checkpoint(path)
        state, left_out = cls.without_unused(read.state)
        architecture, said = cls.fit(cls.architecture_of(path), state, path)
        check_state(state, architecture, path, cls.name, stand_in_dimensions())
        backbone = cls.of_state(architecture, state, checkpoint=path).to(device)
        backbone.notes = (*read.notes, *(f"{path.name}: {line}" for line in left_out), *said)
        return backbone

    @classmethod
    def without_unused(cls, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state without tensors that its format brings and evaluation never reads, and what is said of them."""
        return state, []

    @classmethod
    def fit(
        cls, architecture: Dimensions, state: Mapping[str, Tensor], path: Path
    ) -> tuple[Dimensions, list[str]]:
        """The dimensions that the checkpoint really has, where they may be others; and lines that say so.

        Raises:
            CheckpointError: they are not this model's.
        """
        return architecture, []

    @classmethod
    def of_state(cls, architecture: Dimensions, state: Mapping[str, Tensor], **others: Any) -> Self:
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
            fingerprint=fingerprint_of(state), neck=neck_scale(state), **others,
        )  # fmt: skip

    @classmethod
    def decoder_modules(cls, description: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
        return cls.dimensions(description).build_decoder()

    def with_preset(self, preset: Preset) -> Self:
        """The same backbone with another preprocessing."""
        other = copy.copy(self)
        other.preset = preset
        return other

    def preprocessing(self) -> dict[str, Any]:
        return self.preset.describe()

    def prepare(self, image: np.ndarray, geometry: Geometry) -> np.ndarray:  # type: ignore[override]
        return self.preset.prepare(image, geometry)

    def normalise(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        return self.preset.normalise(pixels, sizes)


class Downloaded(PublishedSam):
    """A model whose own weights are downloaded once.

    Attributes:
        filename: of the checkpoint, in the download cache.
        sha256: of that file.
    """

    filename: ClassVar[str]
    sha256: ClassVar[str]

    @classmethod
    def url(cls) -> str:
        return f"{cls.source}/{cls.filename}"

    @classmethod
    def own_checkpoint(cls, progress: Callable[[int, int], None] | None = None) -> Path:
        return download(cls.url(), cls.sha256, cls.filename, progress=progress)

    @classmethod
    def to_fetch(cls, checkpoint: Path | None) -> Fetch | None:
        if checkpoint is not None or (cache_folder() / cls.filename).is_file():
            return None
        return Fetch(cls.filename, cls.feature_shapes(cls.architecture_of(None)))

    def has_other_weights(self) -> bool:
        """The official file, or where it is here too, the same weights in another format."""
        if not super().has_other_weights():
            return False
        official = self.here()
        if official is None:
            return True
        state, _ = self.without_unused(read_checkpoint(official).state)
        return fingerprint_of(state) != self.fingerprint

    @classmethod
    def here(cls) -> Path | None:
        path = cache_folder() / cls.filename
        return path if path.is_file() else None

    @classmethod
    def get(cls) -> str:
        return f"downloaded when first used, from {cls.url()}"


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 over named weights as float32."""
    return weights_fingerprint((name, tensor.float().numpy()) for name, tensor in state.items())


def neck_scale(state: Mapping[str, Tensor]) -> tuple[float, float]:
    """Mean and standard deviation over the channels of a typical embedding cell, from the weights alone.

    The encoder's neck ends in a LayerNorm2d: a cell is w * z + b with z of mean 0 and variance 1 over the
    channels. For z without preferred channels that gives mean(b) and sqrt(mean(w^2) + var(b)). A head that
    normalises cells can start from these two instead of from a scale the decoder has never seen.
    """
    weight, bias = (state[f"{ENCODER}neck.3.{name}"].double() for name in ("weight", "bias"))
    return float(bias.mean()), float((weight.square().mean() + bias.var(unbiased=False)).sqrt())
