"""What a segmenter is: logits of every class on a grid over the image, from its embedding alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import nn

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import upscale
from casam_cache.geometry import Geometry


class Segmenter(nn.Module, ABC):
    """A head that needs no prompt. Every parameter that requires a gradient is trained, and nothing of the backbone.

    Attributes:
        name: in the registry, files and tables.
        Options: model of its options.
        revision: raised when the same options would give another result; for one from a user's file, the SHA-256 of
            that file.
        recipe: options of training that stand where nothing else is said.
        options: the validated options it was built from.
        classes: K ids, ascending; background is none of them.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]]
    revision: ClassVar[int | str] = 1
    recipe: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, options: BaseModel, backbone: Backbone, classes: Sequence[int], seed: int) -> None:
        """Initial weights depend on the seed, the options, the backbone and the number of classes alone."""
        super().__init__()
        self.options = options
        self.classes = tuple(classes)

    @abstractmethod
    def logits(self, backbone: Backbone, embedding: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, C, g, g) -> float32 logits (B, 1 + K, s, s): background, then the classes.

        Args:
            backbone: frozen, on the device of the embedding.
            embedding: as stored, float32.
        """

    @abstractmethod
    def side(self, backbone: Backbone) -> int:
        """s, cells a side of the map over the backbone's square input."""

    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


@torch.no_grad()
def class_map(
    segmenter: Segmenter, backbone: Backbone, embedding: torch.Tensor, geometry: Geometry
) -> torch.Tensor:
    """The class of every pixel of one image at its own size: logits are upscaled as SAM's are, the largest wins.

    Args:
        segmenter: on the backbone's device, in evaluation mode.
        backbone: frozen.
        embedding: of the image, (C, g, g), any dtype.
        geometry: how the image lies in the input.

    Returns:
        int64 (H, W), on the device: 0 background, 1 + k where it is `segmenter.classes[k]`.
    """
    logits = segmenter.logits(backbone, embedding[None].to(backbone.device).float())[0]
    return upscale(logits.float(), geometry).argmax(dim=0)
