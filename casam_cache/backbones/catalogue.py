"""What `casam models` lists: every backbone there is, what an image costs with it, and where its weights come from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.checkpoints import ENCODER, expected_shapes
from casam_cache.backbones.defaults import DEFAULT_MODEL
from casam_cache.backbones.published import PublishedSam
from casam_cache.backbones.registry import BACKBONES
from casam_cache.errors import CasamError


@dataclass(frozen=True)
class ModelFacts:
    """One backbone. Numbers are None where only its own code could tell them.

    Attributes:
        name: what `--model` takes; default: whether it is used where none is named.
        about: one line.
        parameters, encoder_parameters: of all parts, and of the encoder.
        gflop: of one image's encoding, 10^9 operations, a multiplication and an addition counting as two.
        bytes: of one image's float16 embedding in a store.
        input: side of the input, pixels; preprocess: its preset.
        licence, source: of its own weights.
        here: where they are on this machine; empty if they are not.
        get: the command that brings them; empty if they are here.
    """

    name: str
    default: bool
    about: str
    parameters: int | None
    encoder_parameters: int | None
    gflop: float | None
    bytes: int | None
    input: int | None
    preprocess: str
    licence: str
    source: str
    here: str
    get: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def models() -> list[ModelFacts]:
    """All installed backbones by name. No weights are read, nothing is fetched."""
    found = []
    for name in BACKBONES.names():
        try:
            found.append(_facts(BACKBONES.get(name)))
        except CasamError as error:  # of one package that is broken; the others can be used
            found.append(_unknown(name, error.message))
    return found


def _facts(model: type[Backbone]) -> ModelFacts:
    if not issubclass(model, PublishedSam):
        return _unknown(model.name, model.weights_here())
    architecture = model.architecture_of(None)
    shapes = expected_shapes(architecture)
    sizes = {key: math.prod(shape) for key, shape in shapes.items() if not key.endswith(_BUFFERS)}
    here = model.here()
    return ModelFacts(
        name=model.name,
        default=model.name == DEFAULT_MODEL,
        about=model.about,
        parameters=sum(sizes.values()),
        encoder_parameters=sum(size for key, size in sizes.items() if key.startswith(ENCODER)),
        gflop=model.flops_of(architecture) / 1e9,
        bytes=2 * math.prod(model.feature_shapes(architecture)[EMBEDDING]),
        input=architecture.image_size,
        preprocess=model.own_preset.name,
        licence=model.licence,
        source=model.source,
        here="" if here is None else str(here),
        get="" if here is not None else model.get(),
    )


_BUFFERS = (".running_mean", ".running_var", "positional_encoding_gaussian_matrix")


def _unknown(name: str, told: str) -> ModelFacts:
    return ModelFacts(name, False, told, None, None, None, None, None, "its own", "", "", "", "")
