"""Beside the stores, once for each backbone: its decoder's weights, its class, and where its checkpoint was.

DIR/.backbones/FINGERPRINT.safetensors    what fitting and evaluation need, as the backbone's `save_decoder` writes it
DIR/.backbones/FINGERPRINT.json           the class that reads it, and the checkpoint for whoever needs the encoder
DIR/.backbones/source-SHA256.py           a copy of the user's file that a class is from

A copy is only run if this user has named that file before, or says to trust it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.preprocess import resize_for_encoder
from casam_cache.backbones.published import PublishedSam
from casam_cache.backbones.registry import BACKBONES
from casam_cache.errors import CheckpointError
from casam_cache.store.files import disk_errors

if TYPE_CHECKING:
    import numpy as np
    import torch

    from casam_cache.geometry import Geometry

FOLDER = ".backbones"
_AGAIN = "run the same casam encode command again: it writes the file without encoding anything"


def remember_backbone(stores: Path, backbone: Backbone) -> None:
    """Keeps what fitting from the stores will need; a file that is whole is left alone."""
    weights, source = _paths(stores, backbone.fingerprint)
    with disk_errors(weights):
        weights.parent.mkdir(parents=True, exist_ok=True)
        described = BACKBONES.describe(type(backbone), weights.parent)
    try:
        backbone.load_decoder(weights)
    except CheckpointError:  # missing, damaged, or written in another format
        with disk_errors(weights):
            backbone.save_decoder(weights)
    checkpoint = backbone.checkpoint
    stated = {
        "model": backbone.name,
        "backbone": described,
        "checkpoint": None if checkpoint is None else str(checkpoint.resolve()),
    }
    text = json.dumps(stated, indent=1) + "\n"
    if not source.exists() or source.read_text() != text:
        partial = source.with_suffix(f".{os.getpid()}.tmp")  # two encodes may write it at once
        with disk_errors(source):
            partial.write_text(text)
            os.replace(partial, source)


def has_decoder(stores: Path, fingerprint: str) -> bool:
    """Whether the files that fitting needs are there."""
    return all(path.is_file() for path in _paths(stores, fingerprint))


def decoder_of(
    stores: Path, fingerprint: str, device: torch.device | str = "cpu", *, trust: bool = False
) -> Backbone:
    """The backbone of a store without its encoder.

    Args:
        stores: folder of stores.
        fingerprint: of the store's backbone.
        device: where to put it.
        trust: run the Python file that lies beside it, whoever wrote it.

    Raises:
        CheckpointError: if its file is missing or damaged.
        CasamError: its class cannot be found, or brings code that is not trusted.
    """
    weights, _ = _paths(stores, fingerprint)
    if not weights.exists():
        raise CheckpointError(
            f"the decoder weights of this store are missing: {weights}",
            "run the same casam encode command again: it writes them without encoding anything",
        )
    cls = _class_of(stores, _stated(stores, fingerprint), trust)
    try:
        return cls.load_decoder(weights, device)
    except CheckpointError as error:
        again = f"remove {weights} and run the same casam encode command again: it writes the file anew"
        raise CheckpointError(error.message, again) from error


def whole_backbone(
    stores: Path,
    fingerprint: str,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    trust: bool = False,
) -> Backbone:
    """The backbone of a store with its encoder, from the checkpoint it was encoded with.

    Args:
        stores: folder of stores.
        fingerprint: of the store's backbone.
        checkpoint: where the file is now, if not where it was.
        device: where to put it.
        trust: as for `decoder_of`.

    Raises:
        CheckpointError: if the checkpoint is missing or holds other weights.
        CasamError: as for `decoder_of`.
    """
    stated = _stated(stores, fingerprint)
    if checkpoint is None and stated["checkpoint"] is not None:
        known = Path(stated["checkpoint"])
        checkpoint = known if known.exists() else None  # official files are found, or fetched, by name
    backbone = _class_of(stores, stated, trust).load(checkpoint, device=device)
    if backbone.fingerprint != fingerprint:
        raise CheckpointError(
            f"{backbone.checkpoint} holds other weights than this store was encoded with",
            f"name the right file with --checkpoint (it was {stated['checkpoint']})",
        )
    return backbone


@dataclass(frozen=True)
class _Preparation:
    """`prepare` of a backbone, found again in another process by what `BACKBONES.describe` said of it."""

    described: Mapping[str, Any]
    folder: Path

    def __call__(self, image: np.ndarray, geometry: Geometry) -> np.ndarray:
        # The process that sends this has run the file, so this one may run its copy.
        return BACKBONES.restore(self.described, self.folder, trust=True).prepare(image, geometry)


def preparation(stores: Path, backbone: Backbone) -> Callable[[np.ndarray, Geometry], np.ndarray]:
    """A backbone's `prepare` for the processes that decode images, which know no torch where it is the usual one.

    Args:
        stores: folder of stores, to which `remember_backbone` has come.
        backbone: whose.
    """
    if type(backbone).prepare is Backbone.prepare:
        return resize_for_encoder
    if isinstance(backbone, PublishedSam):
        return backbone.preset.prepare
    folder = stores / FOLDER
    return _Preparation(BACKBONES.describe(type(backbone), folder), folder)


def _stated(stores: Path, fingerprint: str) -> dict[str, Any]:
    _, source = _paths(stores, fingerprint)
    try:
        stated: dict[str, Any] = json.loads(source.read_text())
    except (OSError, ValueError):
        raise CheckpointError(
            f"nothing says which backbone this store was encoded with: {source} is missing", _AGAIN
        ) from None
    return stated


def _class_of(stores: Path, stated: Mapping[str, Any], trust: bool) -> type[Backbone]:
    """Files of before classes were noted name one of the built-in models."""
    described = stated.get("backbone", {"name": stated["model"]})
    return BACKBONES.restore(described, stores / FOLDER, trust=trust)


def _paths(stores: Path, fingerprint: str) -> tuple[Path, Path]:
    folder = stores / FOLDER
    return folder / f"{fingerprint[:20]}.safetensors", folder / f"{fingerprint[:20]}.json"
