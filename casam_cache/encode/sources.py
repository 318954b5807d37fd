"""Beside the stores, once for each backbone: its decoder's weights, its class, and where its checkpoint was.

DIR/.backbones/FINGERPRINT.safetensors    what fitting and evaluation need, as the backbone's `save_decoder` writes it
DIR/.backbones/FINGERPRINT.json           the class that reads it, and the checkpoint for whoever needs the encoder
DIR/.backbones/source-SHA256.py           a copy of the user's file that a class is from

A copy of a user's file is only run if this user has named that file before, or says to trust it. Folders of runs keep
the same files, see `kept_backbones`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.preprocess import resize_cubic, resize_for_encoder
from casam_cache.backbones.registry import BACKBONES
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import digest
from casam_cache.store.files import disk_errors
from casam_cache.store.schema import BESIDE

if TYPE_CHECKING:
    import numpy as np
    import torch

    from casam_cache.geometry import Geometry

FOLDER = BESIDE
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
    cls = _class_of(stores, stated, trust)
    return with_encoder(
        cls, fingerprint, [stated["checkpoint"]], checkpoint, device, made="this store was encoded with"
    )


def with_encoder(
    cls: type[Backbone],
    fingerprint: str,
    known: Sequence[str | None],
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    made: str,
) -> Backbone:
    """A backbone with all its parts, checked to be the right one.

    Args:
        cls: its class.
        fingerprint: of the weights that are wanted.
        known: where its checkpoint was, the likeliest place first; official and bundled files are found by name.
        checkpoint: where it is now, as the user says.
        device: where to put it.
        made: for messages, e.g. "this store was encoded with".

    Raises:
        CheckpointError: the checkpoint is missing, or holds other weights; the message names both fingerprints.
    """
    places = [Path(place) for place in known if place is not None]
    path = checkpoint if checkpoint is not None else next(filter(Path.is_file, places), None)
    was = f" (it was {places[0]})" if places else ""
    named = f"name the file with --checkpoint FILE{was}"
    if path is None and places:
        fetch = cls.to_fetch(None)
        if fetch is not None and all(place.name != fetch.filename for place in places):
            # Another file than the official one: fetching that would take long, and be refused.
            raise CheckpointError(f"the checkpoint that {made} is not there: {places[0]}", named)
    backbone = cls.load(path, device=device)
    if backbone.fingerprint != fingerprint:
        own = path is None and bool(places)
        file = f"{places[0]} is not there, and {cls.name}'s own file" if own else str(backbone.checkpoint)
        raise CheckpointError(
            f"{file} holds other weights than {made}: their fingerprint is {backbone.fingerprint[:20]}, "
            f"not {fingerprint[:20]}",
            f"name the right file with --checkpoint FILE{was}",
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
    from casam_cache.backbones.published import PublishedSam  # torch, which a finished run does without

    if isinstance(backbone, PublishedSam):
        return resize_cubic if backbone.preset.cubic else resize_for_encoder
    folder = stores / FOLDER
    return _Preparation(BACKBONES.describe(type(backbone), folder), folder)


def stated_in(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """What FINGERPRINT.json in a folder says; None where it is missing or damaged.

    Returns:
        `{"model", "backbone": its class as `BACKBONES.describe` gives it, "checkpoint": where it was, or None}`, and
        `files` where a folder of runs keeps it.
    """
    _, source = files_of(folder, fingerprint)
    try:
        stated = json.loads(source.read_text())
        if stated.pop("digest", None) not in (None, digest(stated)):
            return None
        # Files of before classes were noted name one of the built-in models.
        described = stated.get("backbone", {"name": stated["model"]})
        checkpoint = stated["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(described, dict) or not isinstance(checkpoint, str | None):
        return None
    return {**stated, "backbone": described}


def files_of(folder: Path, fingerprint: str) -> tuple[Path, Path]:
    """The decoder's weights, and what is said of them."""
    return folder / f"{fingerprint[:20]}.safetensors", folder / f"{fingerprint[:20]}.json"


def _stated(stores: Path, fingerprint: str) -> dict[str, Any]:
    stated = stated_in(stores / FOLDER, fingerprint)
    if stated is None:
        _, source = _paths(stores, fingerprint)
        raise CheckpointError(
            f"nothing says which backbone this store was encoded with: {source} is missing or damaged", _AGAIN
        )
    return stated


def _class_of(stores: Path, stated: Mapping[str, Any], trust: bool) -> type[Backbone]:
    return BACKBONES.restore(stated["backbone"], stores / FOLDER, trust=trust)


def _paths(stores: Path, fingerprint: str) -> tuple[Path, Path]:
    return files_of(stores / FOLDER, fingerprint)
