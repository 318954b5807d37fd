"""Segmenters on disk: segmenter.safetensors with the weights, segmenter.json with what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.config import validated
from casam_cache.errors import CasamError, OptionError
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.options import MOST_CLASSES
from casam_cache.segmenters.registry import SEGMENTERS

WEIGHTS = "segmenter.safetensors"
DESCRIPTION = "segmenter.json"
VERSION = 1


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


def _build(
    made: type[Segmenter], options: BaseModel, backbone: Backbone, classes: Sequence[int], seed: int
) -> Segmenter:
    if not 0 < len(classes) <= MOST_CLASSES:
        raise OptionError(
            f"{len(classes)} classes: a map without prompts has 1 to {MOST_CLASSES}",
            "casam encode --masks classes or binary, not instances of everything",
        )
    return made(options, backbone, classes, seed).cpu()


def save_segmenter(segmenter: Segmenter, folder: Path) -> None:
    """Writes segmenter.safetensors and segmenter.json into `folder`, which must exist.

    Raises:
        CasamError: the class could not be found again.
    """
    from safetensors.torch import save

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
    """What `save_segmenter` wrote, on the CPU and in evaluation mode.

    Raises:
        CasamError: missing, damaged, of a backbone of other dimensions, or with code that is not trusted.
    """
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
    made = SEGMENTERS.restore(described, folder, trust=trust)
    segmenter = _build(made, validated(made.Options, options), backbone, classes, 0)
    try:
        segmenter.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CasamError(
            f"the head in {folder} does not fit this backbone: {str(error).splitlines()[-1].strip()}",
            "use the --model it was fitted with",
        ) from None
    return segmenter.eval()
