"""Upstream's ViT blocks prepared for a frozen encoder: the same function with less work.

Position tables are gathered once, attention is one of `attention.FORMS`, and windows are padded *after* the
linear layer. Upstream pads its input with zeros, so that the queries, keys and values of pad cells are the
layer's bias. They take part in the windows' softmax, and must; multiplying zeros to get them need not happen,
nor need what they hear be projected, since it is cut off again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from casam_cache.backbones.attention import FORMS, Positions


class PreparedBlock:
    """One frozen block of `segment_anything`'s ImageEncoderViT; it holds the block's own weights.

    Args:
        block: upstream's Block, on its device.
        grid: cells g a side of the grid.
        form: a name of `attention.FORMS`.
    """

    def __init__(self, block: Any, grid: int, form: str) -> None:
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.qkv, self.proj = block.attn.qkv, block.attn.proj
        self.heads: int = block.attn.num_heads
        self.window: int = block.window_size
        side = self.window or grid
        self.positions = Positions.of(block.attn, side, side)
        self._form = FORMS[form]

    def project(self, grid: Tensor) -> Tensor:
        """Queries, keys and values of all cells: (B, g, g, width) -> (B, g, g, 3 * width)."""
        return self.qkv(self.norm1(grid))

    def forward(self, grid: Tensor, projected: Tensor) -> Tensor:
        """What upstream's block computes.

        Args:
            grid: (B, g, g, width), the residual stream.
            projected: `project(grid)`.

        Returns:
            (B, g, g, width).
        """
        grid = grid + self.proj(self._attend(projected))
        return grid + self.mlp(self.norm2(grid))

    def forward_tokens(self, tokens: Tensor, projected: Tensor) -> Tensor:
        """Extra tokens through the block, as `FrozenEncoder` defines it.

        Args:
            tokens: (B, T, width).
            projected: `project(grid)` of the block's input.

        Returns:
            (B, T, width).
        """
        own = self._by_head(self.qkv(self.norm1(tokens)))
        image = self._by_head(projected.flatten(1, 2))
        key, value = (torch.cat([image[i], own[i]], dim=2) for i in (1, 2))
        heard = F.scaled_dot_product_attention(own[0], key, value)
        tokens = tokens + self.proj(heard.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, projected: Tensor) -> Tensor:
        """(B, g, g, 3 * width) -> (B, g, g, width)."""
        grid = projected.shape[1]
        if self.window:
            projected = to_windows(projected, self.window, self.qkv.bias.to(projected.dtype))
        query, key, value = self._by_head(projected.flatten(1, 2)).unbind(0)
        heard = self._form(query, key, value, self.positions)
        heard = heard.transpose(1, 2).flatten(2).unflatten(1, self.positions.size)
        return from_windows(heard, self.window, grid) if self.window else heard

    def _by_head(self, projected: Tensor) -> Tensor:
        """(n, length, 3 * width) -> (3, n, heads, length, d)."""
        return projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


def prepare_blocks(encoder: Any, grid: int, form: str) -> list[PreparedBlock]:
    """The blocks of `segment_anything`'s ImageEncoderViT, in its order."""
    return [PreparedBlock(block, grid, form) for block in encoder.blocks]


def to_windows(grid: Tensor, window: int, padding: Tensor) -> Tensor:
    """Cut a grid into windows, those at the bottom and right padded.

    Args:
        grid: (B, g, g, channels).
        window: cells a side of a window.
        padding: (channels,), what pad cells hold.

    Returns:
        (B * number of windows, window, window, channels), in upstream's order.
    """
    batch, side, _, channels = grid.shape
    number, rest = -(-side // window), side % window
    windows = grid.new_empty(batch, number, number, window, window, channels)
    if rest:
        windows[:, -1, :, rest:] = padding
        windows[:, :, -1, :, rest:] = padding
    for inside, outside in _matches(side, window):
        windows[inside] = _cut(grid[outside], inside)
    return windows.flatten(0, 2)


def from_windows(windows: Tensor, window: int, side: int) -> Tensor:
    """The inverse of `to_windows`: (B * number of windows, window, window, channels) -> (B, g, g, channels)."""
    number, channels = -(-side // window), windows.shape[-1]
    windows = windows.unflatten(0, (-1, number, number))
    grid = windows.new_empty(len(windows), side, side, channels)
    for inside, outside in _matches(side, window):
        _cut(grid[outside], inside).copy_(windows[inside])
    return grid


def _matches(side: int, window: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Which cells of which windows (B, rows, columns, window, window) are which part of the grid (B, g, g)."""
    full, rest = divmod(side, window)
    spans = [(slice(0, full), slice(0, window), slice(0, full * window))] if full else []
    if rest:
        spans.append((slice(full, full + 1), slice(0, rest), slice(full * window, side)))
    every = slice(None)
    for windows_down, cells_down, down in spans:
        for windows_across, cells_across, across in spans:
            yield (every, windows_down, windows_across, cells_down, cells_across), (every, down, across)


def _cut(part: Tensor, inside: tuple[slice, ...]) -> Tensor:
    """A view of (B, rows * cells, columns * cells, channels) as (B, rows, columns, cells, cells, channels)."""
    _, rows, columns, down, across = inside
    cells = part.unflatten(1, (rows.stop - rows.start, down.stop))
    return cells.unflatten(3, (columns.stop - columns.start, across.stop)).transpose(2, 3)
