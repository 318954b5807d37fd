"""How much arithmetic an image costs the encoder: the floor that timings are compared with. Needs no torch."""

from __future__ import annotations

from casam_cache.backbones.architecture import Architecture


def vit_flops(architecture: Architecture) -> int:
    """Floating-point operations of one image's encoding, a multiplication and an addition counting as two.

    Matrix products and convolutions only: linear layers on the g x g cells (products with window padding are
    not needed), attention over padded windows (whose cells are part of the function), position terms, patch
    embedding and neck. Normalisation, softmax and GELU are not counted.
    """
    side, width = architecture.grid, architecture.width
    cells, windows = side**2, -(-side // architecture.window)
    linear = cells * width * width * (4 + 2 * architecture.mlp_ratio)
    across = len(architecture.global_blocks)
    windowed = _attention(windows**2, architecture.window, width)
    patches = cells * width * 3 * architecture.patch_size**2
    neck = cells * architecture.channels * (width + 9 * architecture.channels)
    blocks = architecture.depth * linear + across * _attention(1, side, width)
    return round(2 * (blocks + (architecture.depth - across) * windowed + patches + neck))


def _attention(count: int, side: int, width: int) -> int:
    """Multiplications of attention within `count` squares: logits and values, then rows' and columns' terms."""
    return count * side**2 * width * (2 * side**2 + 2 * side)
