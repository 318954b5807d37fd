"""The same SAM as other projects save it: one file of random weights for each, loaded, and what was said of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam
from safetensors.torch import save_file
from upstream_sam import TINY, declare_torchvision_operators, relative_difference

from casam_cache.backbones import sam
from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.checkpoints import check_state, expected_shapes, looks_like, read_checkpoint
from casam_cache.backbones.registry import load_backbone
from casam_cache.backbones.sam import SamBackbone, ViTB, backbone_state, seeded_backbone
from casam_cache.backbones.transformers_names import configured_architecture
from casam_cache.errors import CheckpointError

State = dict[str, torch.Tensor]
N = len(expected_shapes(TINY))
EPSILON = (
    ", and the decoder's layer norms have segment_anything's epsilon, 1e-5, where transformers takes 1e-6"
)


@pytest.fixture(scope="module")
def backbone() -> SamBackbone:
    return seeded_backbone(TINY, seed=4)


@pytest.fixture
def state(backbone: SamBackbone) -> State:
    return {name: tensor.contiguous() for name, tensor in backbone_state(backbone).items()}


@pytest.fixture
def tiny_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`small` has the dimensions of the tiny SAM."""
    weights = tmp_path / "own"
    weights.mkdir()
    metadata = {"architecture": json.dumps(TINY.to_json())}
    save_file({"unused": torch.zeros(1)}, weights / "small.safetensors", metadata=metadata)
    monkeypatch.setattr(sam, "WEIGHTS", weights)


@pytest.fixture
def tiny_is_vit_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vit_b` has the dimensions of the tiny SAM."""
    monkeypatch.setitem(ARCHITECTURES, "vit_b", TINY)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def under(prefix: str, inner: str, state: State) -> State:
    """With a prefix inside the names of one part, as compiling or parallelising that part alone leaves it."""
    return {name.replace(prefix, prefix + inner): tensor for name, tensor in state.items()}


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])


UNETR = {
    "decoder.blocks.0.weight": torch.zeros(3),
    "out_conv.weight": torch.zeros(2),
    "out_conv.bias": torch.zeros(2),
}
HQ_SHAPES = {
    "hf_token.weight": (1, 16),
    **{f"hf_mlp.layers.{i}.weight": (16 if i < 2 else 2, 16) for i in range(3)},
    **{f"hf_mlp.layers.{i}.bias": (16 if i < 2 else 2,) for i in range(3)},
    "compress_vit_feat.0.weight": (32, 16, 2, 2), "compress_vit_feat.0.bias": (16,),
    "compress_vit_feat.1.weight": (16,), "compress_vit_feat.1.bias": (16,),
    "compress_vit_feat.3.weight": (16, 2, 2, 2), "compress_vit_feat.3.bias": (2,),
    "embedding_encoder.0.weight": (16, 4, 2, 2), "embedding_encoder.0.bias": (4,),
    "embedding_encoder.1.weight": (4,), "embedding_encoder.1.bias": (4,),
    "embedding_encoder.3.weight": (4, 2, 2, 2), "embedding_encoder.3.bias": (2,),
    "embedding_maskfeature.0.weight": (4, 2, 3, 3), "embedding_maskfeature.0.bias": (4,),
    "embedding_maskfeature.1.weight": (4,), "embedding_maskfeature.1.bias": (4,),
    "embedding_maskfeature.3.weight": (2, 4, 3, 3), "embedding_maskfeature.3.bias": (2,),
}  # fmt: skip
"""The tensors that MaskDecoderHQ of the package segment_anything_hq has beside SAM's, at these dimensions."""


def hq(state: State) -> State:
    return {**state, **{f"mask_decoder.{name}": torch.randn(shape) for name, shape in HQ_SHAPES.items()}}


def adapters(state: State) -> State:
    """What SAM-Med2D adds to each block, Adapter_Layer."""
    shapes = {
        "norm.weight": (32,), "norm.bias": (32,), "channel.0.weight": (8, 32), "channel.2.weight": (32, 8),
        "spatial.0.weight": (32, 32, 3, 3), "spatial.2.weight": (32, 32, 4, 4),
    }  # fmt: skip
    added = {
        f"image_encoder.blocks.{i}.Adapter.{name}": torch.randn(s)
        for i in range(4)
        for name, s in shapes.items()
    }
    return {**state, **added}


TO_TRANSFORMERS = [
    ("mask_decoder.transformer.layers.", "mask_decoder.transformer.LAYERS."),
    ("image_encoder.blocks.", "vision_encoder.layers."), ("image_encoder.", "vision_encoder."),
    ("patch_embed.proj.", "patch_embed.projection."), ("neck.0.", "neck.conv1."), ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."), ("neck.3.", "neck.layer_norm2."), (".norm", ".layer_norm"),
    ("point_embeddings.", "point_embed."), ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."), ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."), ("mask_downscaling.6.", "mask_embed.conv3."),
    ("output_upscaling.0.", "upscale_conv1."), ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."), (".layers.0.", ".proj_in."), (".layers.2.", ".proj_out."),
    (".layers.1.", ".layers.0."), ("LAYERS", "layers"),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
]  # fmt: skip


def transformers_names(state: State) -> State:
    """As transformers' SamModel names them; a slow test holds it against the library itself."""
    renamed = {}
    for name, tensor in state.items():
        new = name
        for ours, theirs in TO_TRANSFORMERS:
            # The blocks of the encoder are already numbered as layers; only the decoder's MLPs count differently.
            if not (new.startswith("vision_encoder") and ".layers." in ours):
                new = new.replace(ours, theirs)
        renamed[new] = tensor
    return renamed


CONFIG = {
    "model_type": "sam",
    "vision_config": {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 8, "window_size": 3, "global_attn_indexes": [1, 3], "mlp_dim": 128, "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
    },
}  # fmt: skip


def save_pretrained(state: State, folder: Path, shards: int = 1) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return
    names = list(state)
    where = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: state[name] for name in names if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


class Patches(torch.utils.data.Dataset):
    """What a trainer of torch_em keeps of its data."""


def trainer_of_micro_sam(state: State, path: Path) -> None:
    torch.save(
        {
            "iteration": 100, "epoch": 3, "best_epoch": 2, "best_metric": np.float64(0.5), "train_time": 3.0,
            "model_state": prefixed("sam.", state), "optimizer_state": optimizer().state_dict(),
            "init": {"train_dataset": Patches(), "name": "cells"}, "decoder_state": UNETR,
        },
        path,
    )  # fmt: skip


Write = Callable[[State, Path], object]
DIALECTS: dict[str, tuple[str, Write, list[str]]] = {
    "official": ("a.pth", torch.save, []),
    "model": (
        "a.pth", lambda s, p: torch.save({"model": s, "optimizer": {"state": {}}, "epoch": 3}, p),
        ["a.pth: the weights are those under 'model'",
         "a.pth: left out, beside the weights: 'optimizer', 'epoch'"],
    ),
    "state_dict": (
        "a.ckpt", lambda s, p: torch.save({"state_dict": s}, p), ["a.ckpt: the weights are those under 'state_dict'"],
    ),
    "model_state": (
        "a.pt", lambda s, p: torch.save({"model_state": s}, p), ["a.pt: the weights are those under 'model_state'"],
    ),
    "model_state_dict": (
        "a.pt", lambda s, p: torch.save({"model_state_dict": s}, p),
        ["a.pt: the weights are those under 'model_state_dict'"],
    ),
    "nested": (
        "a.pt", lambda s, p: torch.save({"state_dict": {"model": s}}, p),
        ["a.pt: the weights are those under 'state_dict' and 'model'"],
    ),
    "a key of its own": (
        "a.pt", lambda s, p: torch.save({"ema_weights": s, "args": {"lr": 0.1}}, p),
        ["a.pt: the weights are those under 'ema_weights'", "a.pt: left out, beside the weights: 'args'"],
    ),
    "two keys": (
        "a.pt", lambda s, p: torch.save({"ema": {k: v + 1 for k, v in s.items()}, "model": s}, p),
        ["a.pt: the weights are those under 'model'", f"a.pt: left out, beside the weights: 'ema' ({N} tensors)"],
    ),
    **{
        prefix: (
            "a.pth", lambda s, p, prefix=prefix: torch.save(prefixed(prefix, s), p),
            [f"a.pth: the prefix '{prefix}' is stripped from all {N} names"],
        )
        for prefix in (
            "module.", "sam.", "net.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.sam.",
            "base.mine.",
        )
    },
    "torch.compile of the encoder": (
        "a.pth", lambda s, p: torch.save(under("image_encoder.", "_orig_mod.", s), p),
        ["a.pth: '_orig_mod.' of torch.compile is stripped from "
         f"{sum(name.startswith('image_encoder.') for name in expected_shapes(TINY))} names"],
    ),
    "constants of SAM": (
        "a.pth",
        lambda s, p: torch.save(
            prefixed("module.", {**s, "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)}), p
        ),
        [f"a.pth: the prefix 'module.' is stripped from all {N + 1} names"],
    ),
    "constants of another": (
        "a.pth", lambda s, p: torch.save({**s, "pixel_mean": torch.zeros(3, 1, 1)}, p),
        ["a.pth: its pixel_mean (0, 0, 0) is not SAM's and is not used: preprocessing is an option"],
    ),
    "MedSAM while it trains": (
        "medsam_model_latest.pth",
        lambda s, p: torch.save(
            {"model": prefixed("module.", s), "optimizer": optimizer().state_dict(), "epoch": 7}, p
        ),
        ["medsam_model_latest.pth: the weights are those under 'model'",
         "medsam_model_latest.pth: left out, beside the weights: 'optimizer', 'epoch'",
         f"medsam_model_latest.pth: the prefix 'module.' is stripped from all {N} names"],
    ),
    "micro-sam, exported": (
        "vit_b_lm.pt", lambda s, p: torch.save({"model_state": s, "decoder_state": UNETR}, p),
        ["vit_b_lm.pt: the weights are those under 'model_state'",
         "vit_b_lm.pt: left out, beside the weights: 'decoder_state' (3 tensors, micro-sam's decoder of instances)"],
    ),
    "micro-sam, from its trainer": (
        "best.pt", trainer_of_micro_sam,
        ["best.pt: Python objects in it were not loaded, as that could run code: "
         "numpy._core.multiarray.scalar, numpy.dtype, test_checkpoint_dialects.Patches",
         "best.pt: the weights are those under 'model_state'",
         "best.pt: left out, beside the weights: 'decoder_state' (3 tensors, micro-sam's decoder of instances), "
         "'iteration', 'epoch', 'best_epoch', 'best_metric', ... 3 more",
         f"best.pt: the prefix 'sam.' is stripped from all {N} names"],
    ),
    "SAM-Med2D without adapters": (
        "ft-sam.pth", lambda s, p: torch.save({"model": s, "optimizer": optimizer()}, p),
        ["ft-sam.pth: Python objects in it were not loaded, as that could run code: "
         "torch.optim.adamw.AdamW",
         "ft-sam.pth: the weights are those under 'model'", "ft-sam.pth: left out, beside the weights: 'optimizer'"],
    ),
    "transformers, a file": (
        "weights.safetensors", lambda s, p: save_file(transformers_names(s), p),
        ["weights.safetensors: the names are transformers' SamModel's; 134 are translated" + EPSILON],
    ),
    "transformers, both copies": (
        "weights.bin",
        lambda s, p: torch.save(
            {**(t := transformers_names(s)), "prompt_encoder.shared_embedding.positional_embedding":
             t["shared_image_embedding.positional_embedding"].clone()}, p,
        ),
        ["weights.bin: the names are transformers' SamModel's; 135 are translated" + EPSILON],
    ),
    "transformers, a folder": (
        "sam-vit-base", lambda s, p: save_pretrained(transformers_names(s), p),
        ["sam-vit-base: the weights are model.safetensors in this folder",
         "sam-vit-base: the names are transformers' SamModel's; 134 are translated" + EPSILON],
    ),
    "transformers, in shards": (
        "sam-vit-huge", lambda s, p: save_pretrained(transformers_names(s), p, shards=3),
        ["sam-vit-huge: the weights are 3 files of this folder, as model.safetensors.index.json says",
         "sam-vit-huge: the names are transformers' SamModel's; 134 are translated" + EPSILON],
    ),
    "HQ-SAM": (
        "sam_hq_vit_b.pth", lambda s, p: torch.save(hq(s), p),
        ["sam_hq_vit_b.pth: HQ-SAM: the 25 tensors of its own decoder are left out (hf_token, hf_mlp, "
         "compress_vit_feat, embedding_encoder, embedding_maskfeature); it trains only those, so this is the frozen "
         "SAM that it was built on"],
    ),
    "safetensors by another name": (
        "a.pth", save_file, ["a.pth: is safetensors, whatever its name says"],
    ),
    "torch by another name": (
        "a.safetensors", torch.save, ["a.safetensors: is a torch file, whatever its name says"],
    ),
    "a trainer's by another name": (
        "a.safetensors", lambda s, p: torch.save({"model": s, "optimizer": optimizer()}, p),
        ["a.safetensors: is a torch file, whatever its name says",
         "a.safetensors: Python objects in it were not loaded, as that could run code: "
         "torch.optim.adamw.AdamW",
         "a.safetensors: the weights are those under 'model'",
         "a.safetensors: left out, beside the weights: 'optimizer'"],
    ),
}  # fmt: skip


@pytest.mark.usefixtures("tiny_is_small")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_gives_the_same_backbone_and_says_what_was_done(
    dialect: str, tmp_path: Path, backbone: SamBackbone, state: State
) -> None:
    name, write, lines = DIALECTS[dialect]
    write(state, tmp_path / name)
    loaded = load_backbone("small", tmp_path / name)
    assert loaded.fingerprint == backbone.fingerprint
    assert loaded.checkpoint == tmp_path / name
    assert list(loaded.notes) == lines
    for key, tensor in backbone_state(loaded).items():
        assert torch.equal(tensor, state[key])


@pytest.mark.usefixtures("tiny_is_small")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_that_is_said(
    tmp_path: Path, state: State, dtype: torch.dtype
) -> None:
    others = {name: tensor.to(dtype) for name, tensor in state.items()}
    save_file(others, tmp_path / "a.safetensors")
    loaded = load_backbone("small", tmp_path / "a.safetensors")
    named = str(dtype).removeprefix("torch.")
    assert loaded.notes == (f"a.safetensors: {N} of {N} tensors are {named}, converted to float32",)
    assert all(torch.equal(tensor, others[key].float()) for key, tensor in backbone_state(loaded).items())


def test_the_dimensions_are_those_that_config_json_states(
    tmp_path: Path, state: State, backbone: SamBackbone
) -> None:
    """Nothing here says that `small` is tiny: heads and windows, which no shape shows, come from the folder."""
    save_pretrained(transformers_names(state), tmp_path / "sam")
    for path in (tmp_path / "sam", tmp_path / "sam" / "model.safetensors"):
        loaded = load_backbone("small", path)
        assert isinstance(loaded, SamBackbone)
        assert loaded.architecture == TINY
        assert loaded.fingerprint == backbone.fingerprint


def test_config_json_leaves_out_what_is_vit_b(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam", "vision_config": {}}')
    assert configured_architecture(tmp_path / "config.json") == ARCHITECTURES["vit_b"]


# Through the libraries themselves


@pytest.fixture(scope="module")
def transformers_sam(backbone: SamBackbone) -> Any:
    """transformers' own SamModel with our weights, loaded strictly from the names that the tests write."""
    pytest.importorskip("transformers")
    declare_torchvision_operators()
    from transformers.models.sam.configuration_sam import SamConfig
    from transformers.models.sam.modeling_sam import SamModel

    # transformers takes 1e-6 in the decoder's transformer, where segment_anything takes 1e-5.
    config = {**CONFIG, "mask_decoder_config": {**CONFIG["mask_decoder_config"], "layer_norm_eps": 1e-5}}
    model = SamModel(SamConfig(**{key: value for key, value in config.items() if key != "model_type"}))
    named = transformers_names(backbone_state(backbone))
    named["prompt_encoder.shared_embedding.positional_embedding"] = named[
        "shared_image_embedding.positional_embedding"
    ]
    model.load_state_dict(named, strict=True)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("shard", [None, "60KB"])
def test_transformers_own_folder_computes_what_transformers_does(
    transformers_sam: Any, backbone: SamBackbone, tmp_path: Path, shard: str | None
) -> None:
    from casam_cache.backbones.prompts import Prompts

    transformers_sam.save_pretrained(tmp_path / "sam", **({} if shard is None else {"max_shard_size": shard}))
    loaded = load_backbone("small", tmp_path / "sam")
    assert loaded.fingerprint == backbone.fingerprint
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embedding = loaded.encode(images, ("embedding",))["embedding"]
        assert relative_difference(embedding, transformers_sam.get_image_embeddings(images)) < 1e-5
        boxes = torch.tensor([[5.0, 9.0, 40.0, 51.0], [0.0, 3.0, 64.0, 20.0]])
        points, labels = torch.rand(2, 3, 2) * 64, torch.tensor([[1, 0, 1], [0, 1, 1]])
        low_res = torch.randn(2, 1, 32, 32)
        ours = {
            "boxes": Prompts(boxes=boxes), "points": Prompts(points=points, labels=labels),
            "masks": Prompts(boxes=boxes, masks=low_res),
        }  # fmt: skip
        theirs = {
            "boxes": {"input_boxes": boxes[:, None]},
            "points": {"input_points": points[:, None], "input_labels": labels[:, None]},
            "masks": {"input_boxes": boxes[:, None], "input_masks": low_res},
        }  # fmt: skip
        for kind, prompts in ours.items():
            masks, iou = loaded.decode(embedding, None, *loaded.embed_prompts(prompts), True)
            given = transformers_sam(image_embeddings=embedding, **theirs[kind])
            assert relative_difference(masks, given.pred_masks[:, 0]) < 1e-5, kind
            assert relative_difference(iou, given.iou_scores[:, 0]) < 1e-5, kind


@pytest.mark.slow
def test_transformers_hq_sam(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    declare_torchvision_operators()
    from transformers.models.sam_hq.configuration_sam_hq import SamHQConfig
    from transformers.models.sam_hq.modeling_sam_hq import SamHQModel

    config = {**CONFIG, "mask_decoder_config": {**CONFIG["mask_decoder_config"], "vit_dim": 32}}
    model = SamHQModel(SamHQConfig(**{key: value for key, value in config.items() if key != "model_type"}))
    model.save_pretrained(tmp_path / "sam-hq")
    loaded = load_backbone("small", tmp_path / "sam-hq")
    own = backbone_state(loaded)
    theirs = model.state_dict()
    assert torch.equal(own["image_encoder.neck.2.weight"], theirs["vision_encoder.neck.conv2.weight"])
    assert torch.equal(own["mask_decoder.mask_tokens.weight"], theirs["mask_decoder.mask_tokens.weight"])
    assert "the 25 tensors of its own decoder are left out" in loaded.notes[-1]


# Refused, in one line that says which


def write_lfs_pointer(_: State, path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 375042383\n")


def write_zip(state: State, path: Path) -> None:
    import zipfile

    torch.save(state, path.with_name("inner.pth"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_name("inner.pth"), "weights/inner.pth")


def write_outside(state: State, folder: Path) -> None:
    save_pretrained(transformers_names(state), folder, shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002-of", "../model-00002-of"))


def write_shard_missing(state: State, folder: Path) -> None:
    save_pretrained(transformers_names(state), folder, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()


def write_config(state: State, folder: Path, **changes: Any) -> None:
    save_pretrained(transformers_names(state), folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def write_itself(_: State, path: Path) -> None:
    endless: dict[str, Any] = {"epoch": 3}
    endless["model"] = endless
    torch.save(endless, path)


def lora(state: State) -> State:
    name = "image_encoder.blocks.0.attn.qkv."
    return {
        **{k.replace(name, name + "qkv_proj."): v for k, v in state.items()},
        name + "w_a_linear_q.weight": torch.zeros(4, 32),
    }


REFUSED: dict[str, tuple[str, Write, str]] = {
    "SAM-Med2D": (
        "sam-med2d_b.pth", lambda s, p: torch.save({"model": adapters(s), "optimizer": optimizer()}, p),
        r"is a SAM-Med2D, with adapters in its encoder, which this package does not run: 24 unexpected: image_encoder",
    ),
    "LoRA": ("a.pth", lambda s, p: torch.save(lora(s), p), "is a SAM with LoRA layers that were not merged"),
    "other adapters": (
        "a.pth", lambda s, p: torch.save({**s, "image_encoder.blocks.1.Space_Adapter.D_fc1.weight": torch.ones(2)}, p),
        "is a SAM with adapters in its encoder.*: 1 unexpected: image_encoder.blocks.1.Space_Adapter",
    ),
    "SAM 2": (
        "a.pt", lambda _, p: torch.save({"model": {"image_encoder.trunk.pos_embed": torch.ones(2)}}, p),
        f"is a SAM 2, which this package does not run: {N} missing",
    ),
    "UNETR of micro-sam": (
        "a.pt",
        lambda s, p: torch.save({"model_state": {**under("image_encoder.", "", {
            k.replace("image_encoder.", "encoder."): v for k, v in s.items() if k.startswith("image_encoder.")}),
            **UNETR}}, p),
        "is an encoder with another decoder, such as micro-sam's UNETR",
    ),
    "two under keys": (
        "a.pt", lambda s, p: torch.save({"student": s, "teacher": s}, p),
        "holds several SAMs, under 'student', 'teacher'",
    ),
    "two under prefixes": (
        "a.pt", lambda s, p: torch.save({**prefixed("student.", s), **prefixed("teacher.", s)}, p),
        "holds two different tensors for image_encoder.pos_embed: student.image_encoder.pos_embed and teacher",
    ),
    "two copies that differ": (
        "a.pt",
        lambda s, p: torch.save({
            **transformers_names(s), "prompt_encoder.shared_embedding.positional_embedding": torch.zeros(2, 8)}, p),
        "holds two different tensors for prompt_encoder.pe_layer",
    ),
    "a tensor beside the prefix": (
        "a.pt", lambda s, p: torch.save({**prefixed("sam.", s), "loss.weight": torch.ones(2)}, p),
        r"does not fit small: 1 unexpected: loss\.weight",
    ),
    "only its encoder": (
        "a.pt", lambda s, p: torch.save({k: v for k, v in s.items() if k.startswith("image_encoder.")}, p),
        r"does not fit small: \d+ missing: prompt_encoder\.pe_layer\S+, .*, \.\.\.",
    ),
    "a whole model": ("a.pt", lambda s, p: torch.save(torch.nn.Linear(2, 2), p), "holds Python objects"),
    "a whole model under a key": (
        "a.pt", lambda s, p: torch.save({"model": torch.nn.Linear(2, 2), "mean": torch.zeros(3)}, p),
        "does not fit small",
    ),
    "a mapping in itself": ("a.pt", write_itself, "holds no tensors"),
    "TorchScript": (
        "a.pt", lambda s, p: torch.jit.save(torch.jit.script(torch.nn.Identity()), p), "is a TorchScript program",
    ),
    "Git LFS": ("model.safetensors", write_lfs_pointer, "is a Git LFS pointer, not the weights"),
    "zipped": ("a.zip", write_zip, r"is a zip archive, not a checkpoint; it holds weights/inner\.pth"),
    "folder without weights": ("sam", lambda _, p: p.mkdir(), "is a folder without model.safetensors"),
    "shard missing": ("sam", write_shard_missing, "there is no checkpoint .*model-00002-of-00002"),
    "shard outside": ("sam", write_outside, "names a file outside its folder"),
    "another model of transformers": (
        "sam2", lambda s, p: write_config(s, p, model_type="sam2"), "is of a model of the kind 'sam2', not of a SAM",
    ),
    "an encoder without positions": (
        "sam", lambda s, p: write_config(s, p, vision_config={**CONFIG["vision_config"], "use_rel_pos": False}),
        "states use_rel_pos False",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("tiny_is_small")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_sam_is_refused_in_one_line(case: str, tmp_path: Path, state: State) -> None:
    name, write, expected = REFUSED[case]
    write(state, tmp_path / name)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_backbone("small", tmp_path / name)
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 700


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (Path("was_run"),)


@pytest.mark.usefixtures("tiny_is_small")
def test_objects_beside_the_weights_never_run(
    tmp_path: Path, state: State, backbone: SamBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a pickle does to an object (calls, items, states) is done to something that does nothing."""
    monkeypatch.chdir(tmp_path)
    noisy = {
        "trap": Trap(),
        "list": [Trap()],
        "set": {1, 2},
        "array": np.zeros(3),
        "when": np.datetime64("2024-01-01"),
    }
    torch.save({"model": state, "optimizer": optimizer(), **noisy}, tmp_path / "a.pth")
    loaded = load_backbone("small", tmp_path / "a.pth")
    assert loaded.fingerprint == backbone.fingerprint
    assert not (tmp_path / "was_run").exists()
    assert "Python objects in it were not loaded" in loaded.notes[0]
    torch.save({"model": {**state, "mask_decoder.iou_token.weight": Trap()}}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: mask_decoder\.iou_token\.weight"):
        load_backbone("small", tmp_path / "b.pth")
    assert not (tmp_path / "was_run").exists()


# What it looks like


def shaped(architecture: Architecture) -> State:
    return {name: torch.zeros(1).expand(shape) for name, shape in expected_shapes(architecture).items()}


@pytest.mark.parametrize("model", ["vit_b", "vit_l", "vit_h"])
def test_an_official_architecture_is_recognised_also_at_another_size(model: str) -> None:
    state = shaped(replace(ARCHITECTURES[model], image_size=256))
    assert state["image_encoder.pos_embed"].shape[1] == 16
    assert looks_like(state) == model


@pytest.mark.parametrize(("kernel", "model"), [(1, "lite_medsam"), (3, "mobile_sam")])
def test_tiny_vits_are_told_apart_by_their_stem(kernel: int, model: str, tmp_path: Path) -> None:
    names = [
        "image_encoder.layers.1.blocks.0.attn.qkv.weight",
        "image_encoder.layers.0.blocks.0.conv1.c.weight",
    ]
    state = {name: torch.zeros(2) for name in names}
    state["image_encoder.patch_embed.seq.0.c.weight"] = torch.zeros(32, 3, kernel, kernel)
    assert looks_like(state) == model
    with pytest.raises(CheckpointError, match=f"looks like a {model} checkpoint"):
        check_state(state, ARCHITECTURES["vit_b"], tmp_path / "a.pth", "vit_b")


@pytest.mark.usefixtures("tiny_is_small")
def test_the_stand_ins_file_under_another_name(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "my tiny.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_backbone("vit_b", tmp_path / "my tiny.safetensors")
    assert "this looks like a small checkpoint: --model small --checkpoint" in caught.value.hint


@pytest.mark.usefixtures("tiny_is_vit_b")
def test_another_size_of_input_is_the_same_model_and_is_said(tmp_path: Path) -> None:
    """SAM-Med2D without adapters is a ViT-B for 256 x 256."""
    half = seeded_backbone(replace(TINY, image_size=32), seed=2)
    torch.save({"model": backbone_state(half), "optimizer": optimizer()}, tmp_path / "ft-sam.pth")
    loaded = load_backbone("vit_b", tmp_path / "ft-sam.pth")
    assert loaded.image_size == 32
    assert loaded.description == half.description
    assert loaded.fingerprint == half.fingerprint
    assert loaded.notes[-1] == "ft-sam.pth: its input is 32 x 32 pixels, where vit_b has 64 x 64"
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = (model.encode(images, ("embedding",))["embedding"] for model in (loaded, half))
    assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("tiny_is_vit_b")
@pytest.mark.parametrize(("option", "value"), [("num_attention_heads", 4), ("global_attn_indexes", [0, 3])])
def test_what_no_shape_shows_must_be_the_models_own(
    tmp_path: Path, state: State, option: str, value: Any
) -> None:
    vision = {**CONFIG["vision_config"], option: value}  # type: ignore[dict-item]
    write_config(state, tmp_path / "sam", vision_config=vision)
    with pytest.raises(CheckpointError, match=f"it states .* {re.escape(str(value))} instead of"):
        load_backbone("vit_b", tmp_path / "sam")


# Other weights never go by the official name


@pytest.fixture
def official(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of `vit_b`, tiny here, by its SHA-256."""
    from casam_cache.fingerprint import digest_file

    monkeypatch.setitem(ARCHITECTURES, "vit_b", TINY)
    path = tmp_path / ViTB.filename
    torch.save(state, path)
    monkeypatch.setattr(ViTB, "sha256", digest_file(path))
    return path


def test_only_the_official_weights_go_by_the_official_name(
    casam: Casam, discs: Path, official: Path, tmp_path: Path, state: State
) -> None:
    store = casam.folder / "casam_store" / "discs"
    other = tmp_path / "medsam_vit_b.pth"
    torch.save({"model": {name: tensor + 0.01 for name, tensor in state.items()}}, other)
    for extra in ((), ("--dry-run",), ("--name", "vit_b")):
        casam("encode", discs, "--model", "vit_b", "--checkpoint", other, *extra)
        assert casam.code == 1
        assert f"{other} is not the official file of vit_b" in casam.err
        fix = f"--model vit_b --checkpoint {other} --name medsam_vit_b"
        assert fix in casam.err.replace("\n", " ")
        assert not store.exists()
    casam("encode", discs, *fix.split())
    assert casam.code == 0
    assert casam.err.count("medsam_vit_b.pth: the weights are those under 'model'") == 1
    assert [path.name for path in store.glob("*.zarr")] == ["medsam_vit_b.zarr"]
    casam("encode", discs, "--model", "vit_b", "--checkpoint", official)
    assert casam.code == 0
    assert (store / "vit_b.zarr").is_dir()


def test_the_official_weights_in_another_format_are_known_where_the_official_file_is(
    casam: Casam, discs: Path, official: Path, tmp_path: Path, state: State
) -> None:
    again = tmp_path / "vit_b.safetensors"
    save_file(state, again)
    casam("encode", discs, "--model", "vit_b", "--checkpoint", again)
    assert casam.code == 1
    assert "is not the official file of vit_b" in casam.err
    assert "--name vit_b_weights" in casam.err
    (tmp_path / "cache").mkdir(exist_ok=True)
    shutil.copy(official, tmp_path / "cache" / ViTB.filename)
    casam("encode", discs, "--model", "vit_b", "--checkpoint", again)
    assert casam.code == 0
    casam("encode", discs, "--model", "small", "--name", "vit_b")
    assert casam.code == 1
    assert "small is not the official file of vit_b" in casam.err


def test_a_store_that_goes_by_the_official_name_already_goes_on_and_that_is_said(
    casam: Casam, discs: Path, official: Path, tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "mine.pth"
    torch.save({name: tensor + 0.01 for name, tensor in state.items()}, other)
    with monkeypatch.context() as before:
        before.setattr(ViTB, "sha256", None)
        casam("encode", discs, "--model", "vit_b", "--checkpoint", other)
    assert casam.code == 0
    shutil.copy(discs / "images" / "p000.png", discs / "images" / "more.png")
    shutil.copy(discs / "masks" / "p000.png", discs / "masks" / "more.png")
    casam("encode", discs, "--model", "vit_b", "--checkpoint", other)
    assert casam.code == 0
    assert "is not the official file of vit_b, though the store goes by that name" in casam.err


def test_notes_come_once_for_a_folder_of_datasets(
    casam: Casam, discs: Path, tmp_path: Path, state: State, tiny_is_small: None
) -> None:
    shutil.copytree(discs, discs.parent / "more")
    torch.save(prefixed("net.", state), tmp_path / "mine.pth")
    for extra in (("--dry-run",), ()):
        named = ("--model", "small", "--checkpoint", tmp_path / "mine.pth", "--name", "mine")
        casam("encode", discs.parent, *named, *extra)
        assert casam.code == 0
        assert casam.err.count("mine.pth: the prefix 'net.' is stripped") == 1


def test_a_checkpoint_written_over_inside_its_folder_is_noticed(
    casam: Casam, discs: Path, tmp_path: Path, state: State
) -> None:
    save_pretrained(transformers_names(state), tmp_path / "sam")
    named = ("--model", "small", "--checkpoint", tmp_path / "sam", "--name", "mine")
    casam("encode", discs, *named)
    assert casam.code == 0
    save_file(
        transformers_names({k: v + 1 for k, v in state.items()}), tmp_path / "sam" / "model.safetensors"
    )
    casam("encode", discs, *named)
    assert casam.code == 1
    assert "backbone.weights" in casam.err
    shutil.rmtree(tmp_path / "sam")
    casam("encode", discs, *named)
    assert casam.code == 1
    assert f"there is no checkpoint {tmp_path / 'sam'}" in casam.err


def test_reading_alone_says_the_same(tmp_path: Path, state: State) -> None:
    torch.save(prefixed("net.", state), tmp_path / "mine.pth")
    found, notes = read_checkpoint(tmp_path / "mine.pth")
    assert found.keys() == state.keys()
    assert notes == [f"mine.pth: the prefix 'net.' is stripped from all {N} names"]
