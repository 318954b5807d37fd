"""What a backbone is to the rest of the package: an encoder that runs once, and a promptable decoder behind it.

A store is made by `prepare`, `normalise` and `encode`; everything trains and evaluates through `embed_prompts` and
`decode`. Nothing outside `casam_cache.backbones` knows more of a backbone than this class. A backbone with SAM's prompt
encoder and mask decoder behind another encoder derives from `casam_cache.backbones.decoder.SamDecoding`, which defines
the second half. No torch is imported here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from casam_cache.backbones.preprocess import resize_for_encoder
from casam_cache.backbones.recipes import PAPER
from casam_cache.errors import CasamError, unknown_name
from casam_cache.fingerprint import digest_file
from casam_cache.references import file_sha256

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from casam_cache.backbones.prompts import Prompts
    from casam_cache.geometry import Geometry

EMBEDDING = "embedding"
Forward = Callable[["Tensor", Sequence[str]], "dict[str, Tensor]"]
"""(images as `normalise` gives them, names of features) -> float32 (B, *shape) by name."""


@dataclass(frozen=True)
class Fetch:
    """A checkpoint that `load` would have to download first.

    Attributes:
        filename: of the checkpoint.
        features: the shapes that the features will have, as `Backbone.features` gives them.
    """

    filename: str
    features: Mapping[str, tuple[int, ...]]


class Backbone(ABC):
    """A frozen encoder and a promptable mask decoder, in evaluation mode and without gradients.

    The encoder's input is a square of S pixels a side with the image in its top left corner; the embedding has a cell
    for each patch of it.

    Attributes:
        name: of the class: what `--model` takes. An instance may have another, for messages.
        settings: names of what `choose_settings` chooses; keys of a store's identity.
        fingerprint: SHA-256 over all weights, also those of parts that are not loaded.
        checkpoint: the file or folder the weights are from, None for weights made otherwise.
        notes: lines for a person: what `load` made of the checkpoint, where that is not plain.
        image_size: S, pixels.
        patch_size: side of an embedding cell, pixels of the input.
        channels: C of the embedding (C, g, g).
        neck: mean and standard deviation over the channels of a typical embedding cell, for heads that normalise cells.
        encoder: what `encode` needs; None where only the decoder was loaded.
        mask_decoder: SAM's, where the backbone has it; heads that train a copy of it need it.
        recipe: values of options with which heads are fitted to it where nothing else is said; beside them stands the
            paper's. By default that is all of it, with some groups held out to choose the best state on.
        image_a_core: on a CPU, encode one image a core, each in one thread, instead of one after the other in all
            threads: for encoders that need little memory an image.
    """

    name: str
    settings: ClassVar[tuple[str, ...]] = ()
    fingerprint: str
    checkpoint: Path | None = None
    notes: tuple[str, ...] = ()
    image_size: int
    patch_size: int
    channels: int
    neck: tuple[float, float] = (0.0, 1.0)
    encoder: nn.Module | None = None
    mask_decoder: nn.Module | None = None
    image_a_core: ClassVar[bool] = False
    recipe: ClassVar[Mapping[str, Any]] = PAPER

    @classmethod
    @abstractmethod
    def load(
        cls,
        checkpoint: Path | None,
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> Backbone:
        """The backbone with all its parts.

        Args:
            checkpoint: a file of the user's, or None for the backbone's own weights.
            device: where to put it.
            progress: of a download, called with (bytes done, bytes in total).

        Raises:
            CheckpointError: the weights cannot be had, or do not fit.
        """

    @classmethod
    def to_fetch(cls, checkpoint: Path | None) -> Fetch | None:
        """What `load` would have to download first; None if nothing."""
        return None

    @classmethod
    def weights_here(cls) -> str:
        """For `casam doctor`: where its weights are on this machine."""
        return "makes or finds its own weights"

    def has_other_weights(self) -> bool:
        """Whether it is known to have other weights than its name stands for.

        A class with `sha256`, of the file of its own weights, has them if it was loaded from that file.
        """
        sha256 = getattr(type(self), "sha256", None)
        if sha256 is None or self.checkpoint is None:
            return False
        return not self.checkpoint.is_file() or digest_file(self.checkpoint) != sha256

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Plain JSON: with the weights and the preprocessing, all that decides its features."""

    @property
    def stand_in(self) -> str:
        """What every output made with it says, where its weights are not ones to publish with; else empty."""
        return ""

    @property
    def identity(self) -> dict[str, Any]:
        """What a store's identity holds of it; for a class from a user's file the file's SHA-256 too."""
        code = file_sha256(type(self))
        described = {"weights": self.fingerprint, "architecture": self.description}
        return described if code is None else {**described, "code": code}

    @property
    def grid(self) -> int:
        """Cells g a side of the embedding grid."""
        return self.image_size // self.patch_size

    @property
    def low_res(self) -> int:
        """Side of the masks that `decode` gives, which training compares at: 4g."""
        return 4 * self.grid

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its parts are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Backbone:
        """The backbone with its parts moved there."""

    def features(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each feature of an image that it offers: `embedding`, and `early` or `tokens` where it can."""
        return {EMBEDDING: (self.channels, self.grid, self.grid)}

    def feature_identity(self, name: str) -> dict[str, Any]:
        """Plain JSON: what defines a feature beyond the weights and the preprocessing."""
        return {}

    def feature_shape(self, name: str) -> tuple[int, ...]:
        """The shape of one feature.

        Raises:
            OptionError: it does not offer this one.
        """
        shapes = self.features()
        if name not in shapes:
            raise unknown_name(f"feature of {self.name}", name, list(shapes))
        return shapes[name]

    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """Plain JSON: everything that `prepare` and `normalise` do to a pixel."""

    def preprocessing_identity(self, resize: str, intensity: str) -> dict[str, Any]:
        """Plain JSON: everything between an image file and the encoder's input that changes a feature.

        Args:
            resize: one of `casam_cache.geometry.RESIZE_MODES`.
            intensity: how other bit depths became 8 bit, as the dataset reader names it.
        """
        return {
            "image_size": self.image_size, "resize": resize, **self.preprocessing(), "intensity": intensity,
        }  # fmt: skip

    @staticmethod
    def prepare(image: np.ndarray, geometry: Geometry) -> np.ndarray:
        """An image as it lies in the input, before `normalise`; runs in the processes that decode images.

        Args:
            image: uint8 (H, W, 3).
            geometry: says where in the input it lies.

        Returns:
            uint8 (input_height, input_width, 3); here Pillow's bilinear filter, as SamPredictor does it.
        """
        return resize_for_encoder(image, geometry)

    @abstractmethod
    def normalise(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """A batch as the encoder wants it. No image may depend on the others.

        Args:
            pixels: uint8 (B, 3, S, S), each image in the top left corner, zero elsewhere.
            sizes: int64 (B, 2), (h, w) of each image; on the device, like the pixels.

        Returns:
            float32 (B, 3, S, S).
        """

    @abstractmethod
    def encode(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The features of a batch.

        `casam_cache.backbones.encoder.FrozenEncoder` calls it without gradients, in the precision that was asked for.

        Args:
            images: from `normalise`.
            names: of `features`, in the order they are wanted in.

        Returns:
            float32 (B, *shape) by name.
        """

    def choose_settings(self, precision: str, batch_size: int) -> dict[str, Any]:
        """How a new store is computed where there is a choice, as JSON: the `settings` of its identity."""
        return {}

    def settings_of(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a store of this identity is continued with on this device."""
        return {name: identity[name] for name in self.settings if name in identity}

    def encoding(self, settings: Mapping[str, Any]) -> Forward:
        """`encode` in the form that the `settings` say, with whatever can be prepared once."""
        return self.encode

    def plain_encoding(self) -> Forward:
        """`encode` for a tracer, which notes every operation: without writes in place or loops, where it can be."""
        return self.encoding({})

    @abstractmethod
    def encoder_flops(self) -> int:
        """Floating-point operations of one image's encoding, a multiplication and an addition counting as two."""

    @abstractmethod
    def embed_prompts(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Sparse (P, n, C) and dense (P, C, g, g) embeddings of P prompts in pixels of the input.

        Args:
            prompts: on the backbone's device.
        """

    @abstractmethod
    def decode(
        self,
        embedding: Tensor,
        image_index: Tensor | None,
        sparse: Tensor,
        dense: Tensor,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Masks of P prompts on B images; gradients flow to all three embeddings.

        Args:
            embedding: (B, C, g, g).
            image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
            sparse: (P, n, C); heads append tokens.
            dense: (P, C, g, g), possibly an expanded view.
            multimask: several masks for an ambiguous prompt instead of the single one.

        Returns:
            float32 logits (P, m, low_res, low_res) and (P, m) estimates of each mask's IoU; m = 1 without `multimask`.
        """

    def prepare_decoding(self) -> None:
        """Computes now what `decode` would compute once and keep; here nothing."""
        return

    @abstractmethod
    def save_decoder(self, path: Path) -> None:
        """Writes what `embed_prompts` and `decode` need into one file, which appears whole or not at all."""

    @classmethod
    @abstractmethod
    def load_decoder(cls, path: Path, device: torch.device | str = "cpu") -> Backbone:
        """The backbone of `save_decoder`, without encoder.

        Raises:
            CheckpointError: missing, damaged, or not such a file.
        """

    def decoder_to_copy(self, head: str) -> nn.Module:
        """SAM's mask decoder, for a head that begins with a copy of it.

        Args:
            head: its name, for the message.

        Raises:
            CasamError: this backbone has none.
        """
        if self.mask_decoder is None:
            raise CasamError(
                f"the head {head} is built on SAM's mask decoder, which the backbone {self.name} does not have",
                "fit --method alignment, whose head needs only embeddings, or encode with a SAM",
            )
        return self.mask_decoder

    def with_decoder(self, mask_decoder: nn.Module) -> Backbone:
        """The same backbone with another mask decoder of the type that `decoder_to_copy` gave.

        Raises:
            CasamError: it decodes with something else.
        """
        self.decoder_to_copy("with a mask decoder of its own")
        import copy

        other = copy.copy(self)
        other.mask_decoder = mask_decoder
        return other
