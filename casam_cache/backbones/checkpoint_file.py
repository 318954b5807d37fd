"""Read whatever a checkpoint is: one file or a folder of them, safetensors or torch's, safely and by its content.

Nothing here knows what a SAM is; `dialects` does.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casam_cache.backbones.inert import read_beside_objects
from casam_cache.errors import CheckpointError

OTHER_FILE = "pass another file with --checkpoint, or leave it out for the weights of the model itself"
CONFIG = "config.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_AGAIN = "copy or download it again"
_OBJECTS = "save its state_dict() alone (torch.save or safetensors) and pass that file"
_SHOWN = 3


class Content(NamedTuple):
    """What a checkpoint holds, as it lies there, and lines for a person on how it was read."""

    content: Any
    notes: list[str]


def read_content(path: Path) -> Content:
    """What torch.save or safetensors wrote, on the CPU, never running code from it.

    torch files are memory-mapped where their format allows, so tensors must be copied before the file may change.
    A folder is one of transformers' `save_pretrained`: one file of weights, or several with an index.

    Raises:
        CheckpointError: missing, a folder without weights, an HTML page, text, a Git LFS pointer, truncated, or
            nothing but Python objects.
    """
    return _read_folder(path) if path.is_dir() else _read_file(path)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does, whatever its name ends in; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return _begins_as_safetensors(file.read(9), path)
    except OSError:
        return False


def weights_of(folder: Path) -> Path | None:
    """The file in a folder of `save_pretrained` that holds the weights or lists the files that do; None without."""
    names = [name for whole in _WHOLE for name in (whole, f"{whole}.index.json")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def tensors_in(content: Any, depth: int = 8) -> int:
    """How many tensors lie in mappings of mappings; no deeper, since a pickle may hold one that holds itself."""
    if isinstance(content, Mapping):
        return sum(tensors_in(value, depth - 1) for value in content.values()) if depth else 0
    return int(isinstance(content, Tensor))


def _read_folder(folder: Path) -> Content:
    path = weights_of(folder)
    if path is None:
        raise CheckpointError(
            f"the checkpoint {folder} is a folder without {' or '.join(_WHOLE)}",
            "pass a file, or a folder that transformers' save_pretrained wrote",
        )
    if path.suffix != ".json":
        content, notes = _read_file(path)
        return Content(content, [f"{folder.name}: the weights are {path.name} in this folder", *notes])
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in shards if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not say which files hold the weights", _AGAIN) from error
    if outside:
        raise CheckpointError(f"{path} names a file outside its folder: {outside[0]}", _AGAIN)
    tensors: dict[str, Any] = {}
    notes = [f"{folder.name}: the weights are {len(shards)} files of this folder, as {path.name} says"]
    for name in shards:
        part = _read_file(folder / name)
        if not isinstance(part.content, Mapping):
            raise CheckpointError(f"{folder / name} holds no named tensors", _AGAIN)
        tensors.update(part.content)
        notes += part.notes
    return Content(tensors, notes)


def _read_file(path: Path) -> Content:
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}", OTHER_FILE) from None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}", OTHER_FILE) from error
    if not start:
        raise CheckpointError(f"the checkpoint {path} is empty", _AGAIN)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: what was saved is the page around the download",
            "download the file itself, or leave out --checkpoint to fetch the official one",
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights: the repository was cloned without its large files",
            "run git lfs pull in that repository",
        )
    named = path.suffix == ".safetensors"
    found = _begins_as_safetensors(start, path)
    if found or (named and not start.startswith((b"PK", b"\x80"))):
        return Content(
            _read_safetensors(path), [] if named else [f"{path.name}: is safetensors, whatever its name says"]
        )
    content, notes = _read_pickle(path, start)
    return Content(
        content, [f"{path.name}: is a torch file, whatever its name says", *notes] if named else notes
    )


def _begins_as_safetensors(start: bytes, path: Path) -> bool:
    """Eight bytes that are the length of a header, then the header, JSON."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}", _AGAIN) from error


def _read_pickle(path: Path, start: bytes) -> Content:
    archive = zipfile.is_zipfile(path)
    if start.startswith(b"PK") and not archive:
        raise CheckpointError(f"the checkpoint {path} is truncated", _AGAIN)
    if archive:
        _check_archive(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            # Whatever it says about a pickle's protocol, the outcome is tensors or one of the errors below.
            warnings.simplefilter("ignore")
            # Only archives can be memory-mapped (before torch 1.6 checkpoints were bare pickles), and only by
            # their path, whose ending torch would take for the format.
            mapped = archive and path.suffix != ".safetensors"
            content = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
            return Content(content, [])
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error) or not (archive or start[:1] == b"\x80"):
            raise CheckpointError(
                f"{path} is not a checkpoint: neither a torch file nor .safetensors", OTHER_FILE
            ) from error
        refused = CheckpointError(
            f"{path} holds Python objects beside tensors; loading them could run code, so it was refused",
            _OBJECTS,
        )
        if not archive:
            raise refused from error
        return _without_objects(path, refused)
    except Exception as error:  # half a pickle can fail in any way, struct.error and MemoryError among them
        if not (archive or start[:1] == b"\x80"):
            raise CheckpointError(
                f"{path} is not a checkpoint: neither a torch file nor .safetensors", OTHER_FILE
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path} is truncated, damaged or not a checkpoint ({reason})", _AGAIN
        ) from error


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not a state dict", _OBJECTS)
    if not any(name.endswith("data.pkl") for name in names):
        inside = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise CheckpointError(
            f"{path} is a zip archive, not a checkpoint; it holds {inside or 'nothing'}",
            "unpack it and pass the file that is inside",
        )


def _without_objects(path: Path, refused: CheckpointError) -> Content:
    """The tensors of a trainer's checkpoint, whose other objects are not loaded; refused if it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content, classes = read_beside_objects(path)
    except Exception as error:  # a pickle made to do harm can fail in any way
        raise refused from error
    if not tensors_in(content):
        raise refused
    named = ", ".join(classes[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
    return Content(
        content, [f"{path.name}: Python objects in it were not loaded, as that could run code: {named}"]
    )
