"""How much arithmetic an image costs the encoder: the floor that timings are compared with. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casam_cache.backbones.architecture import Architecture

if TYPE_CHECKING:
    from casam_cache.backbones.tinyvit import TinyArchitecture


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


def tiny_vit_flops(architecture: TinyArchitecture) -> int:
    """The same for a TinyViT: convolutions, linear layers on cells, attention over padded windows, neck."""
    own = architecture
    side, first = own.image_size, own.widths[0]
    kernel = 9 if own.stem_stride > 1 else 1
    count = (side := side // own.stem_stride) ** 2 * 3 * (first // 2) * kernel
    count += (side := side // own.stem_stride) ** 2 * (first // 2) * first * kernel
    for stage, (width, depth) in enumerate(zip(own.widths, own.depths, strict=True)):
        hidden = own.expansion * width
        if stage:
            window = own.windows[stage]
            attention = (-(-side // window)) ** 2 * window**4 * 2 * width
            count += depth * (side**2 * width * (4 * width + 2 * hidden + 9) + attention)
        else:
            count += depth * side**2 * (2 * width * hidden + 9 * hidden)
        if stage < 3:
            after = own.widths[stage + 1]
            count += side**2 * width * after
            side = side // 2 if stage < 2 else side
            count += side**2 * after * (9 + after)
    return 2 * (count + side**2 * own.channels * (own.widths[3] + 9 * own.channels))
