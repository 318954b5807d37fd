"""Checkpoint files: whatever container the weights come in, and one clear message for whatever is wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sam_files import be_small
from upstream_sam import TINY

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.checkpoints import check_state, expected_shapes, looks_like, read_checkpoint
from casam_cache.backbones.registry import load_backbone
from casam_cache.backbones.sam import SamBackbone, backbone_state, seeded_backbone
from casam_cache.errors import CheckpointError

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def backbone() -> SamBackbone:
    return seeded_backbone(TINY, seed=4)


@pytest.fixture
def state(backbone: SamBackbone) -> State:
    return backbone_state(backbone)


@pytest.fixture(autouse=True)
def tiny_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`small` is the tiny architecture here, and nothing is remembered outside of the test's folder."""
    be_small(TINY, tmp_path / "weights", monkeypatch)
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "cache"))


def save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[State, Path], None]] = {
    "plain.pth": torch.save,
    "plain.pt": torch.save,
    "legacy.pth": save_legacy,
    "plain.safetensors": save_file,
    "wrapped.pth": lambda state, path: torch.save(
        {"model": state, "epoch": 3, "optimizer": {"state": {}}}, path
    ),
    "lightning.pth": lambda state, path: torch.save({"state_dict": state}, path),
    "parallel.pth": lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path),
    "nested.pth": lambda state, path: torch.save(
        {"model": {f"module.sam.{k}": v for k, v in state.items()}}, path
    ),
    "constants.pth": lambda state, path: torch.save({**state, "pixel_mean": torch.zeros(3, 1, 1)}, path),
    "reordered.pth": lambda state, path: torch.save(dict(reversed(state.items())), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_gives_the_same_backbone(
    name: str, tmp_path: Path, backbone: SamBackbone, state: State
) -> None:
    path = tmp_path / name
    WRITERS[name](state, path)
    loaded = load_backbone("small", path)
    assert loaded.fingerprint == backbone.fingerprint
    assert loaded.checkpoint == path
    for key, tensor in backbone_state(loaded).items():
        assert torch.equal(tensor, state[key])


def test_half_precision_weights_are_widened(tmp_path: Path, state: State) -> None:
    halves = {key: tensor.half() for key, tensor in state.items()}
    torch.save(halves, tmp_path / "half.pth")
    save_file({key: tensor.float() for key, tensor in halves.items()}, tmp_path / "wide.safetensors")
    half, wide = (load_backbone("small", tmp_path / name) for name in ("half.pth", "wide.safetensors"))
    assert half.fingerprint == wide.fingerprint
    assert {tensor.dtype for tensor in backbone_state(half).values()} == {torch.float32}


def test_weights_outlive_their_file(tmp_path: Path, state: State) -> None:
    """Torch maps the file into memory; a checkpoint overwritten later must not change what was loaded."""
    path = tmp_path / "sam.pth"
    torch.save(state, path)
    loaded = load_backbone("small", path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert all(torch.equal(tensor, state[key]) for key, tensor in backbone_state(loaded).items())


def test_loading_leaves_the_callers_random_numbers_alone(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "sam.pth")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load_backbone("small", tmp_path / "sam.pth")
    assert torch.equal(torch.rand(1), expected)


# bad input


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("was_run"),)  # type: ignore[return-value]


def write_malicious(path: Path, _state: State) -> None:
    torch.save({"model": Malicious()}, path)


def write_malicious_pickle(path: Path, _state: State) -> None:
    path.write_bytes(pickle.dumps(Malicious()))


def write_truncated(path: Path, state: State) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_truncated_legacy(path: Path, state: State) -> None:
    save_legacy(state, path)
    path.write_bytes(path.read_bytes()[:5000])


def write_truncated_safetensors(path: Path, state: State) -> None:
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])


BAD: dict[str, tuple[str, Callable[[Path, State], object], str]] = {
    "missing": ("a.pth", lambda path, _: None, "there is no checkpoint"),
    "folder": ("a.pth", lambda path, _: path.mkdir(), "is a folder"),
    "empty": ("a.pth", lambda path, _: path.touch(), "is empty"),
    "text": ("a.pth", lambda path, _: path.write_text("my weights\n" * 50), "not a checkpoint"),
    "text.safetensors": (
        "a.safetensors",
        lambda path, _: path.write_text("hi\n" * 50),
        "not a safetensors file",
    ),
    "web page": ("a.pth", lambda path, _: path.write_text("\n<!DOCTYPE html><html>404"), "is a web page"),
    "web page.safetensors": ("a.safetensors", lambda path, _: path.write_text("<html>404"), "is a web page"),
    "truncated": ("a.pth", write_truncated, "truncated"),
    "truncated legacy": ("a.pth", write_truncated_legacy, "truncated"),
    "truncated.safetensors": ("a.safetensors", write_truncated_safetensors, "truncated"),
    "malicious": ("a.pth", write_malicious, "refused"),
    "malicious pickle": ("a.pth", write_malicious_pickle, "refused"),
    "a list": ("a.pth", lambda path, _: torch.save([1, 2], path), "not named tensors"),
    "no tensors": ("a.pth", lambda path, _: torch.save({"epoch": 3}, path), "no tensors"),
    "NaN": (
        "a.pth",
        lambda path, state: torch.save(
            {**state, "mask_decoder.iou_token.weight": torch.full((1, 16), torch.nan)}, path
        ),
        "NaN or infinite weights in mask_decoder.iou_token.weight",
    ),
    "integers": (
        "a.pth",
        lambda path, state: torch.save(
            {**state, "mask_decoder.iou_token.weight": torch.ones(1, 16, dtype=torch.int8)}, path
        ),
        "holds torch.int8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_one_clear_message(
    case: str, tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, write, expected = BAD[case]
    path = tmp_path / name
    write(path, state)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_backbone("small", path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert not (tmp_path / "was_run").exists()


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path, state: State) -> None:
    missing = [key for key in state if key.startswith("mask_decoder.transformer")]
    for key in missing:
        del state[key]
    state["image_encoder.adapter.weight"] = torch.zeros(2)
    state["image_encoder.pos_embed"] = torch.zeros(1, 4, 4, TINY.width)
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError) as caught:
        load_backbone("small", tmp_path / "sam.pth")
    message = caught.value.message
    assert f"{len(missing)} missing: {missing[0]}, " in message
    assert ", ...;" in message
    assert "1 unexpected: image_encoder.adapter.weight" in message
    assert (
        f"1 misshapen: image_encoder.pos_embed (1, 4, 4, {TINY.width}) instead of (1, 8, 8, {TINY.width})"
        in message
    )


def test_checkpoint_of_another_architecture_is_named(tmp_path: Path) -> None:
    shapes = expected_shapes(ARCHITECTURES["vit_l"])
    vit_l = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    assert looks_like(vit_l) == "vit_l"
    with pytest.raises(CheckpointError, match="this looks like a vit_l checkpoint: --model vit_l") as caught:
        check_state(vit_l, ARCHITECTURES["vit_b"], tmp_path / "sam.pth", "vit_b")
    assert "does not fit vit_b" in caught.value.message
    assert len(caught.value.message) < 1000
    assert looks_like({"weight": torch.zeros(1)}) is None


def test_damaged_metadata_of_a_safetensors_file(tmp_path: Path, state: State) -> None:
    path = tmp_path / "sam.safetensors"
    save_file(state, path, metadata={"architecture": "{"})
    with pytest.raises(CheckpointError, match="not a readable safetensors checkpoint"):
        load_backbone("small", path)


def test_read_checkpoint_keeps_sam_names(tmp_path: Path, state: State) -> None:
    torch.save({"model": state}, tmp_path / "sam.pth")
    assert read_checkpoint(tmp_path / "sam.pth").state.keys() == state.keys()
