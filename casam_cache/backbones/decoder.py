"""SAM's prompt encoder and mask decoder, batched over images with one or more prompts each.

`segment_anything`'s MaskDecoder.forward repeats *one* image for all prompts, so batches of images need a
loop. Here each prompt says which image it belongs to. The modules and the arithmetic are upstream's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from casam_cache.backbones.sam import Backbone
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
        """P, the number of prompts."""
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
        """The same prompts on another device."""
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


def embed_prompts(backbone: Backbone, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """SAM's PromptEncoder, without its boolean indexing (which makes a GPU wait for the host).

    Positions are encoded in float32 also under autocast: bf16 has not the digits for their phases.

    Returns:
        sparse: float32 (P, n, C), n = `prompts.token_count`.
        dense: float32 (P, C, g, g); without mask prompts a view of one C-vector that occupies no memory.
    """
    encoder: Any = backbone.prompt_encoder
    architecture = backbone.architecture
    packed = prompts.pack()
    count = len(packed)
    with torch.autocast(backbone.device.type, enabled=False):
        if packed.points is None or packed.labels is None:
            sparse = torch.empty((count, 0, architecture.channels), device=backbone.device)
        else:
            side = architecture.image_size
            position = encoder.pe_layer.forward_with_coords(packed.points.float() + 0.5, (side, side))
            kinds = [encoder.not_a_point_embed.weight, *(e.weight for e in encoder.point_embeddings)]
            labels = packed.labels.long()
            position = torch.where((labels == NOT_A_POINT)[..., None], torch.zeros_like(position), position)
            sparse = position + torch.cat(kinds)[labels - NOT_A_POINT]
        if packed.masks is not None:
            return sparse, encoder.mask_downscaling(packed.masks.float())
        grid = architecture.grid
        return sparse, encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(count, -1, grid, grid)


def decode(
    backbone: Backbone,
    image_embeddings: Tensor,
    image_index: Tensor | None,
    sparse: Tensor,
    dense: Tensor,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """SAM's MaskDecoder over P prompts on B images.

    Args:
        backbone: whose mask decoder to use.
        image_embeddings: (B, C, g, g).
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        sparse: (P, n, C).
        dense: (P, C, g, g), an expanded view where there is no mask prompt.
        multimask: the three masks for ambiguous prompts instead of the single one.

    Returns:
        low_res: float32 logits (P, 3 or 1, 4g, 4g).
        iou: float32 (P, 3 or 1), the decoder's own estimate of each mask's IoU.
    """
    decoded = decode_further(backbone, image_embeddings, image_index, sparse, dense, multimask)
    return decoded.low_res, decoded.iou


@dataclass(frozen=True)
class Decoded:
    """What SAM's mask decoder gives, and what a decoder built on it reads.

    Attributes:
        low_res: float32 logits (P, 3 or 1, 4g, 4g).
        iou: float32 (P, 3 or 1).
        upscaled: (P, C / 8, 4g, 4g), the image features that mask tokens are multiplied with.
        further: (P, m, C), the further tokens after the transformer.
    """

    low_res: Tensor
    iou: Tensor
    upscaled: Tensor
    further: Tensor


def decode_further(
    backbone: Backbone,
    image_embeddings: Tensor,
    image_index: Tensor | None,
    sparse: Tensor,
    dense: Tensor,
    multimask: bool,
    further: Tensor | None = None,
) -> Decoded:
    """SAM's MaskDecoder with m further output tokens beside its own.

    Gradients flow to the embeddings, the prompt embeddings, and to decoder parameters that ask for them.
    Under bf16 autocast normalisation and the final product of mask tokens and pixels stay float32.

    Args:
        backbone: whose mask decoder to use.
        image_embeddings: (B, C, g, g).
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        sparse: (P, n, C).
        dense: (P, C, g, g), an expanded view where there is no mask prompt.
        multimask: the three masks for ambiguous prompts instead of the single one.
        further: (m, C), output tokens that stand behind SAM's own.
    """
    decoder: Any = backbone.mask_decoder
    count = len(sparse)
    output = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    own = torch.cat(output if further is None else [*output, further])
    tokens = torch.cat([own.expand(count, -1, -1), sparse], dim=1)
    if image_index is None and len(image_embeddings) != count:
        raise ValueError(f"{count} prompts on {len(image_embeddings)} images need an image_index")
    source = image_embeddings if image_index is None else image_embeddings.index_select(0, image_index)
    source = source.float() + dense
    channels, rows, columns = source.shape[1:]

    queries, keys = decoder.transformer(source, backbone.dense_pe(), tokens)
    upscaled = normalise_in_float(
        decoder.output_upscaling, keys.transpose(1, 2).reshape(count, channels, rows, columns)
    )
    chosen = range(1, decoder.num_mask_tokens) if multimask else range(1)
    hyper = torch.stack([decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in chosen], dim=1)
    with torch.autocast(source.device.type, enabled=False):
        low_res = (hyper.float() @ upscaled.float().flatten(2)).unflatten(2, upscaled.shape[2:])
    iou = decoder.iou_prediction_head(queries[:, 0])[:, chosen.start : chosen.stop]
    behind = queries[:, 1 + decoder.num_mask_tokens : len(own)]
    return Decoded(low_res, iou.float(), upscaled, behind)


def decode_prompts(
    backbone: Backbone,
    image_embeddings: Tensor,
    image_indexes: Sequence[Tensor | None],
    several: Sequence[Prompts],
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Embed and decode prompts of any mixture of forms: one pass for each number of tokens.

    Args:
        backbone: whose prompt encoder and mask decoder to use.
        image_embeddings: (B, C, g, g).
        image_indexes: for each group of prompts, the image of each of its prompts (see `decode`).
        several: the groups of prompts.
        multimask: see `decode`.

    Returns:
        low_res (P, 3 or 1, 4g, 4g) and iou (P, 3 or 1), the groups one after the other.
    """
    forms = [(prompts.token_count, prompts.masks is not None) for prompts in several]
    low_res: list[Tensor | None] = [None] * len(several)
    iou: list[Tensor | None] = [None] * len(several)
    for form in dict.fromkeys(forms):
        members = [i for i, own in enumerate(forms) if own == form]
        sparse, dense = embed_prompts(backbone, concatenate_prompts([several[i] for i in members]))
        index = torch.cat([_index(image_indexes[i], len(several[i]), backbone.device) for i in members])
        masks, scores = decode(backbone, image_embeddings, index, sparse, dense, multimask)
        sizes = [len(several[i]) for i in members]
        for i, own_masks, own_scores in zip(members, masks.split(sizes), scores.split(sizes), strict=True):
            low_res[i], iou[i] = own_masks, own_scores
    return torch.cat([m for m in low_res if m is not None]), torch.cat([s for s in iou if s is not None])


def _index(stated: Tensor | None, count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device) if stated is None else stated


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


def normalise_in_float(sequence: nn.Module, features: Tensor) -> Tensor:
    """Run an nn.Sequential with float32 input to each of its modules.

    A no-op in float32. Under autocast convolutions still run in bf16, but SAM's LayerNorm2d, which is written
    out in means and powers that autocast does not know as a normalisation, gets float32.
    """
    for module in sequence.children():
        features = module(features.float())
    return features
