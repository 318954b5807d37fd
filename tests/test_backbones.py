"""Backbones by name, features of the frozen encoder, gradients and batching of the decoder, its file."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from upstream_sam import TINY, relative_difference

from casam_cache.backbones import sam as sam_module
from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.prompts import Prompts, concatenate_prompts, upscale
from casam_cache.backbones.registry import BACKBONES, load_backbone, weights_here
from casam_cache.backbones.sam import SamBackbone, Small, ViTB, ViTH, ViTL, backbone_state, seeded_backbone
from casam_cache.backbones.vit import PreparedViT, early_block
from casam_cache.errors import CheckpointError, OptionError
from casam_cache.fingerprint import canonical_json
from casam_cache.geometry import Geometry


@pytest.fixture(scope="module")
def backbone() -> SamBackbone:
    return seeded_backbone(TINY, seed=4)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 40), (33, 64), (64, 64))]
    pixels, sizes = stack_inputs(images, TINY.image_size)
    return torch.from_numpy(pixels), torch.from_numpy(sizes)


# --- registry
# -------------------------------------------------------------------------------------------------------


def test_registry_names_the_official_files() -> None:
    assert BACKBONES.names() == ["lite_medsam", "mobile_sam", "small", "tuned", "vit_b", "vit_h", "vit_l"]
    for model in (ViTB, ViTL, ViTH):
        assert BACKBONES.get(model.name) is model
        assert len(model.sha256) == 64
        assert model.url() == f"https://dl.fbaipublicfiles.com/segment_anything/{model.filename}"
        assert model.architecture_of(Path(model.filename)) == ARCHITECTURES[model.name]


def test_what_would_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path))
    fetch = ViTB.to_fetch(None)
    assert fetch is not None
    assert (fetch.filename, fetch.features["embedding"]) == (ViTB.filename, (256, 64, 64))
    assert ViTB.to_fetch(tmp_path / "mine.pth") is None
    assert Small.to_fetch(None) is None
    assert weights_here()["vit_b"].startswith("not here yet: downloaded when first used, from https://")
    (tmp_path / ViTB.filename).touch()
    assert ViTB.to_fetch(None) is None
    assert weights_here()["vit_b"] == str(tmp_path / ViTB.filename)


def test_unknown_model_lists_what_there_is() -> None:
    with pytest.raises(OptionError, match="lite_medsam, mobile_sam, small, tuned, vit_b, vit_h, vit_l"):
        load_backbone("vit_z")


def test_names_and_preprocessing_need_no_torch() -> None:
    code = (
        "import sys; import casam_cache.backbones.registry, casam_cache.backbones.preprocess;"
        "import casam_cache.fingerprint, casam_cache.backbones.download;"
        "assert not {'torch', 'requests', 'pooch'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bundled_model_follows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled checkpoint states its architecture; its sum is checked; missing or damaged says so."""
    import hashlib
    import json

    monkeypatch.setattr(sam_module, "WEIGHTS", tmp_path)
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"small\.safetensors is missing"):
        load_backbone("small")
    own = seeded_backbone(TINY, seed=9)
    path = tmp_path / "small.safetensors"
    save_file(backbone_state(own), path, metadata={"architecture": json.dumps(TINY.to_json())})
    with pytest.raises(CheckpointError, match="SHA256SUMS"):
        load_backbone("small")
    (tmp_path / "SHA256SUMS").write_text(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  small.safetensors\n"
    )
    loaded = load_backbone("small")
    assert (loaded.name, loaded.architecture, loaded.checkpoint) == ("small", TINY, path)
    assert loaded.fingerprint == own.fingerprint
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  small.safetensors\n")
    with pytest.raises(CheckpointError, match="damaged"):
        load_backbone("small")


def test_architecture_survives_json() -> None:
    assert Architecture.from_json(TINY.to_json()) == TINY
    canonical_json(TINY.to_json())


# --- backbone
# -------------------------------------------------------------------------------------------------------


def test_backbone_is_frozen_and_seeded(backbone: SamBackbone) -> None:
    for module in (backbone.encoder, backbone.prompt_encoder, backbone.mask_decoder):
        assert module is not None
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert seeded_backbone(TINY, seed=4).fingerprint == backbone.fingerprint
    assert seeded_backbone(TINY, seed=5).fingerprint != backbone.fingerprint
    # A tensor of zeros would hide a path that forgets it.
    assert all(tensor.abs().max() > 0 for tensor in backbone_state(backbone).values())


def test_reference_parameter_count() -> None:
    """The official mask decoder has 4,058,340 parameters, the paper's 4.06 M; the prompt encoder 6,220."""
    with torch.device("meta"):
        decoder = ARCHITECTURES["vit_b"].build_decoder()[1]
        prompt_encoder = ARCHITECTURES["vit_b"].build_decoder()[0]
    assert sum(p.numel() for p in decoder.parameters()) == 4_058_340
    assert sum(p.numel() for p in prompt_encoder.parameters()) == 6_220


def test_decoder_file(tmp_path: Path, backbone: SamBackbone) -> None:
    path = tmp_path / "decoder.safetensors"
    backbone.save_decoder(path)
    loaded = Small.load_decoder(path)
    assert loaded.encoder is None
    assert (loaded.name, loaded.architecture, loaded.fingerprint) == ("seeded", TINY, backbone.fingerprint)
    assert loaded.neck == backbone.neck
    for name, tensor in backbone_state(loaded).items():
        assert torch.equal(tensor, backbone_state(backbone)[name])
    first = path.read_bytes()
    loaded.save_decoder(path)
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["decoder.safetensors"]
    # Others of the group read the store too: as readable as any new file, unlike a file of tempfile's.
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode

    path.write_bytes(first[:-3] + bytes([first[-3] ^ 1]) + first[-2:])
    with pytest.raises(CheckpointError, match="damaged"):
        Small.load_decoder(path)
    path.write_bytes(first[: len(first) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        Small.load_decoder(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not a decoder file"):
        Small.load_decoder(path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        Small.load_decoder(tmp_path / "absent.safetensors")


# --- preprocessing
# --------------------------------------------------------------------------------------------------


def test_stretch_fills_the_square() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    geometry = Geometry.fit(50, 30, TINY.image_size, TINY.patch_size, "stretch")
    assert resize_for_encoder(image, geometry).shape == (TINY.image_size, TINY.image_size, 3)


def test_wrong_images_are_refused(backbone: SamBackbone) -> None:
    geometry = Geometry.fit(50, 30, 64, 8)
    for wrong in (
        np.zeros((50, 30), np.uint8),
        np.zeros((30, 50, 3), np.uint8),
        np.zeros((50, 30, 3), np.float32),
    ):
        with pytest.raises(ValueError, match="expected a uint8 image"):
            resize_for_encoder(wrong, geometry)
    with pytest.raises(ValueError, match="expected uint8"):
        FrozenEncoder(backbone)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([[32, 32]]))


def test_preprocessing_identity_tells_what_changes_an_embedding() -> None:
    told = {
        canonical_json(seeded_backbone(replace(TINY, image_size=size), 0).preprocessing_identity(*choice))
        for size, *choice in (
            (64, "longest", "auto"),
            (64, "stretch", "auto"),
            (128, "longest", "auto"),
            (64, "longest", "x"),
        )
    }
    assert len(told) == 4


# --- encoder
# --------------------------------------------------------------------------------------------------------


def test_feature_shapes(backbone: SamBackbone, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    names = ["embedding", "early", "tokens"]
    found = FrozenEncoder(backbone)(*batch, names)
    assert list(found) == names
    for name in names:
        assert found[name].shape == (3, *backbone.feature_shape(name))
        assert found[name].dtype == torch.float32
        assert found[name].is_contiguous()
        canonical_json(backbone.feature_identity(name))
    assert early_block(ARCHITECTURES["vit_b"]) == 2
    with pytest.raises(OptionError, match="available: early, embedding, tokens"):
        FrozenEncoder(backbone)(*batch, ["embeddings"])


def test_tokens_never_alter_the_embedding(
    backbone: SamBackbone, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    encode = FrozenEncoder(backbone)
    alone = encode(*batch)["embedding"]
    everything = encode(*batch, ["embedding", "early", "tokens"])
    assert torch.equal(everything["embedding"], alone)
    assert torch.equal(encode(*batch, ["early"])["early"], everything["early"])
    assert torch.equal(encode(*batch, ["tokens"])["tokens"], everything["tokens"])


def test_tokens_are_seeded_and_see_the_image(
    backbone: SamBackbone, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    first, again = (FrozenEncoder(backbone)(*batch, ["tokens"])["tokens"] for _ in range(2))
    assert torch.equal(first, again)
    assert (first[0] - first[1]).abs().max() > 1e-3
    alone = FrozenEncoder(backbone)(batch[0][1:2], batch[1][1:2], ["tokens"])["tokens"]
    torch.testing.assert_close(alone[0], first[1])


def test_tokens_follow_their_definition(
    backbone: SamBackbone, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The docstring's formula, written out head by head in float64."""
    encode = FrozenEncoder(backbone)
    double = seeded_backbone(TINY, seed=4)
    assert double.encoder is not None
    model = double.encoder.double()
    tokens = PreparedViT(backbone.encoder, TINY, "bias").tokens.double().expand(3, -1, -1)
    width, heads = TINY.width, TINY.heads
    size = width // heads
    with torch.no_grad():
        grid = model.patch_embed(backbone.normalise(*batch).double()) + model.pos_embed
        for block in model.blocks:
            everyone = torch.cat([block.norm1(grid).reshape(3, -1, width), block.norm1(tokens)], dim=1)
            query, key, value = block.attn.qkv(everyone).split(width, dim=2)
            query = query[:, -tokens.shape[1] :]
            heard = []
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                scores = query[..., own] @ key[..., own].transpose(1, 2) / size**0.5
                heard.append(scores.softmax(-1) @ value[..., own])
            tokens = tokens + block.attn.proj(torch.cat(heard, dim=2))
            tokens = tokens + block.mlp(block.norm2(tokens))
            grid = block(grid)
    assert relative_difference(encode(*batch, ["tokens"])["tokens"].double(), tokens[:, 0]) < 1e-5


def test_early_alone_stops_after_its_block(
    backbone: SamBackbone, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ran: list[int] = []
    handles = [
        block.mlp.register_forward_hook(lambda _m, _i, _o, index=index: ran.append(index))
        for index, block in enumerate(backbone.encoder.blocks)
    ]
    FrozenEncoder(backbone)(batch[0][:1], batch[1][:1], ["early"])
    for handle in handles:
        handle.remove()
    assert ran == list(range(early_block(TINY) + 1))


def test_bf16_keeps_normalisation_in_float32(
    backbone: SamBackbone, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    seen: list[torch.dtype] = []
    assert backbone.encoder is not None
    norms = [m for m in backbone.encoder.modules() if type(m).__name__ in ("LayerNorm", "LayerNorm2d")]
    handles = [
        norm.register_forward_pre_hook(lambda _m, given: seen.append(given[0].dtype)) for norm in norms
    ]
    found = FrozenEncoder(backbone, "bf16")(*batch, ["embedding", "early", "tokens"])
    for handle in handles:
        handle.remove()
    assert set(seen) == {torch.float32}
    exact = FrozenEncoder(backbone)(*batch, ["embedding", "early", "tokens"])
    for name, ours in found.items():
        assert 0 < relative_difference(ours, exact[name]) < 0.05


def test_encoder_needs_an_encoder_and_a_known_precision(backbone: SamBackbone) -> None:
    decoding = copy.copy(backbone)
    decoding.encoder = None
    with pytest.raises(ValueError, match="without its encoder"):
        FrozenEncoder(decoding)
    with pytest.raises(ValueError, match="no settings"):
        FrozenEncoder(backbone, atention="bias")
    with pytest.raises(OptionError, match="fp32, bf16"):
        FrozenEncoder(backbone, "fp16")


# --- decoder
# --------------------------------------------------------------------------------------------------------


def embeddings(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        count, TINY.channels, TINY.grid, TINY.grid, generator=torch.Generator().manual_seed(seed)
    )


def boxes(count: int) -> Prompts:
    return Prompts(boxes=torch.tensor([[3.0, 4.0, 30.0, 50.0]]) + torch.arange(count)[:, None])


def test_gradients_reach_embeddings_and_a_decoder_that_trains(backbone: SamBackbone) -> None:
    features = embeddings(2).requires_grad_()
    sparse, dense = backbone.embed_prompts(boxes(3))
    low_res, iou = backbone.decode(features, torch.tensor([0, 1, 1]), sparse, dense, False)
    assert low_res.shape == (3, 1, 4 * TINY.grid, 4 * TINY.grid)
    assert iou.shape == (3, 1)
    (low_res.square().mean() + iou.mean()).backward()
    assert features.grad is not None
    assert all(gradient.abs().max() > 0 for gradient in features.grad)
    assert all(parameter.grad is None for parameter in backbone.mask_decoder.parameters())

    trained = Small.of_state(TINY, backbone_state(backbone))
    trained.mask_decoder.requires_grad_(True)
    low_res, iou = trained.decode(embeddings(2), torch.tensor([0, 1, 1]), sparse, dense, True)
    (low_res.square().mean() + iou.mean()).backward()
    assert all(parameter.grad is not None for parameter in trained.mask_decoder.transformer.parameters())


def test_positions_cached_in_inference_mode_serve_training() -> None:
    fresh = seeded_backbone(TINY, seed=7)
    with torch.inference_mode():
        fresh.decode(embeddings(1), None, *fresh.embed_prompts(boxes(1)), False)
    fresh.mask_decoder.requires_grad_(True)
    features = embeddings(1).requires_grad_()
    fresh.decode(features, None, *fresh.embed_prompts(boxes(1)), False)[0].sum().backward()
    assert features.grad is not None


def test_dense_prompts_occupy_no_memory(backbone: SamBackbone) -> None:
    _, dense = backbone.embed_prompts(boxes(5))
    assert dense.shape == (5, TINY.channels, TINY.grid, TINY.grid)
    assert dense.untyped_storage().nbytes() == 4 * TINY.channels


def test_decoding_under_bf16_autocast_returns_float32(backbone: SamBackbone) -> None:
    exact = backbone.decode(embeddings(2), None, *backbone.embed_prompts(boxes(2)), False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sparse, dense = backbone.embed_prompts(boxes(2))
        fast = backbone.decode(embeddings(2).bfloat16(), None, sparse, dense, False)
    assert torch.equal(sparse, backbone.embed_prompts(boxes(2))[0])
    for ours, reference in zip(fast, exact, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < relative_difference(ours, reference) < 0.1


def test_single_point_and_box_share_a_batch(backbone: SamBackbone) -> None:
    point = Prompts(points=torch.tensor([[[9.0, 8.0]]]), labels=torch.ones(1, 1).long())
    mixed = concatenate_prompts([boxes(2), point])
    assert len(mixed) == 3
    assert mixed.token_count == 2
    assert len(concatenate_prompts([mixed, boxes(1)])) == 4
    sparse, _ = backbone.embed_prompts(mixed)
    assert torch.equal(sparse[:2], backbone.embed_prompts(boxes(2))[0])
    assert torch.equal(sparse[2:], backbone.embed_prompts(point)[0])
    both = Prompts(boxes=boxes(1).boxes, points=point.points, labels=point.labels)
    with pytest.raises(ValueError, match="cannot share a batch"):
        concatenate_prompts([boxes(1), both])
    masked = Prompts(boxes=boxes(1).boxes, masks=torch.zeros(1, 1, 4 * TINY.grid, 4 * TINY.grid))
    with pytest.raises(ValueError, match="with and without a mask"):
        concatenate_prompts([boxes(1), masked])


def test_no_prompt(backbone: SamBackbone) -> None:
    prompts = Prompts(count=2)
    assert (len(prompts), prompts.token_count) == (2, 0)
    low_res, _ = backbone.decode(embeddings(2), None, *backbone.embed_prompts(prompts), True)
    assert low_res.shape == (2, 3, 4 * TINY.grid, 4 * TINY.grid)


def test_prompts_that_do_not_fit_are_refused(backbone: SamBackbone) -> None:
    with pytest.raises(ValueError, match="need labels"):
        Prompts(points=torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="do not match"):
        Prompts(points=torch.zeros(1, 2, 2), labels=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="as many"):
        Prompts(boxes=torch.zeros(2, 4), points=torch.zeros(1, 1, 2), labels=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="image_index"):
        backbone.decode(embeddings(2), None, *backbone.embed_prompts(boxes(3)), False)


def test_prompts_move(backbone: SamBackbone) -> None:
    moved = concatenate_prompts([boxes(2)]).to("cpu")
    assert moved.packed
    assert len(moved) == 2
    assert backbone.to("cpu").fingerprint == backbone.fingerprint


def test_upscale_crops_the_padding() -> None:
    geometry = Geometry.fit(20, 40, 64, 8)
    low_res = torch.zeros(2, 32, 32)
    low_res[:, 16:] = 100.0  # below the valid part of the input
    low_res[1, :8] = -5.0
    logits = upscale(low_res, geometry)
    assert logits.shape == (2, 20, 40)
    assert float(logits[0, :19].abs().max()) == 0.0
    assert float(logits[1, :8].max()) == -5.0
