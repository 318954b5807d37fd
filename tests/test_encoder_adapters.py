"""Adapters in an encoder's blocks: the numbers of the public programs, and the whole grid at once."""

from __future__ import annotations

import pytest
import torch
from test_tinyvit import seeded_tiny

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.tinyvit import PreparedTinyViT
from casam_cache.heads.encoder_adapters import ADAPTERS, ChannelSpatial, add_adapters
from casam_cache.heads.files import build_head


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("kind", "block"), [("sam-med2d", 15_042_048), ("msa", 2 * 295_872)])
def test_a_block_of_vit_b_has_as_many_numbers_as_in_the_public_program(kind: str, block: int) -> None:
    with torch.device("meta"):
        encoder = ARCHITECTURES["vit_b"].build_encoder()
        before = count(encoder)
        add_adapters(encoder, kind, 0)
    assert count(encoder) - before == 12 * block


def test_the_channels_and_the_convolutions_of_sam_med2d_on_an_odd_grid() -> None:
    adapter = ChannelSpatial(8, 0)
    torch.nn.init.ones_(adapter.norm.weight)
    x = torch.randn(2, 5, 7, 8, generator=torch.Generator().manual_seed(0))
    found = adapter(x)
    assert found.shape == x.shape
    # The gates look at the whole image: one cell that is another changes what is far away.
    other = x.clone()
    other[0, 0, 0] += 3
    changed = (adapter(other) - found).abs()
    assert changed[0, 4, 6].max() > 0
    assert changed[1].max() == 0


@pytest.mark.parametrize("kind", ADAPTERS)
def test_strips_of_a_tiny_vit_do_not_cut_what_adapters_look_at(kind: str) -> None:
    backbone = seeded_tiny()
    head = build_head("image-sam", {"encoder": kind}, backbone, 0)
    with torch.no_grad():
        for parameter in head.encoder.parameters():
            if parameter.requires_grad:
                parameter += 0.05
        side = backbone.image_size
        images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        whole, strips = (
            PreparedTinyViT(head.encoder, backbone.architecture, strip).run(images)["embedding"]
            for strip in (0, 16)
        )
        frozen = PreparedTinyViT(backbone.encoder, backbone.architecture, 0).run(images)["embedding"]
    assert torch.allclose(whole, strips, atol=1e-4)
    assert (whole - frozen).abs().max() > 1e-2


def test_an_encoder_without_blocks_is_refused() -> None:
    from casam_cache.errors import CasamError

    with pytest.raises(CasamError, match="no transformer blocks"):
        add_adapters(torch.nn.Conv2d(3, 4, 1), "msa", 0)
