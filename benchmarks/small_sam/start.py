"""Start values of the small SAM: what a long training would find first is put in, so that a short one can begin there.

The encoder starts as a linear view of each patch's low frequencies. The decoder starts as an algorithm: tokens read the
image near their place, pixels ask which corners they lie beyond and which token they look like. Half of the channels
carry places, half carry what things look like; training is free to change all of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

ANCHOR = 6.0


def place_channels(channels: int) -> Tensor:
    """Bool (C,): the channels in which the positional encoding says something at the start, half of all."""
    along, half = channels // 8, channels // 2
    place = torch.zeros(channels, dtype=torch.bool)
    place[: 2 * along] = place[half : half + 2 * along] = True
    return place


@torch.no_grad()
def start_encoder(encoder: Any) -> None:
    """A cosine basis for patches, heads that look near first, and an embedding that is linear in the patch.

    Two channels of constant value keep layer norms from dividing by the contrast; blocks start small.
    """
    _start_patches(encoder.patch_embed.proj)
    nn.init.normal_(encoder.pos_embed, std=0.02)
    for block in encoder.blocks:
        _start_reach(block.attn)
        for last in (block.attn.proj, block.mlp.lin2):
            last.weight.mul_(0.3)
            last.bias.zero_()
    narrow, _, smooth, norm = encoder.neck
    channels = narrow.weight.shape[0]
    width = narrow.weight.shape[1]
    narrow.weight.mul_(0.05)
    smooth.weight.mul_(0.05)
    for channel in range(channels):
        source = channel if channel < channels - 2 else width - channels + channel
        narrow.weight[channel, source] += 1
        smooth.weight[channel, channel, 1, 1] += 1
    norm.weight[place_channels(channels)] = 0.3  # or places would not be heard beside them


def _start_patches(projection: Any) -> None:
    width, _, size, _ = projection.weight.shape
    steps = torch.arange(size)
    basis = torch.cos(math.pi / size * (steps[None, :] + 0.5) * steps[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]]) / math.sqrt(3)
    waves = sorted(
        (u + v + (4 if c else 0), c, u, v) for c in range(3) for u in range(size) for v in range(size)
    )
    for channel, (_, c, u, v) in enumerate(waves[: width - 2]):
        gain = 0.15 * min(1.0 + u + v, 6.0)
        projection.weight[channel] = gain * colours[c][:, None, None] * basis[u][:, None] * basis[v][None, :]
    projection.weight[-2:] = 0
    projection.bias.zero_()
    projection.bias[-2], projection.bias[-1] = ANCHOR, -ANCHOR


def _start_reach(attention: Any) -> None:
    """Each head but one looks at its surroundings, the next head twice as far."""
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
            table[:, own] = -far.clamp(max=(4 * spread) ** 2) / (2 * spread**2) / (3.0 * math.sqrt(part))


@torch.no_grad()
def start_decoder(prompt_encoder: Any, decoder: Any) -> None:
    """Frequencies along the axes from nearly linear to fine, and attentions that start as the algorithm above."""
    table = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    half = table.shape[1]
    along, place = half // 4, place_channels(2 * half)
    constant = torch.zeros(2 * half)
    constant[half + 2 * along :] = 1.0  # the cosine of a frequency of zero
    table.zero_()
    table[0, :along] = table[1, along : 2 * along] = torch.logspace(-0.9, 0.65, along)
    prompt_encoder.no_mask_embed.weight.zero_()
    for part in prompt_encoder.point_embeddings:
        part.weight.mul_(0.5)
        part.weight[:, ~place] = 0
    for part in (prompt_encoder.not_a_point_embed, decoder.iou_token, decoder.mask_tokens):
        part.weight.mul_(0.3)
        part.weight[:, ~place] = constant[~place]
    transformer = decoder.transformer
    gathering = [layer.cross_attn_token_to_image for layer in transformer.layers]
    for attention in [*gathering, transformer.final_attn_token_to_image]:
        _start_near(attention, along, half)
        _hand_on(attention, 1.0)
    for number, layer in enumerate(transformer.layers):
        answer = layer.cross_attn_image_to_token
        _start_edges(answer, along, half)
        _start_alike(answer, place, constant)
        answer.out_proj.weight.mul_(0.5)
        answer.out_proj.weight[~place] *= 0.2
        _start_own(layer.self_attn)
        _hand_on(layer.self_attn, 0.5 if number else 1.0)
    for head in decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.mul_(0.1)
        head.layers[-1].bias.zero_()


def _head_size(attention: Any) -> int:
    size: int = attention.q_proj.weight.shape[0] // attention.num_heads
    return size


def _hand_on(attention: Any, gain: float) -> None:
    """What the attention hands on is what it read: value and output projections are each other's transpose."""
    inner, width = attention.v_proj.weight.shape
    basis = torch.linalg.qr(torch.randn(width, inner))[0]
    attention.v_proj.weight.copy_(basis.t())
    attention.out_proj.weight.copy_(gain * basis)
    attention.v_proj.bias.zero_()
    attention.out_proj.bias.zero_()


def _start_own(attention: Any) -> None:
    """Half of the heads attend to the token itself, the others to all tokens alike."""
    rows = attention.num_heads // 2 * _head_size(attention)
    attention.q_proj.weight[:rows].mul_(2.5)
    attention.k_proj.weight[:rows] = attention.q_proj.weight[:rows]
    attention.q_proj.weight[rows:].mul_(0.1)
    attention.q_proj.bias.zero_()
    attention.k_proj.bias.zero_()


def _start_near(attention: Any, along: int, half: int) -> None:
    """Every head compares places: its sum of cos f (pixel - token) is largest where they meet."""
    size = _head_size(attention)
    for part in (attention.q_proj, attention.k_proj):
        part.weight.mul_(0.1)
        part.bias.zero_()
        for head in range(attention.num_heads):
            for wave in range(size // 4):
                frequency = (head + 2 * wave + 1) % along
                for axis in range(2):
                    sine, row = axis * along + frequency, head * size + 4 * wave + 2 * axis
                    part.weight[row : row + 2] = 0
                    part.weight[row, sine] = part.weight[row + 1, half + sine] = 3.0


def _start_edges(attention: Any, along: int, half: int) -> None:
    """Half of the heads ask whether a pixel lies beyond a corner, along x and along y in turn.

    sin f (pixel - corner) is a product of a query and a key; a few frequencies of it, the lower the louder, rise like
    a step where a pixel passes a corner. Beyond the first corner, but not the second, is inside.
    """
    size = _head_size(attention)
    waves = size // 2
    for part in (attention.q_proj, attention.k_proj):
        part.bias.zero_()
        part.weight[: attention.num_heads // 2 * size] = 0.0
    for head in range(attention.num_heads // 2):
        axis, shift = head % 2, head // 2 % 2
        chosen = torch.linspace(min(1, along - 1), max(along - 2, 0), waves).round().long() + shift
        for wave, frequency in enumerate(chosen.clamp(max=along - 1).tolist()):
            sine = axis * along + frequency
            cosine = half + sine
            gain = math.sqrt(6 * math.sqrt(size) / (1 + wave))
            even, odd = head * size + 2 * wave, head * size + 2 * wave + 1
            if odd >= (head + 1) * size:
                continue
            attention.q_proj.weight[even, sine] = attention.q_proj.weight[odd, cosine] = gain
            attention.k_proj.weight[even, cosine] = gain
            attention.k_proj.weight[odd, sine] = -gain


def _start_alike(attention: Any, place: Tensor, constant: Tensor) -> None:
    """The other heads compare what pixels and tokens look like, in the channels without places."""
    first = attention.num_heads // 2 * _head_size(attention)
    rows = attention.q_proj.weight.shape[0] - first
    content = torch.nonzero(~place)[:, 0]
    most = max(rows, len(content))
    basis = 1.6 * torch.linalg.qr(torch.randn(most, most))[0][:rows, : len(content)]
    for part in (attention.q_proj, attention.k_proj):
        part.weight[first:] = 0
        part.weight[first:, content] = basis
        part.bias[first:] = -(part.weight[first:] @ constant)
