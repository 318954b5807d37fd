"""Which part of the mask decoder is trained, what is saved of it, and what it is where it goes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import SamBackbone, seeded_backbone
from casam_cache.fingerprint import generator
from casam_cache.heads.base import Head, predict_low_res
from casam_cache.heads.decoder_parts import folded
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.heads.options import DecoderOptions
from casam_cache.heads.testing import TINY

PARTS = ("bias", "norm", "ssf", "lora")


@pytest.fixture
def backbone() -> SamBackbone:
    return seeded_backbone(TINY, 0)


def masks(head: Head, backbone: SamBackbone) -> torch.Tensor:
    drawn = generator("parts").standard_normal((2, *backbone.feature_shape("embedding")))
    boxes = Prompts(boxes=torch.tensor([[4.0, 6, 40, 50], [10, 2, 60, 30]]))
    return predict_low_res(head, backbone, torch.from_numpy(drawn).float(), boxes)[0]


def disturb(head: Head) -> None:
    """As training would: everything that is trained moves."""
    with torch.no_grad():
        for index, parameter in enumerate(head.trained()):
            parameter.add_(
                0.1 * torch.from_numpy(generator(index).standard_normal(tuple(parameter.shape))).float()
            )


@pytest.mark.parametrize("part", PARTS)
def test_a_part_begins_as_the_frozen_decoder_and_is_far_smaller_than_it(
    part: str, backbone: SamBackbone
) -> None:
    head = build_head("decoder", {"train": part}, backbone, 0)
    whole = build_head("decoder", {}, backbone, 0).trained_parameters()
    assert torch.equal(masks(head, backbone), masks(build_head("identity", {}, backbone, 0), backbone))
    assert 0 < head.trained_parameters() < whole / 4


def test_what_each_part_is(backbone: SamBackbone) -> None:
    """Counted from the decoder itself."""
    decoder = backbone.mask_decoder
    named = dict(decoder.named_parameters())
    norms = [module for module in decoder.modules() if type(module).__name__.startswith("LayerNorm")]
    counts = {
        part: build_head("decoder", {"train": part}, backbone, 0).trained_parameters() for part in PARTS
    }
    assert counts["bias"] == sum(tensor.numel() for name, tensor in named.items() if name.endswith("bias"))
    assert counts["norm"] == sum(tensor.numel() for norm in norms for tensor in norm.parameters())
    # one scale and one shift for each output of a layer that has a bias
    assert counts["ssf"] == 2 * counts["bias"]
    projections = [
        tensor for name, tensor in named.items() if name.endswith(("q_proj.weight", "v_proj.weight"))
    ]
    assert counts["lora"] == sum(
        4 * (rows + columns) for rows, columns in (each.shape for each in projections)
    )


@pytest.mark.parametrize("part", PARTS)
def test_a_saved_part_holds_what_was_trained_alone(part: str, backbone: SamBackbone, tmp_path: Path) -> None:
    head = build_head("decoder", {"train": part}, backbone, 0)
    disturb(head)
    save_head(head, tmp_path)
    saved = load_file(tmp_path / "head.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == head.trained_parameters()
    assert torch.equal(masks(load_head(tmp_path, backbone), backbone), masks(head.eval(), backbone))


@pytest.mark.parametrize("part", PARTS)
def test_a_folded_decoder_is_a_plain_one_with_the_same_masks(part: str, backbone: SamBackbone) -> None:
    head = build_head("decoder", {"train": part}, backbone, 0).eval()
    disturb(head)
    assert head.mask_decoder is not None
    before = masks(head, backbone)
    head.mask_decoder = folded(head.mask_decoder)
    assert {name: tensor.shape for name, tensor in head.mask_decoder.named_parameters()} == {
        name: tensor.shape for name, tensor in backbone.mask_decoder.named_parameters()
    }
    torch.testing.assert_close(masks(head, backbone), before, rtol=1e-5, atol=1e-6)
    frozen = build_head("identity", {}, backbone, 0)
    assert not torch.allclose(before, masks(frozen, backbone)), "what was trained changes the masks"


def test_the_whole_decoder_keeps_its_name() -> None:
    """Fits of before there were parts are found again: keys are hashes of options."""
    assert DecoderOptions().model_dump(mode="json") == {}
    assert DecoderOptions(train="norm", rank=9).model_dump(mode="json") == {"train": "norm"}
    assert DecoderOptions(train="lora").model_dump(mode="json") == {
        "train": "lora",
        "rank": 4,
        "targets": "qv",
    }
