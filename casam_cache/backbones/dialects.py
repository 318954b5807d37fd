"""Whose checkpoint it is, and its tensors under the names of `segment_anything`'s Sam state dict.

The same SAM is saved by many projects: under a key, under prefixes, with other names, with tensors of their own
beside. Whatever is unwrapped, stripped, translated, left out or converted here is said in a line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from casam_cache.backbones.architecture import PIXEL_MEAN, PIXEL_STD
from casam_cache.backbones.checkpoint_file import OTHER_FILE, tensors_in
from casam_cache.backbones.inert import Inert
from casam_cache.backbones.transformers_names import is_transformers, translations
from casam_cache.errors import CheckpointError

ENCODER, PROMPT_ENCODER, MASK_DECODER = "image_encoder.", "prompt_encoder.", "mask_decoder."

WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict")
"""Keys that trainers keep the weights under; where several hold a SAM, the first of these is taken."""

_DEPTH = 4
_SHOWN = 5
_ROOT = re.compile(
    r"(?:^|\.)(?:image_encoder|prompt_encoder|mask_decoder|vision_encoder|shared_image_embedding)\."
)
_INNER = re.compile(r"(?<=\.)(?:_orig_mod|module)\.")
_WRAPPED_BY = {"_orig_mod": "torch.compile", "module": "DataParallel"}
_CONSTANTS = {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD}
_HQ = re.compile(
    r"mask_decoder\.(?:hf_token|hf_mlp|compress_vit_feat|embedding_encoder|embedding_maskfeature"
    r"|hq_token|hq_mask_mlp|compress_vit_(?:conv|norm)\d?|encoder_(?:conv|norm)\d?|mask_(?:conv|norm)\d?)\."
)
_HQ_TOKENS = ("mask_decoder.hf_token.weight", "mask_decoder.hq_token.weight")


def sam_state(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint under SAM's names, and a line for each thing that was done to get there.

    Args:
        content: from `checkpoint_file.read_content`.
        path: for messages.

    Raises:
        CheckpointError: no named tensors, or several SAMs of which none is the obvious one.
    """
    named, notes = _unwrapped(content, path)
    for step in (_without_prefix, _without_inner_wrappers, _without_constants, _in_sams_names, _without_hq):
        named, said = step(named, path)
        notes += said
    notes += _precisions(named)
    return named, [f"{path.name}: {note}" for note in notes]


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    keys: list[str] = []
    beside: list[str] = []
    for _ in range(_DEPTH):
        if isinstance(content, Inert):
            raise CheckpointError(
                f"{path} holds a Python object, {type(content).__module__}.{type(content).__name__}, "
                "not named tensors",
                "save its state_dict() alone (torch.save or safetensors) and pass that file",
            )
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors", OTHER_FILE)
        key = _wrapper(content, path)
        if key is None:
            break
        keys.append(key)
        beside += [_described(str(name), value) for name, value in content.items() if name != key]
        content = content[key]
    named = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not named:
        raise CheckpointError(f"{path} holds no tensors", OTHER_FILE)
    beside += [_described(str(name), value) for name, value in content.items() if str(name) not in named]
    notes = []
    if keys:
        notes.append(f"the weights are those under {' and '.join(repr(key) for key in keys)}")
    beside.sort(key=lambda entry: entry.endswith("'"))  # what holds tensors first
    if beside:
        notes.append(f"left out, beside the weights: {_listed(beside, _SHOWN)}")
    return named, notes


def _wrapper(content: Mapping[str, Any], path: Path) -> str | None:
    """The key to look under; None where the weights lie here."""
    if _is_sam(content):
        return None
    holding = [key for key, value in content.items() if _holds_sam(value)]
    usual = [key for key in WRAPPERS if key in holding]
    if len(holding) > 1 and not usual:
        raise CheckpointError(
            f"{path} holds several SAMs, under {', '.join(repr(key) for key in holding)}",
            "save the one that is meant (torch.save or safetensors) and pass that file",
        )
    if holding:
        return (usual or holding)[0]
    return next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)


def _is_sam(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(tensor, Tensor) and _ROOT.search(str(name)) for name, tensor in value.items()
    )


def _holds_sam(value: Any, depth: int = _DEPTH) -> bool:
    return isinstance(value, Mapping) and (
        _is_sam(value) or (depth > 1 and any(_holds_sam(inner, depth - 1) for inner in value.values()))
    )


def _described(name: str, value: Any) -> str:
    if name == "decoder_state" and tensors_in(value):
        return f"'decoder_state' ({tensors_in(value)} tensors, micro-sam's decoder of instances)"
    count = tensors_in(value)
    return f"'{name}' ({count} tensors)" if count else f"'{name}'"


def _without_prefix(named: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """What stands before the names of SAM's three parts, whatever it is."""
    prefixes = Counter(prefix for name in named if (prefix := _prefix(name)) is not None)
    stripped = [prefix for prefix in prefixes if prefix]
    if not stripped:
        return named, []
    bare = _renamed(named, lambda name: _bare(name, stripped), path)
    notes = []
    for prefix in stripped:
        count = sum(name.startswith(prefix) for name in named)
        notes.append(
            f"the prefix '{prefix}' is stripped from {'all ' if count == len(named) else ''}{count} names"
        )
    return bare, notes


def _prefix(name: str) -> str | None:
    match = _ROOT.search(name)
    return None if match is None else name[: match.start() + (name[match.start()] == ".")]


def _bare(name: str, prefixes: Iterable[str]) -> str:
    own = _prefix(name)
    if own is None:  # tensors beside SAM's parts, such as pixel_mean
        own = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return name.removeprefix(own)


def _without_inner_wrappers(named: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """torch.compile and DataParallel of one part alone put their prefix inside the names."""
    found = Counter(part[:-1] for name in named for part in set(_INNER.findall(name)))
    if not found:
        return named, []
    notes = [
        f"'{part}.' of {_WRAPPED_BY[part]} is stripped from {n} names" for part, n in sorted(found.items())
    ]
    return _renamed(named, lambda name: _INNER.sub("", name), path), notes


def _without_constants(named: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """SAM's pixel_mean and pixel_std belong to the preprocessing, not to the weights."""
    notes = []
    for name, usual in _CONSTANTS.items():
        if name in named:
            values = named[name].flatten().float()
            if values.shape != (3,) or not torch.allclose(values, torch.tensor(usual)):
                stated = ", ".join(f"{value:g}" for value in values[:3])
                notes.append(
                    f"its {name} ({stated}) is not SAM's and is not used: preprocessing is an option"
                )
    return {name: tensor for name, tensor in named.items() if name not in _CONSTANTS}, notes


def _in_sams_names(named: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    if not is_transformers(named):
        return named, []
    to = translations(named)
    count = sum(to[name] != name for name in named)
    notes = [
        f"the names are transformers' SamModel's; {count} are translated, and the decoder's layer norms have "
        "segment_anything's epsilon, 1e-5, where transformers takes 1e-6"
    ]
    return _renamed(named, to.__getitem__, path, same=True), notes


def _without_hq(named: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    if not any(name in named for name in _HQ_TOKENS):
        return named, []
    own = [name for name in named if _HQ.match(name)]
    parts = list(dict.fromkeys(name.split(".")[1] for name in own))
    return {name: tensor for name, tensor in named.items() if name not in own}, [
        f"HQ-SAM: the {len(own)} tensors of its own decoder are left out ({_listed(parts, _SHOWN)}); "
        "it trains only those, so this is the frozen SAM that it was built on"
    ]


def _precisions(named: Mapping[str, Tensor]) -> Iterator[str]:
    others = Counter(
        str(tensor.dtype).removeprefix("torch.")
        for tensor in named.values()
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    )
    for dtype, count in sorted(others.items()):
        yield f"{count} of {len(named)} tensors are {dtype}, converted to float32"


def _renamed(named: dict[str, Tensor], rename: Any, path: Path, same: bool = False) -> dict[str, Tensor]:
    """Under new names. Two tensors that come to one name are two models, unless they are `same`, bit for bit."""
    result: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    for name, tensor in named.items():
        new = rename(name)
        if new in result and not (same and torch.equal(result[new], tensor)):
            raise CheckpointError(
                f"{path} holds two different tensors for {new}: {came_from[new]} and {name}",
                "save the model that is meant alone (torch.save or safetensors) and pass that file",
            )
        result[new], came_from[new] = tensor, name
    return result


def _listed(names: list[str], shown: int) -> str:
    return ", ".join(names[:shown]) + (f", ... {len(names) - shown} more" if len(names) > shown else "")
