"""Prompts of every form in one batch, as SAM's prompt encoder counts their tokens; and masks at an image's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from casam_cache.geometry import Geometry

NOT_A_POINT, BACKGROUND, FOREGROUND, BOX_FIRST, BOX_SECOND = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class Prompts:
    """P prompts of one form, in input pixels (`Geometry.to_input`).

    Attributes:
        boxes: float32 (P, 4) as x0, y0, x1, y1, or None.
        points: float32 (P, n, 2) as x, y, or None.
        labels: int (P, n): 1 foreground, 0 background, -1 not a point.
        masks: float32 (P, 1, 4g, 4g) low-res logits of an earlier pass, or None.
        count: P where nothing else says it ("no prompt").
        packed: points hold one row a token, box corners (labels 2 and 3) and SAM's padding point included.
            This is what `concatenate_prompts` makes so that boxes and points can share a batch.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None
    count: int = 1
    packed: bool = False

    def __post_init__(self) -> None:
        if (self.points is None) != (self.labels is None):
            raise ValueError("points need labels, and labels need points")
        if (
            self.points is not None
            and self.labels is not None
            and self.points.shape[:-1] != self.labels.shape
        ):
            raise ValueError(
                f"points {tuple(self.points.shape)} and labels {tuple(self.labels.shape)} do not match"
            )
        if len({len(given) for given in (self.boxes, self.points, self.masks) if given is not None}) > 1:
            raise ValueError("boxes, points and masks must be as many")

    def __len__(self) -> int:
        return next(
            (len(given) for given in (self.points, self.boxes, self.masks) if given is not None), self.count
        )

    @property
    def token_count(self) -> int:
        """Sparse tokens of a prompt: points, the padding point SAM adds where there is no box, corners."""
        points = 0 if self.points is None else self.points.shape[1]
        if self.packed:
            return points
        return points + (2 if self.boxes is not None else int(self.points is not None))

    def to(self, device: torch.device | str) -> Prompts:
        boxes, points, labels, masks = (
            None if tensor is None else tensor.to(device)
            for tensor in (self.boxes, self.points, self.labels, self.masks)
        )
        return replace(self, boxes=boxes, points=points, labels=labels, masks=masks)

    def pack(self) -> Prompts:
        """The same prompts with one point row a token, in upstream's order: points, padding, corners."""
        if self.packed or (self.boxes is None and self.points is None):
            return self
        coordinates: list[Tensor] = []
        labels: list[Tensor] = []
        if self.points is not None and self.labels is not None:
            coordinates.append(self.points.float())
            labels.append(self.labels.long())
            if self.boxes is None:
                coordinates.append(self.points.new_zeros(len(self), 1, 2, dtype=torch.float32))
                labels.append(self.labels.new_full((len(self), 1), NOT_A_POINT, dtype=torch.long))
        if self.boxes is not None:
            coordinates.append(self.boxes.float().reshape(-1, 2, 2))
            corners = torch.tensor([BOX_FIRST, BOX_SECOND], device=self.boxes.device)
            labels.append(corners.expand(len(self), 2))
        return Prompts(
            points=torch.cat(coordinates, 1), labels=torch.cat(labels, 1), masks=self.masks, packed=True
        )


def concatenate_prompts(several: Sequence[Prompts]) -> Prompts:
    """One batch of prompts of several forms, equal to running each on its own.

    Raises:
        ValueError: their token counts differ (SAM has no masked padding token: `decode_prompts` groups them
        instead),
            or only some have a mask prompt.
    """
    packed = [prompts.pack() for prompts in several]
    if len({prompts.token_count for prompts in packed}) > 1:
        raise ValueError(f"prompts of {sorted({p.token_count for p in packed})} tokens cannot share a batch")
    if len({prompts.masks is None for prompts in packed}) > 1:
        raise ValueError("prompts with and without a mask cannot share a batch")
    points = [p.points for p in packed if p.points is not None]
    labels = [p.labels for p in packed if p.labels is not None]
    masks = [p.masks for p in packed if p.masks is not None]
    return Prompts(
        points=torch.cat(points) if points else None,
        labels=torch.cat(labels) if labels else None,
        masks=torch.cat(masks) if masks else None,
        count=sum(len(p) for p in packed),
        packed=bool(points),
    )


def upscale(low_res: Tensor, geometry: Geometry) -> Tensor:
    """Sam.postprocess_masks: logits at the image's own size.

    Args:
        low_res: float32 (P, 4g, 4g) logits of prompts on one image.
        geometry: how that image was put into the input.

    Returns:
        float32 logits (P, H, W); a mask is where they are above 0.
    """
    side = geometry.image_size
    full = F.interpolate(low_res[:, None], (side, side), mode="bilinear", align_corners=False)
    valid = full[..., : geometry.input_height, : geometry.input_width]
    size = (geometry.height, geometry.width)
    return F.interpolate(valid, size, mode="bilinear", align_corners=False)[:, 0]
