"""Beside the stores, once for each backbone: its decoder's weights and where its checkpoint was.

DIR/.backbones/FINGERPRINT.safetensors    prompt encoder and mask decoder, all that training and evaluation need
DIR/.backbones/FINGERPRINT.json           the model's name and the checkpoint file, for whoever needs the encoder
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from casam_cache.errors import CheckpointError
from casam_cache.store.files import disk_errors

if TYPE_CHECKING:
    import torch

    from casam_cache.backbones.sam import Backbone

FOLDER = ".backbones"


def remember_backbone(stores: Path, backbone: Backbone) -> None:
    """Keeps what fitting from the stores will need; a file that is whole is left alone."""
    from casam_cache.backbones.sam import load_decoder, save_decoder

    weights, source = _paths(stores, backbone.fingerprint)
    try:
        load_decoder(weights)
    except CheckpointError:  # missing, damaged, or written in another format
        with disk_errors(weights):
            save_decoder(backbone, weights)
    checkpoint = backbone.checkpoint
    stated = {"model": backbone.name, "checkpoint": None if checkpoint is None else str(checkpoint.resolve())}
    text = json.dumps(stated, indent=1) + "\n"
    if not source.exists() or source.read_text() != text:
        partial = source.with_suffix(f".{os.getpid()}.tmp")  # two encodes may write it at once
        with disk_errors(source):
            partial.write_text(text)
            os.replace(partial, source)


def has_decoder(stores: Path, fingerprint: str) -> bool:
    """Whether the file that fitting needs is there."""
    return _paths(stores, fingerprint)[0].is_file()


def decoder_of(stores: Path, fingerprint: str, device: torch.device | str = "cpu") -> Backbone:
    """The backbone of a store without its encoder.

    Raises:
        CheckpointError: if its file is missing or damaged.
    """
    from casam_cache.backbones.sam import load_decoder

    weights, _ = _paths(stores, fingerprint)
    if not weights.exists():
        raise CheckpointError(
            f"the decoder weights of this store are missing: {weights}",
            "run the same casam encode command again: it writes them without encoding anything",
        )
    try:
        return load_decoder(weights, device)
    except CheckpointError as error:
        again = f"remove {weights} and run the same casam encode command again: it writes the file anew"
        raise CheckpointError(error.message, again) from error


def whole_backbone(
    stores: Path, fingerprint: str, checkpoint: Path | None = None, device: torch.device | str = "cpu"
) -> Backbone:
    """The backbone of a store with its encoder, from the checkpoint it was encoded with.

    Args:
        stores: folder of stores.
        fingerprint: of the store's backbone.
        checkpoint: where the file is now, if not where it was.
        device: where to put it.

    Raises:
        CheckpointError: if the checkpoint is missing or holds other weights.
    """
    from casam_cache.backbones.sam import load_backbone

    _, source = _paths(stores, fingerprint)
    try:
        stated = json.loads(source.read_text())
    except (OSError, ValueError):
        raise CheckpointError(
            f"nothing says which checkpoint this store was encoded with: {source} is missing",
            "run the same casam encode command again: it writes the file without encoding anything",
        ) from None
    if checkpoint is None and stated["checkpoint"] is not None:
        known = Path(stated["checkpoint"])
        checkpoint = known if known.exists() else None  # official files are found, or fetched, by name
    backbone = load_backbone(stated["model"], checkpoint, device=device)
    if backbone.fingerprint != fingerprint:
        raise CheckpointError(
            f"{backbone.checkpoint} holds other weights than this store was encoded with",
            f"name the right file with --checkpoint (it was {stated['checkpoint']})",
        )
    return backbone


def _paths(stores: Path, fingerprint: str) -> tuple[Path, Path]:
    folder = stores / FOLDER
    return folder / f"{fingerprint[:20]}.safetensors", folder / f"{fingerprint[:20]}.json"
