"""Heads without prompts on disk: segmenter.safetensors with the weights, segmenter.json with what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.config import validated
from casam_cache.errors import CasamError, OptionError
from casam_cache.registry import Registry
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.options import MOST_CLASSES
from casam_cache.segmenters.proposals import Proposals
from casam_cache.segmenters.registry import PROPOSALS, SEGMENTERS

WEIGHTS = "segmenter.safetensors"
DESCRIPTION = "segmenter.json"
VERSION = 1

Made = TypeVar("Made", Segmenter, Proposals)


def build_segmenter(
    name: str,
    options: BaseModel | Mapping[str, Any] | None,
    backbone: Backbone,
    classes: Sequence[int],
    seed: int,
) -> Segmenter:
    """A new segmenter by name, on the CPU.

    Raises:
        OptionError: an unknown one or option, a value of the wrong type, or too many classes.
    """
    made = SEGMENTERS.get(name)
    checked = options if isinstance(options, BaseModel) else validated(made.Options, options or {})
    return _build(made, checked, backbone, classes, seed)


def build_proposals(
    name: str,
    options: BaseModel | Mapping[str, Any] | None,
    backbone: Backbone,
    classes: Sequence[int],
    seed: int,
) -> Proposals:
    """As `build_segmenter`, of a head that finds objects."""
    made = PROPOSALS.get(name)
    checked = options if isinstance(options, BaseModel) else validated(made.Options, options or {})
    return _build(made, checked, backbone, classes, seed)


def _build(
    made: type[Made], options: BaseModel, backbone: Backbone, classes: Sequence[int], seed: int
) -> Made:
    if not 0 < len(classes) <= MOST_CLASSES:
        raise OptionError(
            f"{len(classes)} classes: a head without prompts has 1 to {MOST_CLASSES}",
            "casam encode --masks classes or binary, not instances of everything",
        )
    head: Any = made
    return cast(Made, head(options, backbone, classes, seed).cpu())


def save_segmenter(segmenter: Segmenter | Proposals, folder: Path) -> None:
    """Writes segmenter.safetensors and segmenter.json into `folder`, which must exist.

    Raises:
        CasamError: the class could not be found again.
    """
    from safetensors.torch import save

    if isinstance(segmenter, Proposals):
        described = PROPOSALS.describe(type(segmenter), folder)
    else:
        described = SEGMENTERS.describe(type(segmenter), folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in segmenter.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors))
    description = {
        "version": VERSION,
        "segmenter": described,
        "options": segmenter.options.model_dump(mode="json"),
        "classes": list(segmenter.classes),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


def load_segmenter(folder: Path, backbone: Backbone, *, trust: bool = False) -> Segmenter:
    """What `save_segmenter` wrote of a segmenter, on the CPU and in evaluation mode.

    Raises:
        CasamError: missing, damaged, of a backbone of other dimensions, or with code that is not trusted.
    """
    return _load(SEGMENTERS, folder, backbone, trust)


def load_proposals(folder: Path, backbone: Backbone, *, trust: bool = False) -> Proposals:
    """As `load_segmenter`, of a head that finds objects."""
    return _load(PROPOSALS, folder, backbone, trust)


def _load(registry: Registry[Made], folder: Path, backbone: Backbone, trust: bool) -> Made:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        version, described, options = (description[name] for name in ("version", "segmenter", "options"))
        classes = [int(number) for number in description["classes"]]
        tensors = load((folder / WEIGHTS).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CasamError(
            f"no readable head in {folder}: {error}", "fit it again with `casam fit --head`"
        ) from None
    if version != VERSION:
        raise CasamError(
            f"the head in {folder} has format {version}, this release reads {VERSION}",
            "use the release that wrote it, or fit it again with `casam fit --head`",
        )
    made = registry.restore(described, folder, trust=trust)
    segmenter = _build(made, validated(made.Options, options), backbone, classes, 0)
    try:
        segmenter.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CasamError(
            f"the head in {folder} does not fit this backbone: {str(error).splitlines()[-1].strip()}",
            "use the --model it was fitted with",
        ) from None
    return segmenter.eval()
