"""The prepared encoder blocks: every attention form, every way a grid meets its windows, real head shapes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from upstream_sam import TINY, relative_difference, upstream_sam

from casam_cache.backbones import attention
from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.attention import FORMS, Positions, choose_form
from casam_cache.backbones.blocks import from_windows, prepare_blocks, to_windows
from casam_cache.backbones.cost import vit_flops
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import OptionError

TOLERANCE = 1e-5
WINDOWS = [
    3,
    4,
    5,
    7,
    8,
    11,
]  # on a grid of 8: padded, fitting, padded, a rest of 1, the grid, beyond the grid


def random_batch(architecture: Architecture, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    side = architecture.image_size
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return pixels, torch.full((count, 2), side) - torch.arange(count)[:, None] * 5


def random_grid(architecture: Architecture, count: int = 1) -> torch.Tensor:
    shape = (count, architecture.grid, architecture.grid, architecture.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", WINDOWS)
def test_encoder_equals_segment_anything(window: int, form: str) -> None:
    backbone = seeded_backbone(replace(TINY, window=window), seed=1)
    pixels, sizes = random_batch(TINY, 2)
    encode = FrozenEncoder(backbone, attention=form)
    assert encode.settings["attention"] == form
    with torch.no_grad():
        reference = upstream_sam(backbone).image_encoder(backbone.normalise(pixels, sizes))
    assert relative_difference(encode(pixels, sizes)["embedding"], reference) <= TOLERANCE


@pytest.mark.parametrize("window", WINDOWS)
def test_windows_are_upstreams(window: int) -> None:
    from casam_cache.backbones.upstream import _modeling

    grid = torch.randn(2, 8, 8, 6, generator=torch.Generator().manual_seed(2))
    expected, _ = _modeling.image_encoder.window_partition(grid, window)
    windows = to_windows(grid, window, torch.zeros(6))
    assert torch.equal(windows, expected)
    assert torch.equal(from_windows(windows, window, 8), grid)


def test_pad_cells_are_heard() -> None:
    """They hold the bias of the linear layer, so changing it where only keys read it changes the result."""
    backbone = seeded_backbone(replace(TINY, window=3, global_blocks=()), seed=1)
    assert backbone.encoder is not None
    (first, *_) = prepare_blocks(backbone.encoder, TINY.grid, "bias")
    grid = random_grid(TINY)
    with torch.no_grad():
        projected = first.project(grid)
        before = first.forward(grid, projected)
        first.qkv.bias[TINY.width :] += 1.0
        after = first.forward(grid, projected)
    assert torch.equal(after[:, :6, :6], before[:, :6, :6])
    assert not torch.isclose(after[:, 6:], before[:, 6:]).all(dim=-1).any()
    assert not torch.isclose(after[:, :, 6:], before[:, :, 6:]).all(dim=-1).any()


def shaped_like(name: str, image_size: int = 1024) -> Architecture:
    """One windowed and one global block with the width, heads and window of an official model."""
    official = ARCHITECTURES[name]
    return replace(
        TINY, image_size=image_size, patch_size=16, width=official.width, heads=official.heads,
        window=official.window, depth=2, global_blocks=(1,),
    )  # fmt: skip


@lru_cache(maxsize=1)
def encoder_and_reference(architecture: Architecture) -> tuple[Any, list[torch.Tensor]]:
    """A seeded encoder, and what each of its blocks adds to a random grid."""
    encoder: Any = seeded_backbone(architecture, seed=3).encoder
    grid = random_grid(architecture)
    with torch.inference_mode():
        return encoder, [block(grid) - grid for block in encoder.blocks]


def check_block(architecture: Architecture, index: int, form: str) -> None:
    encoder, added = encoder_and_reference(architecture)
    block = prepare_blocks(encoder, architecture.grid, form)[index]
    grid = random_grid(architecture)
    with torch.inference_mode():
        ours = block.forward(grid, block.project(grid)) - grid
    assert relative_difference(ours, added[index]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("form", ["augmented", "bias", "cudnn", "flex"])
@pytest.mark.parametrize("index", [0, 1], ids=["windowed", "global"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blocks_of_official_width(name: str, index: int, form: str) -> None:
    check_block(shaped_like(name, image_size=16 * 20), index, form)  # 20 = 14 + 6


@pytest.mark.slow
@pytest.mark.parametrize("form", ["augmented", "bias"])
@pytest.mark.parametrize("index", [0, 1], ids=["windowed", "global"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blocks_of_official_size(name: str, index: int, form: str) -> None:
    check_block(shaped_like(name), index, form)


@pytest.mark.parametrize("allowed", [1, 3 * 2048, 10 * 2048, 40 * 2048], ids=["row", "rows", "head", "items"])
def test_pieces_of_the_bias_change_nothing(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    encoder: Any = seeded_backbone(TINY, seed=5).encoder
    positions = Positions.of(encoder.blocks[1].attn, 8, 8)  # one row of queries: 8 x 64 float32, 2048 bytes
    query, key, value = torch.randn(3, 5, 2, 64, 16, generator=torch.Generator().manual_seed(4)).unbind(0)
    expected = attention.materialised(query, key, value, positions)
    monkeypatch.setitem(attention._BIAS_BYTES, "cpu", allowed)
    pieces = list(attention._pieces(5, 2, positions.size, query))
    assert len(pieces) == {1: 80, 3 * 2048: 30, 10 * 2048: 10, 40 * 2048: 3}[allowed]
    assert relative_difference(attention.biased(query, key, value, positions), expected) < 1e-6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_items_bits_do_not_depend_on_its_batch(precision: str) -> None:
    names = ("embedding", "early", "tokens")
    encode = FrozenEncoder(seeded_backbone(TINY, seed=6), precision)
    pixels, sizes = random_batch(TINY, 3)
    together = encode(pixels, sizes, names)
    for index in range(3):
        alone = encode(pixels[index : index + 1], sizes[index : index + 1], names)
        for name in names:
            assert torch.equal(alone[name][0], together[name][index]), name


@pytest.mark.parametrize("form", FORMS)
def test_forms_in_bf16(form: str) -> None:
    backbone = seeded_backbone(TINY, seed=7)
    batch = random_batch(TINY, 2)
    exact = FrozenEncoder(backbone)(*batch)["embedding"]
    found = FrozenEncoder(backbone, "bf16", attention=form)(*batch)["embedding"]
    assert 0 < relative_difference(found, exact) < 0.05


def test_forms_by_name() -> None:
    assert choose_form("auto", torch.device("cpu")) == "bias"
    assert choose_form("auto", torch.device("cuda")) == "augmented"
    assert choose_form("materialised", torch.device("cuda")) == "materialised"
    with pytest.raises(OptionError, match="augmented"):
        choose_form("flash", torch.device("cpu"))


@pytest.mark.parametrize(("name", "gflop"), [("vit_b", 942), ("vit_l", 2852), ("vit_h", 5683)])
def test_arithmetic_of_the_official_encoders(name: str, gflop: int) -> None:
    """Written down before as 790 TFLOP/s over 839, 277 and 139 images/s."""
    assert vit_flops(ARCHITECTURES[name]) / 1e9 == pytest.approx(gflop, rel=5e-3)
