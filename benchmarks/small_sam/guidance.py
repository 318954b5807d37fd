"""What a training says beside the masks: losses on what the encoder, the tokens and the pixels know on the way.

A decoder of random weights teaches an encoder nothing, and masks teach a decoder slowly where to look. So every step of
the algorithm that `start.py` begins with gets a loss of its own; the linear layers that they need are thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
from drawn_looks import LOOK_PARAMETERS
from model import Trace, valid_part
from start import place_channels
from torch import Tensor, nn
from torch.nn import functional

from casam_cache.datasets.phantoms.looks import LOOKS

APPEARANCE = LOOK_PARAMETERS + 6


class Guidance(nn.Module):
    """The linear layers and scales of the losses below."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.read = nn.Linear(channels, len(LOOKS) + APPEARANCE)
        self.sharpness = nn.Parameter(torch.tensor(0.0))
        self.scales = nn.Parameter(torch.zeros(2))
        self.figure = nn.Linear(channels // 8, 2)
        self.cells = nn.ModuleList([nn.Linear(channels, 1) for _ in range(depth)])
        self.content = ~place_channels(channels)

    def appearance(
        self, embeddings: Tensor, valid: Tensor, batch: dict[str, Tensor], side: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Keeps global appearance in the mean-pooled embedding: routers live on it.

        The look's kind and parameters and the image's channel statistics are read off by one linear layer, and of all
        scenes of a batch the one with the same look should be the nearest. Embeddings (B, C, g, g) -> loss and what of
        it is worth logging.
        """
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

    def separation(
        self, sam: Any, embeddings: Tensor, targets: Tensor, figure: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Objects should differ from their surroundings, in cells and in what the decoder makes of cells at 4g.

        There, things of any kind and boundaries should show as well: a mask may follow them before tokens compare.

        Args:
            sam: its `output_upscaling` sees the embeddings as a decoder would hand them on unchanged.
            embeddings: (B, C, g, g).
            targets: float (B, P, S, S), the objects.
            figure: float (B, 2, S, S), all things and all boundaries of the scene.
        """
        share = functional.adaptive_avg_pool2d(targets, embeddings.shape[-2:])
        cells = prototype_loss(embeddings[:, self.content], share, 2 * self.scales[0].exp())
        channels = embeddings.shape[1]
        plain = functional.layer_norm(embeddings.permute(0, 2, 3, 1), (channels,)).permute(0, 3, 1, 2)
        upscaled = sam.mask_decoder.output_upscaling(plain)
        share = functional.adaptive_avg_pool2d(targets, upscaled.shape[-2:])
        fine = prototype_loss(upscaled, share, 2 * self.scales[1].exp())
        seen = torch.einsum("kc,bchw->bkhw", self.figure.weight, upscaled) + self.figure.bias[:, None, None]
        things = functional.adaptive_avg_pool2d(figure[:, :1], seen.shape[-2:])
        goal = torch.cat([things, functional.adaptive_max_pool2d(figure[:, 1:], seen.shape[-2:])], dim=1)
        cross = functional.binary_cross_entropy_with_logits(seen, goal, reduction="none").flatten(2)
        parts = _mean(cross, goal.flatten(2)) + _mean(cross, 1 - goal.flatten(2))
        thing, edge = parts.mean(0)
        numbers = {"cells": cells, "fine": fine, "thing": thing, "edge": edge}
        return cells + fine + thing + edge, {name: value.detach() for name, value in numbers.items()}

    def attention(self, trace: Trace, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask tokens should read the object, the IoU token what surrounds it, and pixels should know where they are.

        Args:
            trace: of `Sam.decode`, N prompts.
            targets: float (N, S, S).
        """
        side = round(trace.pixels[0].shape[1] ** 0.5)
        share = functional.adaptive_avg_pool2d(targets[None], (side, side))
        around = ((1 - share) * near(share))[0].flatten(1)
        inside = share[0].flatten(1)
        known = (around.sum(1) > 0.5).float()[:, None]
        peak = inside / inside.amax(1, keepdim=True).clamp(min=1e-6)
        total = inside.new_zeros(())
        mass = total
        for reading in trace.reading:  # (N, heads, tokens, cells)
            mass = torch.einsum("nhtk,nk->nht", reading[:, :, 1:5], peak)
            other = torch.einsum("nhk,nk->nh", reading[:, :, 0], around)
            total = total - 0.1 * ((mass + 1e-4).log().mean() + ((other + 1e-4).log() * known).mean())
        for answer in trace.answers:  # (N, heads, cells, tokens)
            weight = answer[:, answer.shape[1] // 2 :].mean(1)
            own, others = (weight[..., 1:5].sum(-1) + 1e-4).log(), (weight[..., 0] + 1e-4).log()
            total = total - 0.2 * (_mean(own, inside) + _mean(others, around)).mean()
        for layer, pixels in zip(self.cells, trace.pixels, strict=True):
            cross = functional.binary_cross_entropy_with_logits(
                layer(pixels)[..., 0], inside, reduction="none"
            )
            parts = _mean(cross, inside) + _mean(cross, around) + 0.5 * _mean(cross, 1 - inside)
            total = total + 0.5 * parts.mean()
        return total, {"mass": mass.detach().mean(), "guidance": total.detach()}


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum(-1) / (weight.sum(-1) + 0.1)


def near(share: Tensor) -> Tensor:
    """One in and one cell around the box of what each object (B, P, h, w) touches, else zero."""
    touched = (share > 0).float()
    box = touched.amax(3, keepdim=True) * touched.amax(2, keepdim=True)
    return functional.max_pool2d(box, 3, stride=1, padding=1)


def prototype_loss(values: Tensor, share: Tensor, scale: Tensor) -> Tensor:
    """How badly the nearer of two means, an object's and its surroundings', tells which cells are the object's.

    Args:
        values: (B, C, h, w).
        share: (B, P, h, w) in [0, 1], how much of a cell is the object's. Objects of fewer than two cells are left out.
        scale: of the difference of squared distances, as a logit.
    """
    box = near(share)
    inside, outside = share * (share > 0.5), (1 - share) * (share < 0.5) * box
    known = (inside.sum((2, 3)) >= 2) & (outside.sum((2, 3)) >= 2)
    means = [
        torch.einsum("bphw,bchw->bpc", part, values) / part.sum((2, 3))[..., None].clamp(min=1e-3)
        for part in (inside, outside)
    ]
    line = means[0] - means[1]
    middle = ((means[0] + means[1]) / 2 * line).sum(-1)
    logits = scale * (torch.einsum("bpc,bchw->bphw", line, values) - middle[..., None, None])
    cross = functional.binary_cross_entropy_with_logits(logits, share, reduction="none").flatten(2)
    parts = _mean(cross, (share * box).flatten(2)) + _mean(cross, ((1 - share) * box).flatten(2))
    return (parts * known).sum() / known.sum().clamp(min=1)
