"""A backbone and a fitted layer as the `Sam` of the user's own `segment_anything`.

Unlike `upstream`, which loads `segment_anything`'s model classes alone, this imports the package itself, and so
torchvision: what takes a `Sam` (SamPredictor, SamAutomaticMaskGenerator, programs of others) lives there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.decoder import SamDecoding
from casam_cache.errors import OptionError

_ENCODER = "encoder."


class AdaptedSam(Sam):
    """`segment_anything`'s Sam with the preprocessing, encoder and decoder of a backbone.

    Its state dict has upstream's names; what the fitted layer adds is under `image_encoder.fitted.`. A run without
    such a layer (a tuned decoder, the frozen SAM) therefore gives a checkpoint that `sam_model_registry` loads.

    Args:
        backbone: with its encoder; its modules become the Sam's.
        align: a module of embeddings (B, C, g, g) -> (B, C, g, g) behind the encoder, perhaps without weights.
        single: give the single mask also where three are asked for.
        stretched: the run's images were stretched to a square, so that only squares can be taken.
        mean, deviation: a channel, for programs that read them; `preprocess` does not.
    """

    def __init__(
        self,
        backbone: SamDecoding,
        align: nn.Module,
        *,
        single: bool = False,
        stretched: bool = False,
        mean: list[float] | None = None,
        deviation: list[float] | None = None,
    ) -> None:
        super().__init__(
            AdaptedEncoder(backbone, align),
            backbone.prompt_encoder,
            backbone.mask_decoder,
            pixel_mean=mean or [0.0, 0.0, 0.0],
            pixel_std=deviation or [1.0, 1.0, 1.0],
        )
        self._normalise: Callable[[Tensor, Tensor], Tensor] = backbone.normalise
        self._stretched = stretched
        if single:
            self.mask_decoder.register_forward_pre_hook(_ask_for_one, with_kwargs=True)
        self.eval()
        self.to(backbone.device)

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalised as the backbone does it, and padded to a square.

        Args:
            x: (3, h, w) or (B, 3, h, w), pixel values 0 to 255 of any dtype, the long side at most S.

        Returns:
            float32 (3, S, S) or (B, 3, S, S).

        Raises:
            OptionError: the run stretched its images, and this one is no square.
        """
        height, width = x.shape[-2:]
        side = self.image_encoder.img_size
        if self._stretched and (height, width) != (side, side):
            raise OptionError(
                f"this run's images were stretched to {side} x {side} pixels; an image resized to {width} x {height} "
                "would give it other shapes than it was fitted to",
                f"resize images to {side} x {side} first, and the masks back",
            )
        batch = x.reshape(-1, 3, height, width)
        padded = F.pad(batch, (0, side - width, 0, side - height))
        sizes = torch.tensor([[height, width]], device=x.device).expand(len(batch), 2)
        return self._normalise(padded, sizes).reshape(*x.shape[:-2], side, side)


class AdaptedEncoder(nn.Module):
    """A backbone's encoder, and behind it a fitted layer.

    Args:
        backbone: with its encoder.
        align: see `AdaptedSam`.

    Attributes:
        img_size: S, pixels, which SamPredictor resizes to.
    """

    def __init__(self, backbone: Backbone, align: nn.Module) -> None:
        super().__init__()
        self.img_size = backbone.image_size
        self.encoder, self.fitted = backbone.encoder, align
        self._backbone = backbone
        own: Any = self
        own.register_state_dict_post_hook(_to_upstream_names)
        own.register_load_state_dict_pre_hook(_from_upstream_names)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) as `preprocess` gives them -> float32 embeddings (B, C, g, g)."""
        embedding = self._backbone.encode(x, (EMBEDDING,))[EMBEDDING]
        aligned: Tensor = self.fitted(embedding)
        return aligned


def _ask_for_one(
    module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return given[:4], {**named, "multimask_output": False}  # the fifth argument, where it has no name


def _to_upstream_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Mapping[str, Any]) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[name.replace(prefix + _ENCODER, prefix, 1)] = state.pop(name)


def _from_upstream_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        if not name.startswith(f"{prefix}fitted."):
            state[name.replace(prefix, prefix + _ENCODER, 1)] = state.pop(name)
