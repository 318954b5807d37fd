"""SAM's attention with decomposed relative positions, in forms that compute the same function.

With q, k, v of one head, s = head dim ** -0.5, query cell (i, j) and key cell (a, b) of an h x w grid, every
form computes softmax(logits) v with upstream's

    logits = s q.k + q.R_h[i, a] + q.R_w[j, b]                                                       (1)

where the last two terms use the *unscaled* q. They differ in what they write to memory:

- "materialised": upstream's own chain of products and softmax; the reference the others are measured against.
- "bias": the last two terms of (1) as the additive mask of a fused attention, in pieces small enough to stay
  in the cache. The fastest on CPUs.
- "cudnn": the same, by cuDNN's kernel where the device has it.
- "flex": FlexAttention, which adds the two terms to each logit inside its kernel and writes neither them nor logits.
- "augmented": with q' = [s q, q.R_h[i], q.R_w[j]] and k' = [k, onehot(a), onehot(b)], (1) is q'.k', so that
  a fused attention needs no mask, which flash kernels do not take. Longer heads, no bias to write or read.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from casam_cache.backbones.compiling import compile_fixed
from casam_cache.backbones.upstream import get_rel_pos
from casam_cache.errors import unknown_name

AUTO = "auto"
_MULTIPLE = 8  # flash kernels take head dims that are multiples of 8
_BIAS_BYTES = {"cpu": 16 * 2**20}  # of one piece of the bias: within a last-level cache
_BIAS_BYTES_ELSEWHERE = 2**30


@dataclass(frozen=True)
class Positions:
    """The relative positions of one block, gathered once, since its weights are frozen.

    Attributes:
        rows: R_h, float32 (h, h, d): for each query row and each key row.
        columns: R_w, float32 (w, w, d).
        cells: float32 (h * w, h + w + padding): for each key cell onehot(row), onehot(column), and zeros up
            to a multiple of 8.
    """

    rows: Tensor
    columns: Tensor
    cells: Tensor

    @classmethod
    def of(cls, attention: Any, height: int, width: int) -> Positions:
        """Of upstream's Attention module on a grid of that size (a window's, for windowed blocks)."""
        rows = get_rel_pos(height, height, attention.rel_pos_h.detach())
        columns = get_rel_pos(width, width, attention.rel_pos_w.detach())
        padding = -(rows.shape[-1] + height + width) % _MULTIPLE
        device = rows.device
        row, column = torch.eye(height, device=device), torch.eye(width, device=device)
        cells = torch.cat([row.repeat_interleave(width, 0), column.repeat(height, 1)], dim=1)
        return cls(rows, columns, F.pad(cells, (0, padding)))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the grid or window, in cells."""
        return self.rows.shape[0], self.columns.shape[0]

    def terms(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """q.R_h and q.R_w of equation (1).

        Args:
            query: (n, heads, h * w, d), unscaled.

        Returns:
            (n, heads, h, w, h) and (n, heads, h, w, w): for each query cell, each key row and key column.
        """
        cells = query.unflatten(2, self.size)
        return (
            torch.einsum("nhrcd,rkd->nhrck", cells, self.rows),
            torch.einsum("nhrcd,ckd->nhrck", cells, self.columns),
        )


Form = Callable[[Tensor, Tensor, Tensor, Positions], Tensor]
"""(query, key, value, positions) -> softmax of (1) times value; tensors (n, heads, h * w, d), last stride 1."""


def materialised(query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
    """Upstream's chain: the whole matrix of logits, and its softmax."""
    by_row, by_column = positions.terms(query)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    cells = logits.unflatten(3, positions.size).unflatten(2, positions.size)
    logits = (cells + by_row[..., :, None] + by_column[..., None, :]).view_as(logits)
    return logits.softmax(dim=-1) @ value


def biased(query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
    """Fused attention with the position terms as its additive mask, piece by piece."""
    by_row, by_column = positions.terms(query)
    count, heads, length, size = query.shape
    width = positions.size[1]
    # Laid out as (n, h * w, heads, d), which is what the projection after it reads.
    heard = value.new_empty(count, length, heads, size).transpose(1, 2)
    for items, some, rows in _pieces(count, heads, positions.size, by_row):
        here = slice(rows.start * width, rows.stop * width)
        bias = by_row[items, some, rows, :, :, None] + by_column[items, some, rows, :, None, :]
        heard[items, some, here] = F.scaled_dot_product_attention(
            query[items, some, here],
            key[items, some],
            value[items, some],
            attn_mask=bias.flatten(4, 5).flatten(2, 3),
        )
    return heard


def biased_by_cudnn(query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
    """`biased`, where cuDNN may choose before others; elsewhere plain products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH], set_priority=True):
        return biased(query, key, value, positions)


def flexible(query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
    """FlexAttention with the position terms as its score modification; compiled on CUDA only."""
    by_row, by_column = (terms.flatten(2, 3) for terms in positions.terms(query))
    width = positions.size[1]

    def add(score: Tensor, item: Tensor, head: Tensor, at: Tensor, to: Tensor) -> Tensor:
        return score + by_row[item, head, at, to // width] + by_column[item, head, at, to % width]

    with warnings.catch_warnings():  # it warns of what it does on a CPU, where it is only a reference
        warnings.simplefilter("ignore", UserWarning)
        heard: Tensor = _flex(query.device.type)(query, key, value, score_mod=add)
    return heard


@functools.cache
def _flex(kind: str) -> Any:
    from torch.nn.attention import flex_attention as module

    run: Any = module.flex_attention
    return compile_fixed(run, fullgraph=True) if kind == "cuda" else run


def _pieces(
    count: int, heads: int, size: tuple[int, int], like: Tensor
) -> Iterator[tuple[slice, slice, slice]]:
    """Ranges of items, heads and query rows whose bias is small enough: whole items if they are, else heads of
    one, else rows of one head.
    """
    height, width = size
    allowed = _BIAS_BYTES.get(like.device.type, _BIAS_BYTES_ELSEWHERE)
    rows_allowed = max(1, allowed // (width * height * width * like.element_size()))
    rows = min(height, rows_allowed)
    some = min(heads, max(1, rows_allowed // height))
    items = min(count, max(1, rows_allowed // (height * heads)))
    for item in range(0, count, items):
        for head in range(0, heads, some):
            for row in range(0, height, rows):
                yield (
                    slice(item, item + items),
                    slice(head, head + some),
                    slice(row, min(row + rows, height)),
                )


def augmented(query: Tensor, key: Tensor, value: Tensor, positions: Positions) -> Tensor:
    """Fused attention without a mask over heads lengthened by the position terms."""
    by_row, by_column = positions.terms(query)
    size, more = query.shape[-1], positions.cells.shape[-1]
    longer = more - sum(positions.size)
    terms = by_row.flatten(2, 3), F.pad(by_column.flatten(2, 3), (0, longer))
    cells = positions.cells.to(key.dtype).expand(*key.shape[:2], -1, -1)
    heard = F.scaled_dot_product_attention(
        torch.cat([query * size**-0.5, *terms], dim=-1),
        torch.cat([key, cells], dim=-1),
        F.pad(value, (0, more)),  # fused kernels want values as long as keys
        scale=1.0,
    )
    return heard[..., :size]


FORMS: dict[str, Form] = {
    "augmented": augmented, "bias": biased, "cudnn": biased_by_cudnn, "flex": flexible, "materialised": materialised,
}  # fmt: skip


CUDA_FORMS = ("cudnn", "flex")


def choose_form(name: str, device: torch.device) -> str:
    """The name of a form; "auto" is "augmented" on CUDA, where flash attention takes no mask, else "bias".

    Raises:
        OptionError: for an unknown name.
    """
    if name == AUTO:
        return "augmented" if device.type == "cuda" else "bias"
    if name not in FORMS:
        raise unknown_name("attention", name, [AUTO, *FORMS])
    return name
