"""Which preprocessing a store is made with: asked for, as begun, as its weights are known for, or the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.presets import PRESETS, preset_named, preset_of, preset_of_file
from casam_cache.backbones.published import PublishedSam
from casam_cache.datasets.intensity import named_window
from casam_cache.errors import OptionError

Say = Callable[[str], None]


def with_preprocessing(
    backbone: Backbone,
    preprocess: str,
    checkpoint: Path | None,
    stated: Mapping[str, Any] | None = None,
    say: Say | None = None,
) -> Backbone:
    """The backbone with the preset that the store is made with.

    Args:
        backbone: as it was loaded.
        preprocess: what is asked for; `auto` goes on with what the store was begun with, else with what the name of the
            checkpoint tells, else with the model's own.
        checkpoint: the file that the weights are from; None for the model's own.
        stated: identity of the store, where it was begun.
        say: takes a line wherever the weights are not the model's own, so that a preset is never a silent guess.

    Raises:
        OptionError: a preset was asked for that the backbone cannot have, or that there is not.
    """
    asked = None if preprocess == "auto" else preset_named(preprocess)
    if not isinstance(backbone, PublishedSam):
        if asked is not None:
            raise OptionError(
                f"--preprocess {asked.name}: the backbone {backbone.name} has a preprocessing of its own",
                "leave --preprocess out",
            )
        return backbone
    if asked is not None:
        return backbone.with_preset(asked)
    if stated is not None:
        begun = preset_of(stated["preprocessing"])
        return backbone if begun is None else backbone.with_preset(begun)
    if checkpoint is None:
        return backbone
    known = preset_of_file(checkpoint)
    preset = known or backbone.own_preset
    if say is not None:
        why = "as its name tells" if known else f"as {type(backbone).name}'s own weights are"
        others = ", ".join(name for name in PRESETS if name != preset.name)
        say(
            f"{checkpoint.name}: preprocessing of '{preset.name}', {why} (--preprocess names another: {others})"
        )
    return backbone.with_preset(preset)


def resize_of(backbone: Backbone, resize: str, stated: Mapping[str, Any] | None = None) -> str:
    """How images are fitted into the input: asked for, as the store was begun, or as the preset has it."""
    if resize != "auto":
        return resize
    if stated is not None:
        return str(stated["preprocessing"]["resize"])
    return backbone.preset.resize if isinstance(backbone, PublishedSam) else "longest"


def intensity_of(intensity: str, stated: Mapping[str, Any] | None = None) -> str:
    """How deeper images become 8-bit, as the identity names it: asked for, as the store was begun, or percentiles."""
    if intensity == "auto" and stated is not None:
        return str(stated["preprocessing"]["intensity"])
    return named_window(intensity)


def as_in_store(backbone: Backbone, identity: Mapping[str, Any]) -> Backbone:
    """The backbone with the preprocessing that a store of this identity was made with."""
    preset = preset_of(identity["preprocessing"])
    return (
        backbone if preset is None or not isinstance(backbone, PublishedSam) else backbone.with_preset(preset)
    )
