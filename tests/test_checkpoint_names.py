"""Which model a checkpoint is of, and that other weights never go by the official name."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Casam
from safetensors.torch import save_file
from sam_files import (
    CONFIG,
    N,
    State,
    optimizer,
    prefixed,
    save_pretrained,
    transformers_names,
    write_config,
)
from upstream_sam import TINY

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.checkpoints import check_state, expected_shapes, looks_like, read_checkpoint
from casam_cache.backbones.registry import load_backbone
from casam_cache.backbones.sam import ViTB, backbone_state, seeded_backbone
from casam_cache.errors import CheckpointError


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
def test_the_stand_ins_file_under_another_name(tmp_path: Path, tiny_state: State) -> None:
    save_file(tiny_state, tmp_path / "my tiny.safetensors")
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
    tmp_path: Path, tiny_state: State, option: str, value: Any
) -> None:
    vision = {**CONFIG["vision_config"], option: value}  # type: ignore[dict-item]
    write_config(tiny_state, tmp_path / "sam", vision_config=vision)
    with pytest.raises(CheckpointError, match=f"it states .* {re.escape(str(value))} instead of"):
        load_backbone("vit_b", tmp_path / "sam")


# Other weights never go by the official name


@pytest.fixture
def official(tmp_path: Path, tiny_state: State, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of `vit_b`, tiny here, by its SHA-256."""
    from casam_cache.fingerprint import digest_file

    monkeypatch.setitem(ARCHITECTURES, "vit_b", TINY)
    path = tmp_path / ViTB.filename
    torch.save(tiny_state, path)
    monkeypatch.setattr(ViTB, "sha256", digest_file(path))
    return path


def test_only_the_official_weights_go_by_the_official_name(
    casam: Casam, discs: Path, official: Path, tmp_path: Path, tiny_state: State
) -> None:
    store = casam.folder / "casam_store" / "discs"
    other = tmp_path / "medsam_vit_b.pth"
    torch.save({"model": {name: tensor + 0.01 for name, tensor in tiny_state.items()}}, other)
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
    casam: Casam, discs: Path, official: Path, tmp_path: Path, tiny_state: State
) -> None:
    again = tmp_path / "vit_b.safetensors"
    save_file(tiny_state, again)
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
    casam: Casam,
    discs: Path,
    official: Path,
    tmp_path: Path,
    tiny_state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "mine.pth"
    torch.save({name: tensor + 0.01 for name, tensor in tiny_state.items()}, other)
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
    casam: Casam, discs: Path, tmp_path: Path, tiny_state: State, tiny_is_small: None
) -> None:
    shutil.copytree(discs, discs.parent / "more")
    torch.save(prefixed("net.", tiny_state), tmp_path / "mine.pth")
    for extra in (("--dry-run",), ()):
        named = ("--model", "small", "--checkpoint", tmp_path / "mine.pth", "--name", "mine")
        casam("encode", discs.parent, *named, *extra)
        assert casam.code == 0
        assert casam.err.count("mine.pth: the prefix 'net.' is stripped") == 1


def test_a_checkpoint_written_over_inside_its_folder_is_noticed(
    casam: Casam, discs: Path, tmp_path: Path, tiny_state: State
) -> None:
    save_pretrained(transformers_names(tiny_state), tmp_path / "sam")
    named = ("--model", "small", "--checkpoint", tmp_path / "sam", "--name", "mine")
    casam("encode", discs, *named)
    assert casam.code == 0
    save_file(
        transformers_names({k: v + 1 for k, v in tiny_state.items()}), tmp_path / "sam" / "model.safetensors"
    )
    casam("encode", discs, *named)
    assert casam.code == 1
    assert "backbone.weights" in casam.err
    shutil.rmtree(tmp_path / "sam")
    casam("encode", discs, *named)
    assert casam.code == 1
    assert f"there is no checkpoint {tmp_path / 'sam'}" in casam.err


def test_reading_alone_says_the_same(tmp_path: Path, tiny_state: State) -> None:
    torch.save(prefixed("net.", tiny_state), tmp_path / "mine.pth")
    found, notes = read_checkpoint(tmp_path / "mine.pth")
    assert found.keys() == tiny_state.keys()
    assert notes == [f"mine.pth: the prefix 'net.' is stripped from all {N} names"]
