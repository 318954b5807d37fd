"""Options that decide how a head without prompts is trained. Imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from casam_cache.training.options import VIEW_SEPARATOR
from casam_cache.views import NONE, parse_views


class ImageTrainingOptions(BaseModel):
    """What every recipe says by which a head learns an image at a time.

    Attributes:
        epochs: visits of each image.
        min_steps: more epochs where that many are fewer optimiser steps; None is no minimum.
        max_steps: ends training early, in optimiser steps; None is no limit.
        batch_size: images a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from zero to where the schedule has it.
        clip: largest norm of the gradient, which is shortened to it.
        schedule: of the learning rate over all steps: `cosine`, which ends at zero, or `constant`.
        held_out: share of the training images, in whole groups, that are set apart to choose the best state on; nothing
            is set apart where there are fewer than eight groups. 0: the last state is what a fit gives.
        checks: how often states are compared on them, at ends of epochs.
        precision: `bf16` is autocast with fp32 weights, `auto` is bf16 on CUDA and fp32 elsewhere.
        views: further views of the training images, joined by "+"; as of `TrainingOptions`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=20, ge=1)
    min_steps: int | None = Field(default=400, ge=1)
    max_steps: int | None = Field(default=2000, ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=20, ge=0)
    clip: float = Field(default=1.0, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    held_out: float = Field(default=0.2, ge=0, le=0.5)
    checks: int = Field(default=8, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    views: str = NONE

    @field_validator("views")
    @classmethod
    def _known_views(cls, text: str) -> str:
        return VIEW_SEPARATOR.join(view.name for view in parse_views(text, VIEW_SEPARATOR)) or NONE

    @model_validator(mode="after")
    def _enough_steps(self) -> Self:
        if self.min_steps and self.max_steps and self.min_steps > self.max_steps:
            raise ValueError(f"min_steps={self.min_steps} is more than max_steps={self.max_steps}")
        return self

    def steps(self, images: int) -> int:
        """Optimiser steps of a fit on so many images."""
        wanted = max(self.epochs * -(-images // self.batch_size), self.min_steps or 0)
        return min(wanted, self.max_steps or wanted)


class SegmentationOptions(ImageTrainingOptions):
    """The recipe of a head that gives a map of classes.

    Attributes:
        ce_weight, dice_weight: of the two terms of the loss.
        dice_smooth: added to both sides of the Dice fraction, in cells.
    """

    ce_weight: float = Field(default=1.0, ge=0)
    dice_weight: float = Field(default=1.0, ge=0)
    dice_smooth: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not self.ce_weight and not self.dice_weight:
            raise ValueError("ce_weight=0 and dice_weight=0 leave no loss")
        return self


class ProposalTrainingOptions(ImageTrainingOptions):
    """The recipe of a head that proposes objects.

    Attributes:
        box_weight: of the boxes' term of the loss; that of the centres has 1.
    """

    box_weight: float = Field(default=2.0, gt=0)
