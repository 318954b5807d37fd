"""Read a SAM checkpoint file: safely, strictly, and with one clear message for whatever is wrong with it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.errors import CheckpointError

if TYPE_CHECKING:
    from casam_cache.backbones.published import Dimensions

ENCODER, PROMPT_ENCODER, MASK_DECODER = "image_encoder.", "prompt_encoder.", "mask_decoder."
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "sam.", "model.")
_IGNORED = ("pixel_mean", "pixel_std")
_SHOWN = 3
_OTHER_FILE = "pass another file with --checkpoint, or leave it out to download the official one"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names of `segment_anything`'s Sam state dict, on the CPU.

    `.safetensors`, or whatever torch.save wrote (memory-mapped where its format allows, so the tensors must
    be copied before the file may change), never running code from it. {"model": ...} and {"state_dict": ...}
    are unwrapped, the prefixes of DataParallel and of wrapping classes stripped, SAM's constants pixel_mean
    and pixel_std left out.

    Raises:
        CheckpointError: missing, a folder, an HTML page, text, truncated, a pickle with code, or without SAM
        tensors.
    """
    content = _read_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors", _OTHER_FILE)
    state = {
        _bare(str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor) and _bare(str(name)) not in _IGNORED
    }
    if not state:
        raise CheckpointError(f"{path} holds no tensors", _OTHER_FILE)
    return state


def _bare(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _read_file(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"the checkpoint {path} is a folder, not a file", _OTHER_FILE)
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}", _OTHER_FILE) from None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}", _OTHER_FILE) from error
    if not start:
        raise CheckpointError(f"the checkpoint {path} is empty", "copy or download it again")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: what was saved is the page around the download",
            "download the file itself, or leave out --checkpoint to fetch the official one",
        )
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, start)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: {error}", "copy or download it again"
        ) from error


def _read_pickle(path: Path, start: bytes) -> Any:
    archive = zipfile.is_zipfile(path)
    if start.startswith(b"PK") and not archive:
        raise CheckpointError(f"the checkpoint {path} is truncated", "copy or download it again")
    try:
        with warnings.catch_warnings():
            # Whatever it says about a pickle's protocol, the outcome is tensors or one of the errors below.
            warnings.simplefilter("ignore")
            # Only archives can be memory-mapped; before torch 1.6 checkpoints were bare pickles.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and (archive or start[:1] == b"\x80"):
            raise CheckpointError(
                f"{path} holds Python objects beside tensors; loading them could run code, so it was refused",
                "save its state_dict() alone (torch.save or safetensors) and pass that file",
            ) from error
        raise CheckpointError(
            f"{path} is not a checkpoint: neither a torch file nor .safetensors", _OTHER_FILE
        ) from error
    except Exception as error:  # half a pickle can fail in any way, struct.error and MemoryError among them
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path} is truncated, damaged or not a checkpoint ({reason})", "copy or download it again"
        ) from error


def empty_modules(architecture: Dimensions) -> dict[str, nn.Module]:
    """The modules of a SAM by their prefix in its state dict, their weights to be replaced.

    The encoder is built without memory. The small rest is not: normal_ on the meta device imports sympy, two
    seconds. It is initialised from a copy of the random state, because the caller's must not move.
    """
    with torch.random.fork_rng(devices=[]):
        prompt_encoder, mask_decoder = architecture.build_decoder()
    with torch.device("meta"):
        encoder = architecture.build_encoder()
    return {PROMPT_ENCODER: prompt_encoder, MASK_DECODER: mask_decoder, ENCODER: encoder}


@cache
def expected_shapes(architecture: Dimensions) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a SAM."""
    return {
        f"{prefix}{name}": tuple(tensor.shape)
        for prefix, module in empty_modules(architecture).items()
        for name, tensor in module.state_dict().items()
    }


def check_state(state: Mapping[str, Tensor], architecture: Dimensions, path: Path, model: str) -> None:
    """Refuse a checkpoint unless it has exactly the tensors of the architecture, with finite numbers.

    Args:
        state: from `read_checkpoint`.
        architecture: what it must fit.
        path: for the message.
        model: for the message.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors (the first few of each are listed, and the
            architecture they do fit is named), or NaN or infinite weights.
    """
    expected = expected_shapes(architecture)
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        fits = looks_like(state)
        hint = (
            f"this looks like a {fits} checkpoint: --model {fits}"
            if fits not in (None, model)
            else _OTHER_FILE
        )
        raise CheckpointError(f"{path} does not fit {model}: {'; '.join(problems)}", hint)
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path} does not fit {model}: {name} holds {tensor.dtype}", _OTHER_FILE)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path} holds NaN or infinite weights in {name}",
                "the training that wrote it diverged, or it is damaged",
            )


def looks_like(state: Mapping[str, Tensor]) -> str | None:
    """The official architecture that nearly all of these tensors fit by name and shape, or None."""
    for name, architecture in ARCHITECTURES.items():
        expected = expected_shapes(architecture)
        fitting = sum(key in state and tuple(state[key].shape) == shape for key, shape in expected.items())
        if fitting >= 0.9 * len(expected):
            return name
    return None
