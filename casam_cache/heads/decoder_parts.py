"""Which part of a mask decoder is trained: all, its biases, its layer norms, scales and shifts, or low-rank matrices.

With W and b the frozen weight and bias of a layer of the decoder, and everything starting as the frozen decoder:

    bias    b is trained                                        (BitFit)
    norm    W and b of LayerNorm and LayerNorm2d are trained
    ssf     s * W and b + t, s and t a number an output, behind every linear layer, norm and transposed convolution; it
            is the family of y = s' * (W x + b) + t'            (SSF)
    lora    W + B A, A of `rank` rows, B zero at first          (LoRA, its alpha at the rank)

What stays frozen is the backbone's and is not saved with a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from casam_cache.fingerprint import generator
from casam_cache.heads.options import DecoderOptions

_NORMS = ("LayerNorm", "LayerNorm2d")


class Scaled(nn.Module):
    """s * W, s one number an output.

    Args:
        shape: of s, which W's shape is a multiple of.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight of any shape that `shape` goes over."""
        return weight * self.scale


class Shifted(nn.Module):
    """b + t."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        """(outputs,) -> (outputs,)."""
        return bias + self.shift


class LowRank(nn.Module):
    """W + B A.

    Attributes:
        a, b: A (rank, inputs) and B (outputs, rank).

    Args:
        weight: (outputs, inputs).
        rank: rows of A; no more than W has.
        belongs_to: what A is drawn for.
    """

    def __init__(self, weight: torch.Tensor, rank: int, *belongs_to: str | int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        rank = min(rank, outputs, inputs)
        bound = inputs**-0.5
        drawn = generator(*belongs_to).uniform(-bound, bound, (rank, inputs))
        self.a = nn.Parameter(torch.from_numpy(drawn).float())
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """(outputs, inputs) -> (outputs, inputs)."""
        return weight + self.b @ self.a


def train_part(decoder: nn.Module, options: DecoderOptions, seed: int) -> None:
    """Leaves gradients to the part of a mask decoder that is to be trained, and adds what is trained beside it.

    Args:
        decoder: a copy of the backbone's; changed in place.
        options: which part.
        seed: of what is drawn.
    """
    decoder.requires_grad_(options.train == "all")
    if options.train in ("bias", "norm"):
        for _, module in decoder.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                of_norm = type(module).__name__ in _NORMS
                parameter.requires_grad_(of_norm if options.train == "norm" else name == "bias")
    elif options.train == "ssf":
        for _, module in list(_layers(decoder)):
            outputs = _outputs(module)
            weight: Any = module.weight
            shape = [1] * weight.ndim
            shape[1 if isinstance(module, nn.ConvTranspose2d) else 0] = outputs
            parametrize.register_parametrization(module, "weight", Scaled(tuple(shape)))
            if module.bias is not None:
                parametrize.register_parametrization(module, "bias", Shifted(outputs))
    elif options.train == "lora":
        for name, module in list(_layers(decoder)):
            inside = name.startswith("transformer.") and isinstance(module, nn.Linear)
            if inside and (options.targets == "linear" or name.endswith((".q_proj", ".v_proj"))):
                low = LowRank(module.weight, options.rank, seed, "lora", name)
                parametrize.register_parametrization(module, "weight", low)
    save_trained_alone(decoder)


def folded(decoder: nn.Module) -> nn.Module:
    """The decoder, or a copy of it whose weights are plain ones again: W + B A as one matrix, and so on."""
    import copy

    if not any(parametrize.is_parametrized(module) for module in decoder.modules()):
        return decoder
    plain = copy.deepcopy(decoder)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return plain


def _layers(decoder: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer with a weight: linear ones, norms and transposed convolutions."""
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear | nn.ConvTranspose2d) or type(module).__name__ in _NORMS:
            yield name, module


def _outputs(module: Any) -> int:
    weight: torch.Tensor = module.weight
    return int(weight.shape[1 if isinstance(module, nn.ConvTranspose2d) else 0])


def save_trained_alone(module: nn.Module) -> None:
    """The frozen numbers are the backbone's: they are left out of what is saved, and are there when it is loaded."""
    if all(parameter.requires_grad for parameter in module.parameters()):
        return
    module.register_state_dict_post_hook(_without_frozen)
    module.register_load_state_dict_pre_hook(_with_frozen)


def _frozen(decoder: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in decoder.named_parameters() if not tensor.requires_grad}


def _without_frozen(decoder: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in _frozen(decoder):
        del state[prefix + name]


def _with_frozen(decoder: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    for name, tensor in _frozen(decoder).items():
        state.setdefault(prefix + name, tensor)
