"""The small SAM under training: segment_anything's classes, one batched decode, SAM's losses, an appearance loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from prompts import PAD, Batch, Prompted
from torch import Tensor, nn
from torch.nn import functional

from casam_cache.backbones.architecture import PIXEL_MEAN, PIXEL_STD, Architecture
from casam_cache.datasets.scenes import LOOK_PARAMETERS, LOOKS

SMALL = Architecture(
    image_size=192, patch_size=8, width=128, depth=4, heads=4, window=8, global_blocks=(2,), channels=64,
    decoder_heads=4, decoder_mlp=256, iou_width=64,
)  # fmt: skip
APPEARANCE = LOOK_PARAMETERS + 6


class Sam(nn.Module):
    """Encoder, prompt encoder and decoder under the names of segment_anything's `Sam` state dict."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_encoder: Any = architecture.build_encoder()
        self.prompt_encoder: Any = architecture.build_prompt_encoder()
        self.mask_decoder: Any = architecture.build_mask_decoder()
        _start_local(self.image_encoder)
        _start_geometric(self.prompt_encoder, self.mask_decoder)

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

    def decode(self, embeddings: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, C, g, g), prompts (B, P, T, 2) -> logits (B*P, M, h, w) and predicted IoU (B*P, M)."""
        decoder = self.mask_decoder
        batch, channels, grid, _ = embeddings.shape
        count = points.shape[1]
        sparse = self.embed_prompts(points.flatten(0, 1), labels.flatten(0, 1))
        start = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([start.expand(batch * count, -1, -1), sparse], dim=1)
        dense = embeddings + self.prompt_encoder.no_mask_embed.weight[0][:, None, None]
        image = dense[:, None].expand(-1, count, -1, -1, -1).reshape(batch * count, channels, grid, grid)
        place = self.prompt_encoder.get_dense_pe()  # (1, C, g, g) broadcasts over prompts
        states, image = decoder.transformer(image, place, tokens)
        image = image.transpose(1, 2).reshape(batch * count, channels, grid, grid)
        fine = decoder.output_upscaling(image)
        heads = [head(states[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)]
        logits = torch.einsum("nmc,nchw->nmhw", torch.stack(heads, dim=1), fine)
        return logits, decoder.iou_prediction_head(states[:, 0])


def valid_part(valid: Tensor, side: int, full: int) -> Tensor:
    """Valid rows and columns (B, 2) of an input of `full` pixels -> float (B, side, side), one where image is."""
    edge = torch.arange(side, device=valid.device) * (full // side)
    rows, columns = edge[None, :] < valid[:, :1], edge[None, :] < valid[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).float()


def _start_local(encoder: Any) -> None:
    """Start values that spare a short training: a cosine basis for patches, heads that look near first."""
    weight = encoder.patch_embed.proj.weight
    width, _, size, _ = weight.shape
    steps = torch.arange(size)
    basis = torch.cos(math.pi / size * (steps[None, :] + 0.5) * steps[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]]) / math.sqrt(3)
    waves = sorted(
        (u + v + (4 if c else 0), c, u, v) for c in range(3) for u in range(size) for v in range(size)
    )
    with torch.no_grad():
        for channel, (_, c, u, v) in enumerate(waves[:width]):
            gain = 0.15 * min(1.0 + u + v, 6.0)
            weight[channel] = gain * colours[c][:, None, None] * basis[u][:, None] * basis[v][None, :]
        nn.init.normal_(encoder.pos_embed, std=0.02)
        for block in encoder.blocks:
            attention = block.attn
            head = attention.qkv.weight.shape[1] // attention.num_heads
            bias = attention.qkv.bias[: attention.num_heads * head].view(attention.num_heads, head)
            bias.zero_()
            reach = attention.rel_pos_h.shape[0] // 2
            far = (torch.arange(-reach, reach + 1).float() ** 2)[:, None]
            # All heads share the table, so each reads its own slice of it through its own bias.
            part = head // attention.num_heads
            for number in range(attention.num_heads - 1):
                own = slice(number * part, (number + 1) * part)
                spread = 0.8 * 2.0**number
                bias[number, own] = 3.0 / math.sqrt(part)
                for table in (attention.rel_pos_h, attention.rel_pos_w):
                    table[:, own] = (
                        -far.clamp(max=(4 * spread) ** 2) / (2 * spread**2) / (3.0 * math.sqrt(part))
                    )


def _start_geometric(prompt_encoder: Any, decoder: Any) -> None:
    """Start values by which prompts find their place: without them the first thousand steps predict empty masks.

    The fixed frequencies of the positional encoding go from nearly linear over the image to fine, most along the
    axes, as boxes lie; and the cross attentions start by comparing positions, queries and keys with equal weights.
    """
    table = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    total = table.shape[1]
    along = 3 * total // 8
    table.zero_()
    table[0, :along] = table[1, along : 2 * along] = torch.logspace(-1, 0.6, along)
    rest = total - 2 * along
    angle = torch.arange(rest) * math.pi / rest + 0.3
    length = torch.logspace(-0.8, 0.2, rest)[
        torch.arange(rest) * 5 % rest if rest % 5 else torch.arange(rest)
    ]
    table[0, 2 * along :], table[1, 2 * along :] = torch.cos(angle) * length, torch.sin(angle) * length
    transformer = decoder.transformer
    crossing = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        crossing += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    with torch.no_grad():
        for attention in crossing:
            attention.q_proj.weight.mul_(2.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.bias.zero_()
            attention.k_proj.bias.zero_()
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight.mul_(0.1)
            head.layers[-1].bias.zero_()


class Appearance(nn.Module):
    """Loss on the mean-pooled embedding that keeps global appearance in it; thrown away after training.

    The look's kind and parameters and the image's channel statistics are read off by one linear layer, and of all
    scenes of a batch the one with the same look should be the nearest.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.read = nn.Linear(channels, len(LOOKS) + APPEARANCE)
        self.sharpness = nn.Parameter(torch.tensor(0.0))

    def forward(
        self, embeddings: Tensor, valid: Tensor, batch: dict[str, Tensor], side: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Embeddings (B, C, g, g) -> loss and what of it is worth logging."""
        inside = valid_part(valid, embeddings.shape[-1], side)[:, None]
        pooled = (embeddings * inside).sum((2, 3)) / inside.sum((2, 3))
        read = self.read(pooled)
        kinds, numbers = read[:, : len(LOOKS)], read[:, len(LOOKS) :]
        kind = functional.cross_entropy(kinds, batch["looks"])
        number = functional.mse_loss(numbers, batch["appearance"])
        apart = (pooled[:, None] - pooled[None, :]).square().mean(-1) * self.sharpness.exp() * 10
        apart = apart + torch.eye(len(pooled), device=pooled.device) * 1e4
        partner = torch.arange(len(pooled), device=pooled.device) ^ 1
        pair = functional.cross_entropy(-apart, partner)
        right = (apart.argmin(1) == partner).float().mean()
        known = (kinds.argmax(1) == batch["looks"]).float().mean()
        return kind + number + pair, {"look": known, "pair": right, "appearance": number.detach()}


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
    sam: Sam, embeddings: Tensor, batch: dict[str, Tensor], focus: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """SAM's loss of the prompts on embeddings (B, C, g, g): the single mask, the best of three, and the IoU head.

    The single mask is compared where it is used, at the input's resolution: an object of two low-res pixels has no
    pixel there that is half its own, and yet an interpolated mask can be right. The IoU head learns on all masks:
    taught on the best of three alone, it does not know the others to be worse. `focus` weighs the focal loss beside
    dice: much of it, and masks of uncertain extent stay empty.
    """
    logits, predicted = sam.decode(embeddings, batch["points"], batch["labels"])
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


def step_loss(
    sam: Sam, appearance: Appearance, batch: dict[str, Tensor], focus: float, affinity: float
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step of everything: `prompt_loss`, the appearance loss and the affinity loss."""
    embeddings = sam.encode(batch["images"], batch["valid"])
    masks, numbers = prompt_loss(sam, embeddings, batch, focus)
    extra, seen = appearance(embeddings, batch["valid"], batch, batch["images"].shape[1])
    loss = masks + 0.08 * extra
    if affinity:
        low = functional.avg_pool2d(batch["targets"].float(), 2)
        alike = affinity_loss(embeddings, low)
        loss, seen = loss + affinity * alike, {**seen, "affinity": alike.detach()}
    return loss, {name: float(value.detach()) for name, value in {"loss": loss, **numbers, **seen}.items()}


def affinity_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """How badly an object's mean embedding tells its cells from those around it.

    The decoder must compare pixels with what a prompt points at, which it learns slowly from masks alone; this asks
    the encoder directly for embeddings that can be compared. Every object counts the same, and so do its inside and
    its surroundings (two cells around its box).

    Args:
        embeddings: (B, C, g, g).
        targets: (B, P, h, w) in [0, 1], h and w multiples of g.
    """
    rows, columns = embeddings.shape[-2:]
    share = functional.adaptive_avg_pool2d(targets, (rows, columns))  # (B, P, g, g)
    centred = embeddings - embeddings.mean((2, 3), keepdim=True)
    unit = functional.normalize(centred, dim=1)
    mean = functional.normalize(torch.einsum("bpij,bcij->bpc", share, centred), dim=-1)
    logits = 8 * (torch.einsum("bpc,bcij->bpij", mean, unit) - 0.4)
    touched = (share > 0).float()
    box = touched.amax(3, keepdim=True) * touched.amax(2, keepdim=True)
    near = functional.max_pool2d(box, 5, stride=1, padding=2)
    cross = functional.binary_cross_entropy_with_logits(logits, share, reduction="none")
    inside, outside = share * near, (1 - share) * near
    parts = [(cross * part).sum((2, 3)) / (part.sum((2, 3)) + 0.1) for part in (inside, outside)]
    return (parts[0] + parts[1]).mean()


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


__all__ = [
    "APPEARANCE",
    "SMALL",
    "Appearance",
    "Sam",
    "at_size",
    "fitted",
    "prompt_loss",
    "resized",
    "step_loss",
    "to_tensors",
]
