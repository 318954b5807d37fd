"""Options that decide the result of training (where embeddings are kept does not). Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from casam_cache.views import NONE, parse_views

VIEW_SEPARATOR = "+"  # commas separate the values of a grid
# Options that came later, and what leaves them unused.
LATER: dict[str, Any] = {
    "views": NONE, "compiled": False, "schedule": "constant", "min_steps": None, "warmup_steps": 0, "weight_decay": 0.0,
    "held_out": 0.0, "checks": 8, "patience": None, "interpolations": 0, "shots": None,
    "mix": 0.0,
}  # fmt: skip


class TrainingOptions(BaseModel):
    """The recipe of section 4.1.2, and SAM-Med2D's loss where the paper leaves the loss open.

    Attributes:
        epochs: visits of each image that has masks.
        batch_size: images a step.
        learning_rate: of Adam.
        weight_decay: of AdamW; with 0 that is Adam.
        schedule: of the learning rate over all steps: `constant`, as in the paper, or `cosine`, which ends at zero.
        warmup_steps: steps over which the learning rate rises from zero to where the schedule has it.
        masks_per_image: masks drawn from an image at each visit, without replacement; images with fewer give
            what they have.
        shots: train on so many images alone, one of each group (patient, slide) first, those that are held out among
            them; a larger number holds those of a smaller one. None: all. Of methods that learn one task.
        min_steps: more epochs than `epochs` where that many are fewer optimiser steps; None is no minimum.
        max_steps: ends training early, in optimiser steps; None is no limit.
        held_out: share of the training images, in whole groups, that are set apart to choose the best state on; nothing
            is set apart of a task with fewer than eight groups. 0: the last state is what a fit gives.
        checks: how often states are compared on them, at ends of epochs.
        patience: checks without a better state after which training stops; None: never.
        interpolations: of the best and of the last state, how many points on the way from the weights that the fit
            began with are compared on them too, evenly spread (`interpolation`); where nothing can be held out, a head
            that begins as the frozen model goes n / (n + 2) of the way with n images. 0: neither.
        precision: `bf16` is autocast with fp32 weights, `auto` is bf16 on CUDA and fp32 elsewhere.
        focal_weight, dice_weight, iou_weight: of the three terms of the loss.
        focal_alpha, focal_gamma: balance of foreground and focusing of the focal term.
        dice_smooth: added to both sides of the Dice fraction.
        box_share: probability of a box prompt; the rest are points.
        box_jitter: standard deviation of the noise on each box side, as a share of the box's width or height.
        jitter_limit: largest noise, as a share of the input's side (SAM's 20 of 1024 pixels).
        views: further views of the training images, joined by "+", e.g. flip_h+rot90; each visit shows an image as
            itself or as one of them. The store must have their arrays (`casam encode --views`).
        mix: a of Beta(a, a), by which the image embeddings of a step are mixed with each other (`mixing`), masks and
            prompts staying their own; 0: not. Of methods that learn one task from the cache.
        compiled: run head, decoder and loss through torch.compile, on CUDA as graphs of one launch: minutes before the
            first step for each size of batch, other last bits. Needs `masks_per_image=1`, or nearly every step would be
            of a new size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=24, ge=1)
    batch_size: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    masks_per_image: int = Field(default=1, ge=1)
    shots: int | None = Field(default=None, ge=1)
    min_steps: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    held_out: float = Field(default=0.0, ge=0, le=0.5)
    checks: int = Field(default=8, ge=1)
    patience: int | None = Field(default=None, ge=1)
    interpolations: int = Field(default=0, ge=0, le=15)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    focal_weight: float = Field(default=20.0, ge=0)
    dice_weight: float = Field(default=1.0, ge=0)
    iou_weight: float = Field(default=1.0, ge=0)
    focal_alpha: float = Field(default=0.25, ge=0, le=1)
    focal_gamma: float = Field(default=2.0, ge=0)
    dice_smooth: float = Field(default=1.0, ge=0)
    box_share: float = Field(default=0.5, ge=0, le=1)
    box_jitter: float = Field(default=0.1, ge=0)
    jitter_limit: float = Field(default=20 / 1024, ge=0)
    views: str = NONE
    mix: float = Field(default=0.0, ge=0)
    compiled: bool = False

    @field_validator("views")
    @classmethod
    def _known_views(cls, text: str) -> str:
        return VIEW_SEPARATOR.join(view.name for view in parse_views(text, VIEW_SEPARATOR)) or NONE

    @model_validator(mode="after")
    def _few_sizes(self) -> TrainingOptions:
        if self.compiled and self.masks_per_image != 1:
            raise ValueError(
                "compiled=true needs masks_per_image=1: every new size of batch is compiled anew"
            )
        return self

    @model_validator(mode="after")
    def _reachable(self) -> TrainingOptions:
        if self.min_steps and self.max_steps and self.min_steps > self.max_steps:
            raise ValueError(f"min_steps={self.min_steps} is more than max_steps={self.max_steps}")
        for name in ("patience", "interpolations"):
            if getattr(self, name) and not self.held_out:
                raise ValueError(f"{name} needs images to look at: give held_out, e.g. 0.2")
        return self

    def steps(self, visits: int) -> int:
        """Optimiser steps of a fit.

        Args:
            visits: of images in an epoch.
        """
        wanted = max(self.epochs * -(-visits // self.batch_size), self.min_steps or 0)
        return min(wanted, self.max_steps or wanted)

    @model_serializer(mode="wrap")
    def _plain(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later options that are not used: what is named by the hash of its options keeps its name."""
        data: dict[str, Any] = serialise(self)
        return {key: value for key, value in data.items() if key not in LATER or value != LATER[key]}
