"""A frozen SAM: its three modules, its dimensions and the fingerprint of its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.checkpoints import (
    ENCODER,
    MASK_DECODER,
    PROMPT_ENCODER,
    check_state,
    empty_modules,
    expected_shapes,
    read_checkpoint,
)
from casam_cache.backbones.download import download
from casam_cache.backbones.fingerprints import remember_fingerprint, weights_fingerprint
from casam_cache.backbones.registry import known_model, stated_architecture
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import canonical_json, digest_file, generator

PARTS = ("encoder", "decoder")
_DECODER_FORMAT = "casam-decoder/2"


@dataclass
class Backbone:
    """A SAM in eval mode without gradients; the fingerprint names all its weights, also those of parts not
    loaded.

    Attributes:
        name: what the store calls it: the `--model` it was loaded as.
        architecture: its dimensions.
        fingerprint: SHA-256 over all weights (`weights_fingerprint`).
        checkpoint: the file it came from, None for weights made here.
        encoder: (B, 3, S, S) -> (B, C, g, g), None where only the decoder was loaded.
        prompt_encoder, mask_decoder: `segment_anything`'s.
        neck: mean and standard deviation over the channels of a typical embedding cell (`neck_scale`).
    """

    name: str
    architecture: Architecture
    fingerprint: str
    checkpoint: Path | None
    encoder: nn.Module | None
    prompt_encoder: nn.Module
    mask_decoder: nn.Module
    neck: tuple[float, float] = (0.0, 1.0)
    _dense_pe: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the decoder is."""
        return next(self.mask_decoder.parameters()).device

    def to(self, device: torch.device | str) -> Backbone:
        """Move the modules (in place, as `nn.Module.to` does) and return a backbone that holds them."""
        return replace(
            self,
            encoder=None if self.encoder is None else self.encoder.to(device),
            prompt_encoder=self.prompt_encoder.to(device),
            mask_decoder=self.mask_decoder.to(device),
        )

    def dense_pe(self) -> Tensor:
        """Positional encoding of the embedding grid, float32 (1, C, g, g), computed once a device."""
        device = self.device
        if device not in self._dense_pe:
            # An inference tensor could not be saved for a backward pass, and bf16 would ruin the phases.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
                self._dense_pe[device] = self.prompt_encoder.get_dense_pe()  # type: ignore[operator]
        return self._dense_pe[device]


def load_backbone(
    model: str,
    checkpoint: Path | None = None,
    *,
    parts: Sequence[str] = PARTS,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Backbone:
    """Load a backbone by name: from a file, from the package (small), or downloaded and verified.

    Args:
        model: a name of the registry.
        checkpoint: a .pth, .pt or .safetensors file of that architecture; by default the bundled or official
            one. A safetensors file may state its own architecture, which then counts for `small`.
        parts: without "encoder", the encoder is read for the fingerprint but not kept in memory; prompt
            encoder and mask decoder are always there.
        device: where to put it.
        progress: of a download, called with (bytes done, bytes in total).

    Raises:
        OptionError: unknown model.
        CheckpointError: the checkpoint is missing, damaged, unsafe, or of another architecture.
    """
    known = known_model(model)
    path = checkpoint if checkpoint is not None else local_or_downloaded(model, progress)
    state = read_checkpoint(path)
    architecture = (stated_architecture(path) if known.bundled else None) or known.architecture
    check_state(state, architecture, path, model)
    fingerprint = weights_fingerprint((name, tensor.float().numpy()) for name, tensor in state.items())
    remember_fingerprint(path, fingerprint)
    return build_backbone(model, architecture, state, fingerprint, checkpoint=path, parts=parts).to(device)


def local_or_downloaded(model: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """The bundled or official checkpoint file of a model, verified.

    Raises:
        CheckpointError: it cannot be had, or its SHA-256 is wrong.
    """
    known = known_model(model)
    if known.url is not None and known.sha256 is not None:
        return download(known.url, known.sha256, known.filename, progress=progress)
    path = known.bundled_path()
    if digest_file(path) != known.bundled_sha256():
        raise CheckpointError(
            f"the bundled checkpoint {path} is damaged: another SHA-256 than SHA256SUMS states",
            "reinstall the package: pip install --force-reinstall --no-deps casam-cache",
        )
    return path


def build_backbone(
    name: str,
    architecture: Architecture,
    state: Mapping[str, Tensor],
    fingerprint: str,
    *,
    checkpoint: Path | None = None,
    parts: Sequence[str] = PARTS,
    neck: tuple[float, float] | None = None,
) -> Backbone:
    """A frozen backbone from named tensors, which are copied as float32.

    Args:
        name: as in `Backbone`.
        architecture: as in `Backbone`.
        state: tensors under the names of `segment_anything`'s Sam state dict; parts not asked for may be
            absent.
        fingerprint: as in `Backbone`.
        checkpoint: as in `Backbone`.
        parts: as for `load_backbone`.
        neck: as in `Backbone`; by default from the encoder's tensors, which `state` must then hold.
    """
    if not set(parts) <= set(PARTS):
        raise ValueError(f"parts are of {PARTS}, not {tuple(parts)}")
    modules = empty_modules(architecture, encoder="encoder" in parts)
    for prefix, module in modules.items():
        own = {
            key.removeprefix(prefix): tensor.detach().to(torch.float32, copy=True).contiguous()
            for key, tensor in state.items()
            if key.startswith(prefix)
        }
        module.load_state_dict(own, strict=True, assign=True)
        module.eval().requires_grad_(False)
    return Backbone(
        name,
        architecture,
        fingerprint,
        checkpoint,
        modules.get(ENCODER),
        modules[PROMPT_ENCODER],
        modules[MASK_DECODER],
        neck_scale(state) if neck is None else neck,
    )


def neck_scale(state: Mapping[str, Tensor]) -> tuple[float, float]:
    """Mean and standard deviation over the channels of a typical embedding cell, from the weights alone.

    The encoder's neck ends in a LayerNorm2d: a cell is w * z + b with z of mean 0 and variance 1 over the
    channels. For z without preferred channels that gives mean(b) and sqrt(mean(w^2) + var(b)). A head that
    normalises cells can start from these two instead of from a scale the decoder has never seen.
    """
    weight, bias = (state[f"{ENCODER}neck.3.{name}"].double() for name in ("weight", "bias"))
    return float(bias.mean()), float((weight.square().mean() + bias.var(unbiased=False)).sqrt())


def backbone_state(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of the parts that are loaded, under the names of `segment_anything`'s Sam state dict."""
    modules = {
        ENCODER: backbone.encoder,
        PROMPT_ENCODER: backbone.prompt_encoder,
        MASK_DECODER: backbone.mask_decoder,
    }
    return {
        f"{prefix}{name}": tensor.detach()
        for prefix, module in modules.items()
        if module is not None
        for name, tensor in module.state_dict().items()
    }


def seeded_backbone(architecture: Architecture, seed: int, name: str = "seeded") -> Backbone:
    """A backbone with random weights, for tests and timings without a checkpoint.

    Every tensor is random, also those that upstream initialises to zero (position embeddings, relative
    positions, biases), so that a path that forgets one of them is seen. Each tensor belongs to (seed, its
    name).
    """
    state: dict[str, Tensor] = {}
    for key, shape in expected_shapes(architecture).items():
        values = torch.from_numpy(generator(seed, key).standard_normal(shape, dtype=np.float32))
        if key.endswith("positional_encoding_gaussian_matrix"):
            state[key] = values
        elif len(shape) == 1 and key.endswith("weight"):  # normalisation gains
            state[key] = 1 + 0.1 * values
        elif len(shape) == 1 or "rel_pos" in key:
            state[key] = 0.1 * values
        elif (
            key.endswith(("pos_embed", "_embed.weight", "token.weight", "tokens.weight"))
            or "_embeddings." in key
        ):
            state[key] = 0.5 * values
        else:
            state[key] = values / float(np.sqrt(np.prod(shape[1:])))
    fingerprint = weights_fingerprint((key, tensor.numpy()) for key, tensor in state.items())
    return build_backbone(name, architecture, state, fingerprint)


def save_decoder(backbone: Backbone, path: Path) -> None:
    """Write prompt encoder and mask decoder, the architecture and the fingerprint of *all* weights into one
    file.

    Training from a store needs this file (16 MB for the official models), not the checkpoint. It appears by
    one rename, and equal backbones give equal bytes.
    """
    from safetensors.torch import save

    state = {
        key: tensor.cpu().contiguous() for key, tensor in backbone_state(backbone).items() if _decodes(key)
    }
    about = {
        "format": _DECODER_FORMAT,
        "name": backbone.name,
        "architecture": backbone.architecture.to_json(),
        "fingerprint": backbone.fingerprint,
        "neck": list(backbone.neck),
        "decoder_fingerprint": _decoder_fingerprint(state),
    }
    metadata = {"decoder": canonical_json(about)}  # one key: safetensors writes several in random order
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two encodes may write it at once
    try:
        with temporary.open("wb") as file:
            file.write(save(state, metadata=metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_decoder(path: Path, device: torch.device | str = "cpu") -> Backbone:
    """The backbone of `save_decoder`, without encoder.

    Raises:
        CheckpointError: missing, damaged, or not such a file.
    """
    from safetensors import SafetensorError, safe_open

    state = read_checkpoint(path)
    again = "run casam encode again with the same --model and --checkpoint: it writes the file anew"
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["decoder"])
        written = about["format"]
        if written != _DECODER_FORMAT:
            raise CheckpointError(
                f"{path} is written as {written}, this release reads {_DECODER_FORMAT}", again
            )
        architecture = Architecture.from_json(about["architecture"])
        name, fingerprint, expected = (about[key] for key in ("name", "fingerprint", "decoder_fingerprint"))
        mean, deviation = about["neck"]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a decoder file of a store", again) from error
    if _decoder_fingerprint(state) != expected:
        raise CheckpointError(f"the decoder file {path} is damaged", again)
    neck = (float(mean), float(deviation))
    return build_backbone(name, architecture, state, fingerprint, parts=("decoder",), neck=neck).to(device)


def _decodes(key: str) -> bool:
    return key.startswith((PROMPT_ENCODER, MASK_DECODER))


def _decoder_fingerprint(state: Mapping[str, Tensor]) -> str:
    return weights_fingerprint((key, tensor.numpy()) for key, tensor in state.items())
