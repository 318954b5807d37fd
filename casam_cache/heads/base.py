"""What every head is: a map of image embeddings, and optionally a mask decoder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import BaseModel
from torch import nn

from casam_cache.fingerprint import generator


class Head(nn.Module):
    """A module between a frozen encoder and a mask decoder.

    A head maps embeddings (B, C, g, g) to embeddings of the same shape. One that also replaces the decoder
    sets `mask_decoder`; None means the backbone's frozen one. Everything in `parameters()` that requires a
    gradient is trained, and nothing of the backbone is.

    Attributes:
        name: in the registry, files and tables.
        options: the validated options the head was built from.
        mask_decoder: its own mask decoder (the type of the backbone's), or None.
    """

    name: ClassVar[str]
    options: BaseModel
    mask_decoder: nn.Module | None

    def __init__(self, options: BaseModel) -> None:
        super().__init__()
        self.options = options
        self.mask_decoder = None

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Image embeddings (B, C, g, g) -> embeddings (B, C, g, g) for the mask decoder."""
        raise NotImplementedError

    def trained(self) -> Iterator[nn.Parameter]:
        """The parameters that the optimiser steps."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def trained_parameters(self) -> int:
        """How many numbers are trained, as the paper counts parameters."""
        return sum(parameter.numel() for parameter in self.trained())


def draw_uniform(module: nn.Module, fan_in: int, *belongs_to: str | int) -> None:
    """Fills a convolution's weight and bias as torch does by default: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Each tensor has a generator of its own, named by `belongs_to` and the tensor's name: neither torch's
    global state nor what was built before matters, and the numbers do not change with the torch release.
    """
    bound = fan_in**-0.5
    with torch.no_grad():
        for tensor_name, parameter in module.named_parameters():
            drawn = generator(*belongs_to, tensor_name).uniform(-bound, bound, size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
