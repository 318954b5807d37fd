"""One training step as other code sees it, and the hook by which a method adds to the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head, run_head
from casam_cache.training.items import Item


@dataclass(frozen=True)
class Pairs:
    """P image-mask pairs on B images, as tensors on the device.

    Attributes:
        items: the B images.
        features: what the head `needs` of the images by name, float32 (B, ...), the embedding among them.
        image_index: int64 (P,), the image of each pair; None when pair i belongs to image i.
        sparse, dense: prompt embeddings (P, 2, C) and (P, C, g, g).
        target: bool (P, L, L), the mask on the low-res grid.
        weight: float32 (P, L, L), share of each cell that holds image.
        is_box: bool (P,), on the host: the form of each prompt.
        coordinates: float32 (P, 4), on the host, in input pixels: a box, or a point twice.
    """

    items: tuple[Item, ...]
    features: Mapping[str, torch.Tensor]
    image_index: torch.Tensor | None
    sparse: torch.Tensor
    dense: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    is_box: np.ndarray
    coordinates: np.ndarray

    def __len__(self) -> int:
        return len(self.sparse)


@dataclass(frozen=True)
class Step:
    """What a penalty may read at one step, after the forward pass and before the backward pass.

    Attributes:
        head: the one in training.
        backbone: frozen.
        pairs: inputs and targets.
        aligned: the head's output (B, C, g, g).
        low_res: logits (P, L, L).
        iou: the IoU head's estimates (P,).
        epoch, index: from 0; `index` counts steps since the start of training.

    In a compiled fit `aligned`, `low_res` and `iou` are valid until the next step begins (copy what is to be kept) and
    can be differentiated once, together with the loss.
    """

    head: Head
    backbone: Backbone
    pairs: Pairs
    aligned: torch.Tensor
    low_res: torch.Tensor
    iou: torch.Tensor
    epoch: int
    index: int


class Penalty:
    """A method's addition to the loss: distillation, a quadratic penalty, replay of stored samples.

    It never steps the optimiser. State that changes during training belongs in `state`, which every
    checkpoint keeps, so that a resumed run equals an uninterrupted one.
    """

    def term(self, step: Step) -> torch.Tensor | None:
        """A 0-d tensor to add to the loss of this step, or None."""
        return None

    def state(self) -> dict[str, Any]:
        """Tensors and plain data that `restore` needs."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""


def forward_pairs(
    head: Head, backbone: Backbone, pairs: Pairs
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The head and the decoder on training pairs, with gradients and single-mask output.

    Returns:
        The head's output (B, C, g, g), low-res logits (P, L, L) and IoU estimates (P,).
    """
    aligned, low_res, iou = run_head(
        head, backbone, pairs.features, pairs.image_index, pairs.sparse, pairs.dense, multimask=False
    )
    return aligned, low_res[:, 0], iou[:, 0]
