"""Backbones by name: installed ones, or a class in a file: `my_file.py:MyBackbone`. Names alone need no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from casam_cache.backbones.base import Backbone
from casam_cache.errors import CasamError
from casam_cache.registry import Registry

if TYPE_CHECKING:
    import torch

BACKBONES: Registry[Backbone] = Registry("model", Backbone, "casam_cache.backbones", options=False)


def load_backbone(
    model: str,
    checkpoint: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Backbone:
    """The backbone of that name, loaded; see `Backbone.load`.

    Raises:
        OptionError: unknown model.
        CheckpointError: the checkpoint is missing, damaged, unsafe, or of another architecture.
    """
    return BACKBONES.get(model).load(checkpoint, device=device, progress=progress)


def weights_here() -> dict[str, str]:
    """Where each model's weights are on this machine, or that they would be fetched; fetches nothing."""
    found = {}
    for name in BACKBONES.names():
        try:
            found[name] = BACKBONES.get(name).weights_here()
        except CasamError as error:  # of one package that is broken; the others can be used
            found[name] = error.message
    return found
