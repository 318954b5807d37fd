"""The same SAM as other projects save it: one file of random weights for each, loaded, and what was said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sam_files import (
    CONFIG,
    UNETR,
    N,
    State,
    Write,
    hq,
    optimizer,
    prefixed,
    save_pretrained,
    transformers_names,
    under,
)
from upstream_sam import TINY, declare_torchvision_operators, relative_difference

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.checkpoints import expected_shapes
from casam_cache.backbones.registry import load_backbone
from casam_cache.backbones.sam import SamBackbone, backbone_state
from casam_cache.backbones.transformers_names import configured_architecture

EPSILON = (
    ", and the decoder's layer norms have segment_anything's epsilon, 1e-5, where transformers takes 1e-6"
)


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
    dialect: str, tmp_path: Path, tiny_sam: SamBackbone, tiny_state: State
) -> None:
    name, write, lines = DIALECTS[dialect]
    write(tiny_state, tmp_path / name)
    loaded = load_backbone("small", tmp_path / name)
    assert loaded.fingerprint == tiny_sam.fingerprint
    assert loaded.checkpoint == tmp_path / name
    assert list(loaded.notes) == lines
    for key, tensor in backbone_state(loaded).items():
        assert torch.equal(tensor, tiny_state[key])


@pytest.mark.usefixtures("tiny_is_small")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_that_is_said(
    tmp_path: Path, tiny_state: State, dtype: torch.dtype
) -> None:
    others = {name: tensor.to(dtype) for name, tensor in tiny_state.items()}
    save_file(others, tmp_path / "a.safetensors")
    loaded = load_backbone("small", tmp_path / "a.safetensors")
    named = str(dtype).removeprefix("torch.")
    assert loaded.notes == (f"a.safetensors: {N} of {N} tensors are {named}, converted to float32",)
    assert all(torch.equal(tensor, others[key].float()) for key, tensor in backbone_state(loaded).items())


def test_the_dimensions_are_those_that_config_json_states(
    tmp_path: Path, tiny_state: State, tiny_sam: SamBackbone
) -> None:
    """Nothing here says that `small` is tiny: heads and windows, which no shape shows, come from the folder."""
    save_pretrained(transformers_names(tiny_state), tmp_path / "sam")
    for path in (tmp_path / "sam", tmp_path / "sam" / "model.safetensors"):
        loaded = load_backbone("small", path)
        assert isinstance(loaded, SamBackbone)
        assert loaded.architecture == TINY
        assert loaded.fingerprint == tiny_sam.fingerprint


def test_config_json_leaves_out_what_is_vit_b(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam", "vision_config": {}}')
    assert configured_architecture(tmp_path / "config.json") == ARCHITECTURES["vit_b"]


# Through the libraries themselves


@pytest.fixture(scope="module")
def transformers_sam(tiny_sam: SamBackbone) -> Any:
    """transformers' own SamModel with our weights, loaded strictly from the names that the tests write."""
    pytest.importorskip("transformers")
    declare_torchvision_operators()
    from transformers.models.sam.configuration_sam import SamConfig
    from transformers.models.sam.modeling_sam import SamModel

    # transformers takes 1e-6 in the decoder's transformer, where segment_anything takes 1e-5.
    config = {**CONFIG, "mask_decoder_config": {**CONFIG["mask_decoder_config"], "layer_norm_eps": 1e-5}}
    model = SamModel(SamConfig(**{key: value for key, value in config.items() if key != "model_type"}))
    named = transformers_names(backbone_state(tiny_sam))
    named["prompt_encoder.shared_embedding.positional_embedding"] = named[
        "shared_image_embedding.positional_embedding"
    ]
    model.load_state_dict(named, strict=True)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("shard", [None, "60KB"])
def test_transformers_own_folder_computes_what_transformers_does(
    transformers_sam: Any, tiny_sam: SamBackbone, tmp_path: Path, shard: str | None
) -> None:
    from casam_cache.backbones.prompts import Prompts

    transformers_sam.save_pretrained(tmp_path / "sam", **({} if shard is None else {"max_shard_size": shard}))
    loaded = load_backbone("small", tmp_path / "sam")
    assert loaded.fingerprint == tiny_sam.fingerprint
    # Of 1,500 draws of low-res masks four differed by more than 1e-5, the worst by 2e-5, the median by 1.4e-6.
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=draws)
    with torch.no_grad():
        embedding = loaded.encode(images, ("embedding",))["embedding"]
        assert relative_difference(embedding, transformers_sam.get_image_embeddings(images)) < 1e-5
        boxes = torch.tensor([[5.0, 9.0, 40.0, 51.0], [0.0, 3.0, 64.0, 20.0]])
        points, labels = torch.rand(2, 3, 2, generator=draws) * 64, torch.tensor([[1, 0, 1], [0, 1, 1]])
        low_res = torch.randn(2, 1, 32, 32, generator=draws)
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
