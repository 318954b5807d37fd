"""Learning without Forgetting (Algorithm 1): masks are distilled from the layer as it stood before the task."""

from __future__ import annotations

import torch
from pydantic import Field

from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.naive import Naive
from casam_cache.methods.sequential import Past, Setting
from casam_cache.training.items import Items
from casam_cache.training.losses import distillation_loss
from casam_cache.training.step import Penalty, Step, forward_pairs


class LwFOptions(AlignmentOptions):
    """CoSAM's settings by default; temperature 2 without Dice is what class labels are distilled with elsewhere.

    Attributes:
        distillation_weight: lambda of Algorithm 1.
        distillation_temperature: T, which divides both logits; the loss is scaled by T^2.
        distillation_dice: whether Dice to the teacher's probabilities is added to the cross-entropy.
    """

    distillation_weight: float = Field(default=3.0, ge=0)
    distillation_temperature: float = Field(default=1.0, gt=0)
    distillation_dice: bool = True


class LwF(Naive):
    """Fine-tuning on L = L_align + lambda * L_mask(student, teacher), the same prompt for both.

    The teacher is the layer after the last task, on the images of the current one: nothing of earlier tasks is kept
    besides the layer itself.
    """

    name = "lwf"
    Options = LwFOptions

    def penalty(self, items: Items, past: Past | None, setting: Setting) -> Penalty:
        """Distillation from the last layer; none in a first task."""
        if past is None:
            return Penalty()
        assert isinstance(self.options, LwFOptions)
        return Distillation(past, self.options, setting.training.dice_smooth)


class Distillation(Penalty):
    """lambda * L_mask: a second forward pass through the teacher, on the pairs of the step.

    Args:
        past: with the teacher.
        options: lambda, temperature, Dice.
        dice_smooth: constant of the Dice fraction.
    """

    def __init__(self, past: Past, options: LwFOptions, dice_smooth: float) -> None:
        self._teacher = past.head
        self._options = options
        self._smooth = dice_smooth if options.distillation_dice else None

    def term(self, step: Step) -> torch.Tensor:
        """The mean over the step's pairs."""
        with torch.no_grad():
            _, taught, _ = forward_pairs(self._teacher, step.backbone, step.pairs)
        loss = distillation_loss(
            step.low_res, taught, step.pairs.weight, self._options.distillation_temperature, self._smooth
        )
        return self._options.distillation_weight * loss.mean()
