"""Files that are no plain SAM: each is refused in one line that says which it is, and no object in one ever runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam_files import (
    CONFIG,
    UNETR,
    N,
    State,
    Write,
    adapters,
    optimizer,
    prefixed,
    save_pretrained,
    transformers_names,
    under,
    write_config,
)

from casam_cache.backbones.registry import load_backbone
from casam_cache.backbones.sam import SamBackbone
from casam_cache.errors import CheckpointError


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
def test_what_is_no_plain_sam_is_refused_in_one_line(case: str, tmp_path: Path, tiny_state: State) -> None:
    name, write, expected = REFUSED[case]
    write(tiny_state, tmp_path / name)
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
    tmp_path: Path, tiny_state: State, tiny_sam: SamBackbone, monkeypatch: pytest.MonkeyPatch
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
    torch.save({"model": tiny_state, "optimizer": optimizer(), **noisy}, tmp_path / "a.pth")
    loaded = load_backbone("small", tmp_path / "a.pth")
    assert loaded.fingerprint == tiny_sam.fingerprint
    assert not (tmp_path / "was_run").exists()
    assert "Python objects in it were not loaded" in loaded.notes[0]
    torch.save({"model": {**tiny_state, "mask_decoder.iou_token.weight": Trap()}}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: mask_decoder\.iou_token\.weight"):
        load_backbone("small", tmp_path / "b.pth")
    assert not (tmp_path / "was_run").exists()
