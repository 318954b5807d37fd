"""The file beside the stores that holds a backbone's decoder: all that training and evaluation need of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from casam_cache.backbones.checkpoint_file import read_content
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import canonical_json, weights_fingerprint

_FORMAT = "casam-decoder/2"


@dataclass(frozen=True)
class DecoderFile:
    """What the file says beside the tensors.

    Attributes:
        name, description, fingerprint, neck: of the backbone.
        encoder_flops: of one image's encoding; None in files of before it was noted.
    """

    name: str
    description: dict[str, Any]
    fingerprint: str
    neck: tuple[float, float]
    encoder_flops: int | None


def write_decoder(path: Path, about: DecoderFile, state: Mapping[str, Tensor]) -> None:
    """Writes the file; it appears by one rename, and equal content gives equal bytes."""
    from safetensors.torch import save

    stated = {
        "format": _FORMAT,
        "name": about.name,
        "architecture": about.description,
        "fingerprint": about.fingerprint,
        "neck": list(about.neck),
        "encoder_flops": about.encoder_flops,
        "decoder_fingerprint": _fingerprint(state),
    }
    metadata = {"decoder": canonical_json(stated)}  # one key: safetensors writes several in random order
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two encodes may write it at once
    try:
        with temporary.open("wb") as file:
            file.write(save(dict(state), metadata=metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_decoder(path: Path) -> tuple[DecoderFile, dict[str, Tensor]]:
    """What `write_decoder` wrote.

    Raises:
        CheckpointError: missing, damaged, or not such a file.
    """
    from safetensors import SafetensorError, safe_open

    state = read_content(path).content
    again = "run casam encode again with the same --model and --checkpoint: it writes the file anew"
    try:
        with safe_open(path, framework="pt") as file:
            stated = json.loads((file.metadata() or {})["decoder"])
        written = stated["format"]
        if written != _FORMAT:
            raise CheckpointError(f"{path} is written as {written}, this release reads {_FORMAT}", again)
        mean, deviation = stated["neck"]
        about = DecoderFile(
            stated["name"], stated["architecture"], stated["fingerprint"], (float(mean), float(deviation)),
            stated.get("encoder_flops"),
        )  # fmt: skip
        expected = stated["decoder_fingerprint"]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a decoder file of a store", again) from error
    if _fingerprint(state) != expected:
        raise CheckpointError(f"the decoder file {path} is damaged", again)
    return about, state


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    return weights_fingerprint((key, tensor.numpy()) for key, tensor in state.items())
