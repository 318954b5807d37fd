"""What a step of training computes up to its loss: that of the masks, or what a head is taught instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.compiling import CompiledStep
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head, run_head
from casam_cache.training.items import Items
from casam_cache.training.losses import segmentation_loss
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Pairs, Penalty


def objective(
    head: Head, backbone: Backbone, options: TrainingOptions, items: Items, penalty: Penalty | None
) -> Callable[[Pairs], tuple[torch.Tensor, ...]]:
    """What a step computes up to its loss: of masks, or what the head is taught instead.

    Raises:
        CasamError: options or a penalty that need the loss of masks, and the head has another.
    """
    lesson = head.lesson(items, backbone)
    if lesson is None:
        losses = _losses(head, backbone, options)
        step = CompiledStep(losses, backbone) if options.compiled else losses

        def run(pairs: Pairs) -> tuple[torch.Tensor, ...]:
            found: tuple[torch.Tensor, ...] = step(
                pairs.target, pairs.weight, pairs.features, pairs.image_index, pairs.sparse, pairs.dense
            )
            return found

        return run
    if options.compiled or penalty is not None:
        what = "a penalty is added to" if penalty else "compiled=true compiles"
        raise CasamError(
            f"{what} the loss of masks, and the head '{head.name}' is taught something else",
            "choose a head that is taught masks" if penalty else "leave compiled out",
        )

    def taught(pairs: Pairs) -> tuple[torch.Tensor, ...]:
        """No masks, and of the terms of their loss none."""
        loss = lesson(pairs)
        nothing = loss.new_zeros(())
        return pairs.features["embedding"], pairs.target, nothing, loss, nothing, nothing, nothing

    return taught


def _losses(head: Head, backbone: Backbone, options: TrainingOptions) -> Callable[..., tuple[Any, ...]]:
    """The arithmetic of a step. It holds no more than it needs, or a finished fit would keep its memory."""

    def run(target: torch.Tensor, weight: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """The head's output, logits (P, L, L), IoU estimates (P,), then the loss, its focal, Dice and IoU terms."""
        aligned, masks, scores = run_head(head, backbone, *inputs)
        low_res, iou = masks[:, 0], scores[:, 0]
        return aligned, low_res, iou, *segmentation_loss(low_res, iou, target, weight, options)

    return run
