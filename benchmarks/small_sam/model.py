"""The small SAM under training: segment_anything's classes, one decode for many prompts, SAM's losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from prompts import PAD, Batch, Prompted
from start import start_decoder, start_encoder
from torch import Tensor, nn
from torch.nn import functional

from casam_cache.backbones.architecture import PIXEL_MEAN, PIXEL_STD, Architecture

SMALL = Architecture(
    image_size=192, patch_size=8, width=128, depth=3, heads=4, window=8, global_blocks=(1,), channels=64,
    decoder_heads=8, decoder_mlp=256, iou_width=64, decoder_downsample=1,
)  # fmt: skip


class Sam(nn.Module):
    """Encoder, prompt encoder and decoder under the names of segment_anything's `Sam` state dict."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_encoder: Any = architecture.build_encoder()
        self.prompt_encoder: Any
        self.mask_decoder: Any
        self.prompt_encoder, self.mask_decoder = architecture.build_decoder()
        start_encoder(self.image_encoder)
        start_decoder(self.prompt_encoder, self.mask_decoder)

    def encode(self, images: Tensor, valid: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) and valid rows, columns (B, 2) -> (B, C, g, g); padding is zero after normalising."""
        value = images.permute(0, 3, 1, 2).float()
        mean, std = (value.new_tensor(numbers)[:, None, None] for numbers in (PIXEL_MEAN, PIXEL_STD))
        inside = valid_part(valid, images.shape[1], images.shape[1])
        return self.image_encoder((value - mean) / std * inside[:, None])

    def embed_prompts(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points (N, T, 2) with labels (N, T) -> sparse embeddings (N, T, C), as PromptEncoder makes them."""
        encoder = self.prompt_encoder
        place = encoder.pe_layer.forward_with_coords(points + 0.5, encoder.input_image_size)
        table = torch.cat([part.weight for part in encoder.point_embeddings])
        known = place + table[labels.clamp(min=0)]
        return torch.where((labels == PAD)[..., None], encoder.not_a_point_embed.weight[0], known)

    def decode(
        self, embeddings: Tensor, points: Tensor, labels: Tensor, trace: Trace | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, C, g, g), prompts (B, P, T, 2) -> logits (B*P, M, h, w) and predicted IoU (B*P, M).

        segment_anything's decoder for several prompts an image: up to the first answer of pixels to tokens, pixels of
        one image are the same for all its prompts and are projected once. `trace`, where given, is filled.
        """
        decoder = self.mask_decoder
        batch, channels, grid, _ = embeddings.shape
        count = points.shape[1]
        sparse = self.embed_prompts(points.flatten(0, 1), labels.flatten(0, 1))
        first = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([first.expand(batch * count, -1, -1), sparse], dim=1)
        dense = embeddings + self.prompt_encoder.no_mask_embed.weight[0][:, None, None]
        pixels = dense.flatten(2).transpose(1, 2)  # (B, cells, C), and (B*P, cells, C) after the first layer
        place = self.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
        transformer, states = decoder.transformer, tokens
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                states = layer.self_attn(q=states, k=states, v=states)
            else:
                asking = states + tokens
                states = states + layer.self_attn(q=asking, k=asking, v=states)
            states = layer.norm1(states)
            read, weights = _attend(layer.cross_attn_token_to_image, states + tokens, pixels + place, pixels)
            _note(trace, "reading", weights)
            states = layer.norm2(states + read)
            states = layer.norm3(states + layer.mlp(states))
            read, weights = _attend(layer.cross_attn_image_to_token, pixels + place, states + tokens, states)
            _note(trace, "answers", weights)
            pixels = layer.norm4(_for_each(pixels, len(read)) + read)
            _note(trace, "pixels", pixels)
        read, weights = _attend(
            transformer.final_attn_token_to_image, states + tokens, pixels + place, pixels
        )
        _note(trace, "reading", weights)
        states = transformer.norm_final_attn(states + read)
        image = pixels.transpose(1, 2).reshape(batch * count, channels, grid, grid)
        fine = decoder.output_upscaling(image)
        heads = [head(states[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)]
        logits = torch.einsum("nmc,nchw->nmhw", torch.stack(heads, dim=1), fine)
        return logits, decoder.iou_prediction_head(states[:, 0])


@dataclass
class Trace:
    """What happened in the decoder, a list over attentions or layers, N prompts.

    Attributes:
        reading: weights (N, heads, tokens, cells) by which tokens read pixels: in each layer, and at the end.
        answers: weights (N, heads, cells, tokens) by which pixels read tokens, in each layer.
        pixels: what pixels (N, cells, C) are after each layer.
    """

    reading: list[Tensor] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)


def _note(trace: Trace | None, name: str, value: Tensor) -> None:
    if trace is not None:
        getattr(trace, name).append(value)


def _for_each(value: Tensor, count: int) -> Tensor:
    return value.repeat_interleave(count // len(value), 0) if len(value) < count else value


def _attend(attention: Any, asking: Tensor, asked: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """segment_anything's attention and its weights (N, heads, queries, keys); one side may be of B images, not N."""
    heads = attention.num_heads
    count = max(len(asking), len(asked))

    def split(value: Tensor) -> Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    query, key = split(attention.q_proj(asking)), split(attention.k_proj(asked))
    value = split(attention.v_proj(values))
    scale = 1 / math.sqrt(query.shape[-1])
    if len(key) < count:  # many prompts ask one image: one product an image
        together = query.unflatten(0, (len(key), -1)).transpose(1, 2).flatten(2, 3)
        weights = (together @ key.transpose(2, 3) * scale).softmax(-1)
        found = (weights @ value).unflatten(2, (count // len(key), -1)).transpose(1, 2).flatten(0, 1)
        weights = weights.unflatten(2, (count // len(key), -1)).transpose(1, 2).flatten(0, 1)
    else:
        weights = (_for_each(query, count) @ key.transpose(2, 3) * scale).softmax(-1)
        found = weights @ value
    return attention.out_proj(found.transpose(1, 2).flatten(2)), weights


def valid_part(valid: Tensor, side: int, full: int) -> Tensor:
    """Valid rows and columns (B, 2) of an input of `full` pixels -> float (B, side, side), one where image is."""
    edge = torch.arange(side, device=valid.device) * (full // side)
    rows, columns = edge[None, :] < valid[:, :1], edge[None, :] < valid[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).float()


def mask_losses(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, M, h, w) against targets (N, h, w) in [0, 1] -> focal, dice and true IoU, each (N, M).

    The focal loss is summed over pixels and divided by about twice the object's area rather than averaged over the
    image, and classes weigh the same: else a short run spends its first thousand steps predicting empty masks.
    """
    goal = target[:, None]
    chance = logits.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(logits, goal.expand_as(logits), reduction="none")
    right = chance * goal + (1 - chance) * (1 - goal)
    size = goal.sum((2, 3))
    focal = ((1 - right).square() * cross).sum((2, 3)) / (2 * size + 0.005 * goal[0, 0].numel())
    both = (chance * goal).sum((2, 3))
    dice = 1 - (2 * both + 1) / (chance.sum((2, 3)) + size + 1)
    with torch.no_grad():
        mine, true = logits > 0, goal >= 0.5
        iou = (mine & true).sum((2, 3)) / (mine | true).sum((2, 3)).clamp(min=1)
    return focal, dice, iou


def prompt_loss(
    sam: Sam, embeddings: Tensor, batch: dict[str, Tensor], focus: float, trace: Trace | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """SAM's loss of the prompts on embeddings (B, C, g, g): the single mask, the best of three, and the IoU head.

    The single mask is compared where it is used, at the input's resolution: an object of two low-res pixels has no
    pixel there that is half its own, and yet an interpolated mask can be right. The IoU head learns on all masks:
    taught on the best of three alone, it does not know the others to be worse. `focus` weighs the focal loss beside
    dice: much of it, and masks of uncertain extent stay empty.
    """
    logits, predicted = sam.decode(embeddings, batch["points"], batch["labels"], trace)
    whole = batch["targets"].flatten(0, 1).float()
    target = functional.avg_pool2d(whole[:, None], 2)[:, 0]
    with torch.no_grad():
        _, coarse, _ = mask_losses(logits[:, 1:, ::2, ::2].detach(), target[:, ::2, ::2])
        best = coarse.argmin(1) + 1
    rows = torch.arange(len(best), device=best.device)
    single = functional.interpolate(logits[:, :1], whole.shape[1:], mode="bilinear", align_corners=False)
    parts = (mask_losses(single, whole), mask_losses(logits[rows, best][:, None], target))
    focal, dice, iou = (torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
    boxed = batch["boxes"].flatten()
    weight = torch.stack([torch.ones_like(iou[:, 0]), torch.where(boxed, 0.2, 0.7)], dim=1)
    with torch.no_grad():
        mine, true = logits[:, 1:] > 0, target[:, None] >= 0.5
        several = (mine & true).sum((2, 3)) / (mine | true).sum((2, 3)).clamp(min=1)
    quality = functional.mse_loss(predicted, torch.cat([iou[:, :1], several], dim=1), reduction="none").sum(1)
    loss = (((focus * focal + dice) * weight).sum(1) + quality).mean()
    own = iou[:, 0]
    return loss, {
        "focal": focal[:, 0].mean(), "dice": dice[:, 0].mean(), "quality": quality.mean(),
        "box_iou": own[boxed].mean(), "point_iou": own[~boxed].mean(), "best_iou": iou[~boxed, 1].mean(),
    }  # fmt: skip


def to_tensors(batch: Batch | Prompted, device: torch.device) -> dict[str, Tensor]:
    """The batch's arrays as tensors on the device."""
    return {name: torch.from_numpy(value).to(device) for name, value in vars(batch).items()}


def fitted(value: Tensor, shape: torch.Size) -> Tensor:
    """A tensor for another input size: position embeddings (1, g, g, C) and relative positions (2g - 1, C) are
    interpolated to `shape`, what already has it stays as it is.
    """
    if value.shape == shape or value.ndim == 0:
        return value.clone()
    if value.ndim == 4:
        square = functional.interpolate(
            value.permute(0, 3, 1, 2), tuple(shape[1:3]), mode="bilinear", align_corners=False
        )
        return square.permute(0, 2, 3, 1).contiguous()
    line = functional.interpolate(value.t()[None], shape[0], mode="linear", align_corners=True)
    return line[0].t().contiguous()


def resized(state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every tensor `fitted` to its namesake in `like`."""
    return {name: fitted(value, like[name].shape) for name, value in state.items()}


def at_size(architecture: Architecture, side: int) -> Architecture:
    """The same architecture for another input size."""
    return replace(architecture, image_size=side)


__all__ = ["SMALL", "Sam", "Trace", "at_size", "fitted", "prompt_loss", "resized", "to_tensors", "valid_part"]
