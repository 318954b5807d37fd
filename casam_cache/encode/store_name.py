"""Other weights never go by the name of a model's own: a store's name says whose features it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.registry import BACKBONES
from casam_cache.encode.options import EncodeOptions
from casam_cache.errors import CasamError, OptionError
from casam_cache.references import is_file_reference
from casam_cache.store import EmbeddingStore
from casam_cache.store.schema import ROOT


def check_store_name(
    path: Path, backbone: Backbone, options: EncodeOptions, warn: Callable[[str], None] | None = None
) -> None:
    """Refuse to begin a store of other weights under the name of a model whose own weights are known.

    Such a store that an earlier release began goes on, with a line that says so.

    Args:
        path: of the store.
        backbone: loaded, with the weights that would be encoded with.
        options: of the encoding.
        warn: called with the line.

    Raises:
        OptionError: naming the checkpoint and the command that gives the store a name of its own.
    """
    name = options.backbone_name
    own = name == backbone.name and (options.checkpoint is None or not backbone.has_other_weights())
    if own or not _is_of_known_weights(name):
        return
    weights = options.checkpoint or Path(backbone.name)
    told = f"{weights} is not the official file of {name}"
    again = _free_name(weights)
    named = "" if options.checkpoint is None else f" --checkpoint {options.checkpoint}"
    if (path / ROOT).exists() and EmbeddingStore.open(path).identity["backbone"][
        "weights"
    ] == backbone.fingerprint:
        if warn is not None:
            warn(
                f"{path}: {told}, though the store goes by that name; --name {again} would begin one that does not"
            )
        return
    raise OptionError(
        f"{told}; its features would go by that model's name",
        f"name its store: --model {options.model}{named} --name {again}",
    )


def _is_of_known_weights(name: str) -> bool:
    if is_file_reference(name) or name not in BACKBONES.names():
        return False
    try:
        return getattr(BACKBONES.get(name), "sha256", None) is not None
    except CasamError:  # of a package that is broken: nobody can have its weights either
        return False


def _free_name(checkpoint: Path) -> str:
    """The file's or folder's own name, of letters that a store's may have, and no model's."""
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in checkpoint.stem)
    name = letters.strip("_") or "other"
    return f"{name}_weights" if name in BACKBONES.names() else name
