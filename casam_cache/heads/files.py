"""Heads by name, and heads on disk: head.safetensors with the weights, head.json with what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import BaseModel
from torch import nn

from casam_cache.backbones.sam import Backbone
from casam_cache.config import validated
from casam_cache.errors import CasamError, unknown_name
from casam_cache.heads.alignment import AlignmentLayer
from casam_cache.heads.base import Head
from casam_cache.heads.decoder import DecoderTuning
from casam_cache.heads.hq import HQDecoder
from casam_cache.heads.identity import Identity
from casam_cache.heads.options import OPTIONS
from casam_cache.heads.prompt_pool import PromptPool
from casam_cache.references import describe_class, find_class

WEIGHTS = "head.safetensors"
DESCRIPTION = "head.json"
VERSION = 1


class Dimensions(Protocol):
    """What a head needs of an architecture."""

    @property
    def channels(self) -> int:
        """C of the image embedding."""

    @property
    def width(self) -> int:
        """Of the ViT, and of the early feature."""


class HasDecoder(Protocol):
    """What building a head needs of a backbone: its dimensions and its mask decoder."""

    @property
    def architecture(self) -> Dimensions:
        """Dimensions of the embedding."""

    @property
    def mask_decoder(self) -> nn.Module:
        """The frozen mask decoder."""

    @property
    def neck(self) -> tuple[float, float]:
        """Mean and deviation over the channels of a typical embedding cell."""


def head_options(name: str, values: Mapping[str, Any] | None = None) -> BaseModel:
    """The validated options of the head `name`.

    Raises:
        OptionError: for an unknown head or option, or a value of the wrong type.
    """
    if name not in OPTIONS:
        raise unknown_name("head", name, list(OPTIONS))
    return validated(OPTIONS[name], values or {})


def build_head(
    name: str, options: BaseModel | Mapping[str, Any] | None, backbone: HasDecoder, seed: int
) -> Head:
    """A new head; its initial weights depend on the seed, the options and the backbone alone.

    Decoder tuning starts from the backbone's own decoder. The head is on the CPU, but for that copied
    decoder.

    Raises:
        OptionError: for an unknown head or option, or a value of the wrong type.
    """
    checked = options if isinstance(options, BaseModel) else head_options(name, options)
    if name not in _BUILDERS:
        raise unknown_name("head", name, list(_BUILDERS))
    return _BUILDERS[name](checked, backbone, seed)


def save_head(head: Head, folder: Path, **recorded: Any) -> None:
    """Writes head.safetensors and head.json into `folder`, which must exist.

    A head of another package is recorded by its module and class; one from a user's file by the file and its
    SHA-256, with a copy of the file, so that it can be loaded after the file has changed.

    Args:
        head: what to write.
        folder: where.
        recorded: plain JSON kept beside it, e.g. the backbone's fingerprint.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors))
    description = {
        "version": VERSION,
        "head": head.name,
        **_foreign(head, folder),
        "options": head.options.model_dump(mode="json"),
        "parameters": head.trained_parameters(),
        "recorded": recorded,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


def load_head(folder: Path, backbone: HasDecoder) -> Head:
    """The head that `save_head` wrote, on the CPU and in evaluation mode.

    Raises:
        CasamError: if the files are missing, damaged, or belong to a backbone of other dimensions.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CasamError(f"no readable head in {folder}: {error}", "fit it again with `casam fit`") from None
    if description.get("version") != VERSION:
        raise CasamError(
            f"the head in {folder} has format {description.get('version')}, this release reads {VERSION}",
            "use the release that wrote it, or fit it again with `casam fit`",
        )
    head = _rebuilt(description, folder, backbone).cpu()
    try:
        head.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CasamError(
            f"the head in {folder} does not fit this backbone: {str(error).splitlines()[-1].strip()}",
            "use the --model it was fitted with",
        ) from None
    return head.eval()


def _foreign(head: Head, folder: Path) -> dict[str, Any]:
    """How to find the classes of a head that is not of this package."""
    if type(head) in _BUILT_IN:
        return {}
    return {
        "class": describe_class(type(head), folder),
        "options_class": describe_class(type(head.options), folder),
    }


def _rebuilt(description: Mapping[str, Any], folder: Path, backbone: HasDecoder) -> Head:
    if "class" not in description:
        return build_head(description["head"], description["options"], backbone, seed=0)
    made = find_class(description["class"], folder)
    options = validated(find_class(description["options_class"], folder), description["options"])
    if not issubclass(made, Head):
        raise CasamError(f"{made.__name__}, named in {folder / DESCRIPTION}, is not a {Head.__name__}")
    try:
        return made.rebuild(options, cast(Backbone, backbone))
    except TypeError as error:
        raise CasamError(
            f"a {made.__name__} cannot be built from its options: {error}",
            "take (options, backbone, seed) in its __init__, or define the class method rebuild(options, backbone)",
        ) from error


def _alignment(options: Any, backbone: HasDecoder, seed: int) -> Head:
    return AlignmentLayer(backbone.architecture.channels, options, seed, backbone.neck)


def _identity(options: Any, backbone: HasDecoder, seed: int) -> Head:
    return Identity(options)


def _decoder(options: Any, backbone: HasDecoder, seed: int) -> Head:
    return DecoderTuning(backbone.mask_decoder, options)


def _hq(options: Any, backbone: HasDecoder, seed: int) -> Head:
    return HQDecoder(
        backbone.mask_decoder, backbone.architecture.channels, backbone.architecture.width, options, seed
    )


def _prompt_pool(options: Any, backbone: HasDecoder, seed: int) -> Head:
    return PromptPool(backbone.architecture.channels, options, seed, backbone.neck)


_BUILDERS: dict[str, Callable[[Any, HasDecoder, int], Head]] = {
    "alignment": _alignment,
    "decoder": _decoder,
    "hq-sam": _hq,
    "identity": _identity,
    "prompt-pool": _prompt_pool,
}
_BUILT_IN: tuple[type[Head], ...] = (AlignmentLayer, DecoderTuning, HQDecoder, Identity, PromptPool)
