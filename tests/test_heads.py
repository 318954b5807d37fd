"""The Alignment Layer's arithmetic and counts, initial weights, and heads on disk."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError, OptionError
from casam_cache.heads.alignment import AlignmentLayer, LayerNorm2d, gate_kernel
from casam_cache.heads.base import predict_low_res
from casam_cache.heads.decoder import DecoderTuning
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.heads.options import AlignmentOptions

TINY = Architecture(
    image_size=64, patch_size=8, width=16, depth=1, heads=2, window=4, global_blocks=(0,), channels=16,
    decoder_heads=2, decoder_mlp=32, iou_width=16,
)  # fmt: skip
NARROW = Architecture(**{**vars(TINY), "channels": 32})


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


@pytest.mark.parametrize(("blocks", "count"), [(2, 2_361_354), (3, 3_542_031), (4, 4_722_708)])
def test_parameters_of_the_paper(blocks, count):
    channels = ARCHITECTURES["vit_b"].channels
    assert AlignmentLayer(channels, AlignmentOptions(blocks=blocks)).trained_parameters() == count


def test_decoder_tuning_has_the_papers_parameters():
    assert DecoderTuning(ARCHITECTURES["vit_b"].build_decoder()[1]).trained_parameters() == 4_058_340


@pytest.mark.parametrize(("channels", "kernel"), [(16, 3), (32, 3), (64, 3), (256, 5), (1024, 5)])
def test_width_of_the_channel_gate(channels, kernel):
    assert gate_kernel(channels) == kernel


@pytest.mark.parametrize("relu", ["pre", "post"])
@pytest.mark.parametrize("norm", ["post", "branch", "none"])
def test_a_block_is_the_formula(relu, norm):
    options = AlignmentOptions(blocks=1, relu=relu, norm=norm, init="random")
    head = AlignmentLayer(16, options, seed=3)
    block = head.blocks[0]
    x = torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    if relu == "pre":
        u = block.conv2(F.relu(block.conv1(F.relu(x))))
    else:
        u = F.relu(block.conv2(F.relu(block.conv1(x))))
    pooled = u.mean((2, 3))
    kernel = block.gate.weight[0, 0]
    padded = F.pad(pooled, (1, 1))
    gate = torch.stack([padded[:, i : i + 3] @ kernel for i in range(16)], 1).sigmoid()
    branch = u * gate[:, :, None, None]

    def normalise(y):
        centred = y - y.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()

    expected = {"post": lambda: normalise(branch + x), "branch": lambda: normalise(branch) + x,
                "none": lambda: branch + x}[norm]()  # fmt: skip
    torch.testing.assert_close(head(x), expected, atol=1e-5, rtol=1e-5)


def test_layer_norm_equals_segment_anythings(backbone):
    reference = backbone.mask_decoder.output_upscaling[1].__class__(6)
    own = LayerNorm2d(6)
    with torch.no_grad():
        for norm in (reference, own):
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    x = torch.randn(2, 6, 3, 4)
    assert own.eps == reference.eps
    torch.testing.assert_close(own(x), reference(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("norm", ["branch", "none"])
def test_some_layers_start_as_the_identity(norm):
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(AlignmentLayer(16, AlignmentOptions(norm=norm))(x), x)


def test_a_matched_layer_keeps_cells_of_the_backbones_scale():
    x = 0.3 * LayerNorm2d(16)(torch.randn(2, 16, 4, 4)) - 0.1
    head = AlignmentLayer(16, AlignmentOptions(), scale=(-0.1, 0.3))
    torch.testing.assert_close(head(x), x, atol=1e-5, rtol=1e-4)


def test_the_backbones_scale_is_that_of_its_embeddings():
    backbone = seeded_backbone(Architecture(**{**vars(TINY), "channels": 256}), 0)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    embedding = backbone.encoder(image)
    mean, deviation = backbone.neck
    assert embedding.mean().item() == pytest.approx(mean, abs=0.1)
    assert embedding.std(1, unbiased=False).mean().item() == pytest.approx(deviation, rel=0.05)
    head = build_head("alignment", None, backbone, 0)
    assert head.blocks[2].norm.weight[0].item() == pytest.approx(deviation)


def test_a_zero_layer_starts_as_a_normalisation():
    x = torch.randn(2, 16, 4, 4)
    head = AlignmentLayer(16, AlignmentOptions(init="zero"))
    torch.testing.assert_close(head(x), LayerNorm2d(16)(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("relu", ["pre", "post"])
@pytest.mark.parametrize("norm", ["post", "branch", "none"])
def test_a_silent_branch_can_learn(relu, norm):
    head = AlignmentLayer(16, AlignmentOptions(relu=relu, norm=norm))
    optimiser = torch.optim.Adam(head.trained(), lr=1e-3)
    x = torch.randn(2, 16, 4, 4)
    start = [p.clone() for p in head.trained()]
    for _ in range(3):
        optimiser.zero_grad()
        (head(x) - x.roll(1, 1)).square().mean().backward()
        optimiser.step()
    assert all(not torch.equal(before, after) for before, after in zip(start, head.trained(), strict=True))


def test_initial_weights_depend_on_seed_and_architecture_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = AlignmentLayer(16, AlignmentOptions(blocks=2), seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = AlignmentLayer(16, AlignmentOptions(blocks=3), seed=4).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
    other = AlignmentLayer(16, AlignmentOptions(blocks=2), seed=5).state_dict()
    assert not torch.equal(first["blocks.0.conv1.weight"], other["blocks.0.conv1.weight"])


def test_initial_weights_are_distributed_as_torchs():
    layer = AlignmentLayer(64, AlignmentOptions(blocks=1, init="random")).blocks[0]
    bound = 1 / math.sqrt(9 * 64)
    weight = layer.conv1.weight.detach().numpy()
    assert np.abs(weight).max() <= bound
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_decoder_tuning_copies_the_decoder_and_is_used(backbone):
    head = build_head("decoder", None, backbone, 0)
    embedding = torch.randn(1, 16, 8, 8)
    prompts = Prompts(boxes=torch.tensor([[4.0, 4.0, 40.0, 40.0]]))
    frozen = predict_low_res(build_head("identity", None, backbone, 0), backbone, embedding, prompts)
    torch.testing.assert_close(predict_low_res(head, backbone, embedding, prompts), frozen)
    with torch.no_grad():
        for parameter in head.trained():
            parameter.mul_(1.1)
    assert not torch.allclose(predict_low_res(head, backbone, embedding, prompts)[0], frozen[0])
    expected = backbone.decode(embedding, None, *backbone.embed_prompts(prompts), False)
    torch.testing.assert_close(expected, frozen)
    assert not any(p.requires_grad for p in backbone.mask_decoder.parameters())


@pytest.mark.parametrize("name", ["alignment", "decoder", "identity"])
def test_saved_heads_come_back(tmp_path, backbone, name):
    head = build_head(name, None, backbone, 3)
    with torch.no_grad():
        for parameter in head.trained():
            parameter.add_(0.1)
    save_head(head, tmp_path, backbone=backbone.fingerprint)
    loaded = load_head(tmp_path, backbone)
    assert loaded.name == name
    assert loaded.options == head.options
    for key, tensor in head.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key])


def test_unusable_files_are_one_error(tmp_path, backbone):
    with pytest.raises(CasamError, match="no readable head"):
        load_head(tmp_path, backbone)
    save_head(build_head("alignment", None, backbone, 0), tmp_path)
    with pytest.raises(CasamError, match="does not fit this backbone"):
        load_head(tmp_path, seeded_backbone(NARROW, 0))
    (tmp_path / "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(CasamError, match="no readable head"):
        load_head(tmp_path, backbone)


def test_wrong_names_and_options_say_what_there_is(backbone):
    with pytest.raises(
        OptionError,
        match="alignment, class-prompts, combined, decoder, fcn, hq-sam, identity, image-network, image-sam, "
        "prompt-pool, prompt-tuning",
    ):
        build_head("unet", None, backbone, 0)
    with pytest.raises(OptionError, match="blocks"):
        build_head("alignment", {"block": 3}, backbone, 0)
    with pytest.raises(OptionError, match="relu"):
        build_head("alignment", {"relu": "never"}, backbone, 0)
