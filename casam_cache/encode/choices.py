"""What the machine has a say in when a store is begun: precision, form of the computation, images a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.devices import choose_devices, choose_precision
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.race import fitting_batch
from casam_cache.backbones.registry import load_backbone
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.preprocessing import with_preprocessing
from casam_cache.errors import OptionError
from casam_cache.store import EmbeddingStore
from casam_cache.store.schema import ROOT


@dataclass(frozen=True)
class Choices:
    """How a store is computed; what it says of itself comes before what the machine would choose.

    Attributes:
        device: kind of device: `cpu`, `cuda` or `mps`.
        precision: `fp32` or `bf16`.
        settings: of the backbone, as `Backbone.choose_settings` gives them.
        compiled: through torch.compile.
        batch_size: images a forward pass of what is planned now; None: chosen once the encoders are there.
    """

    device: str
    precision: str
    settings: dict[str, Any]
    compiled: bool
    batch_size: int | None = None


def choices_of(path: Path, backbone: Backbone, options: EncodeOptions) -> Choices:
    """What this machine chooses for the store at `path`.

    Raises:
        OptionError: torch.compile is asked for and does not work here.
    """
    _check_compiles(path, backbone, options)
    precision = precision_of(options, path, backbone.device)
    settings = settings_of(path, backbone, options, precision)
    return Choices(backbone.device.type, precision, settings, _is_compiled(path, options))


def choose_there(path: Path, options: EncodeOptions) -> Choices:
    """The same and the images a forward pass, on the machine that will encode: what a worker is asked first."""
    devices = choose_devices(options.device)
    backbone = load_backbone(options.model, options.checkpoint, device=devices[0])
    backbone = with_preprocessing(backbone, options.preprocess, options.checkpoint, identity_of(path))
    made = choices_of(path, backbone, options)
    encoder = FrozenEncoder(backbone, made.precision, compiled=made.compiled, **made.settings)
    return replace(made, batch_size=batch_size_of(options, [encoder]))


def identity_of(path: Path) -> dict[str, Any] | None:
    return EmbeddingStore.open(path).identity if (path / ROOT).exists() else None


def precision_of(options: EncodeOptions, path: Path, device: torch.device) -> str:
    """The encoder's precision: `auto` goes on with what the store was begun with, also on another device."""
    stated = identity_of(path)
    if options.precision == "auto" and stated is not None:
        return str(stated["precision"])
    return choose_precision(options.precision, device)


def dtype_of(options: EncodeOptions, path: Path) -> str:
    """Of the stored embeddings: `auto` goes on with what the store was begun with."""
    stated = identity_of(path)
    if options.dtype == "auto" and stated is not None:
        return str(stated["embedding"]["dtype"])
    return "float16" if options.dtype == "auto" else options.dtype


def batch_size_of(options: EncodeOptions, encoders: Sequence[FrozenEncoder]) -> int:
    """Images a forward pass: as asked for; on CUDA what each device's memory holds; elsewhere by the input's size."""
    if options.batch_size is not None:
        return options.batch_size
    if encoders[0].device.type == "cuda":
        return min(fitting_batch(encoder, (EMBEDDING, *options.extra)) for encoder in encoders)
    if encoders[0].backbone.image_a_core:
        return max(8, torch.get_num_threads())
    # On a CPU large inputs gain nothing from batches and a small one commits sooner.
    return 8 if encoders[0].device.type != "cpu" or encoders[0].backbone.image_size < 512 else 1


def encoder_of(path: Path, backbone: Backbone) -> FrozenEncoder:
    """The encoder that computes what the store at `path` lacks as it computed the rest."""
    return FrozenEncoder.of(backbone, EmbeddingStore.open(path).identity)


def settings_of(path: Path, backbone: Backbone, options: EncodeOptions, precision: str) -> dict[str, Any]:
    """What the backbone chose when the store was begun; stores of before that was noted stay as they are."""
    stated = identity_of(path)
    if stated is not None:
        return {name: stated[name] for name in backbone.settings if name in stated}
    size = batch_size_of(options, [FrozenEncoder(backbone, precision)])
    return backbone.choose_settings(precision, size)


def _is_compiled(path: Path, options: EncodeOptions) -> bool:
    """Asked for, or how the store was begun."""
    stated = identity_of(path)
    return options.compiled or (stated is not None and stated.get("compiled", False))


def _check_compiles(path: Path, backbone: Backbone, options: EncodeOptions) -> None:
    """A store that says it is compiled could never be finished where nothing compiles: try before there is one."""
    if not options.compiled or identity_of(path) is not None:
        return
    encoder = FrozenEncoder(backbone, precision_of(options, path, backbone.device), compiled=True)
    side = backbone.image_size
    try:
        encoder(torch.zeros((1, 3, side, side), dtype=torch.uint8), torch.full((1, 2), side))
    except Exception as error:  # whatever a compiler says
        raise OptionError(
            f"torch.compile does not work here: {type(error).__name__}: {error}".splitlines()[0],
            "encode without --compile",
        ) from error
