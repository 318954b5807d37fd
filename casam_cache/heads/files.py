"""Heads on disk: head.safetensors with the weights, head.json with what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.config import validated
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.registry import HEADS

WEIGHTS = "head.safetensors"
DESCRIPTION = "head.json"
VERSION = 2


def build_head(
    name: str, options: BaseModel | Mapping[str, Any] | None, backbone: Backbone, seed: int
) -> Head:
    """A new head by name; its initial weights depend on the seed, the options and the backbone alone.

    Decoder tuning starts from the backbone's own decoder. The head is on the CPU, but for that copied decoder.

    Raises:
        OptionError: for an unknown head or option, or a value of the wrong type.
    """
    made = HEADS.get(name)
    checked = options if isinstance(options, BaseModel) else validated(made.Options, options or {})
    return made.build(checked, backbone, seed)


def save_head(head: Head, folder: Path, **recorded: Any) -> None:
    """Writes head.safetensors and head.json into `folder`, which must exist.

    A head from a user's file is recorded with the SHA-256 of the file and a copy of it, so that it can be loaded after
    the file has changed.

    Args:
        head: what to write.
        folder: where.
        recorded: plain JSON kept beside it.

    Raises:
        CasamError: the head's class could not be found again.
    """
    from safetensors.torch import save

    described = HEADS.describe(type(head), folder)
    options = head.options.model_dump(mode="json")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors))
    description = {
        "version": VERSION,
        "head": described,
        "options": {name: options[name] for name in type(head).Options.model_fields if name in options},
        "parameters": head.trained_parameters(),
        "recorded": recorded,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


def head_class(folder: Path, *, trust: bool = False) -> type[Head]:
    """The class of the head that `save_head` wrote, which says what it reads; as `load_head` where there is none."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text())["head"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CasamError(f"no readable head in {folder}: {error}", "fit it again with `casam fit`") from None
    return HEADS.restore(described, folder, trust=trust)


def load_head(folder: Path, backbone: Backbone, *, trust: bool = False) -> Head:
    """The head that `save_head` wrote, on the CPU and in evaluation mode.

    Args:
        folder: where it is.
        backbone: of the dimensions it was saved with.
        trust: run the Python file that lies beside it, whoever wrote it; else only one that this user has run before.

    Raises:
        CasamError: if the files are missing, damaged, or belong to a backbone of other dimensions, or bring code that
            is not trusted.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        version, described, options = (description[name] for name in ("version", "head", "options"))
        tensors = load((folder / WEIGHTS).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CasamError(f"no readable head in {folder}: {error}", "fit it again with `casam fit`") from None
    if version != VERSION:
        raise CasamError(
            f"the head in {folder} has format {version}, this release reads {VERSION}",
            "use the release that wrote it, or fit it again with `casam fit`",
        )
    made = HEADS.restore(described, folder, trust=trust)
    try:
        head = made.build(validated(made.Options, options), backbone, 0).cpu()
    except TypeError as error:
        raise CasamError(
            f"a {made.__name__} cannot be built from its options: {error}",
            "take (options, backbone, seed) in its __init__, or define the class method build(options, backbone, seed)",
        ) from error
    try:
        head.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CasamError(
            f"the head in {folder} does not fit this backbone: {str(error).splitlines()[-1].strip()}",
            "use the --model it was fitted with",
        ) from None
    return head.eval()
