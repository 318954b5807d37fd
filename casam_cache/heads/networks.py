"""Segmentation networks by name, their weights drawn at random: nothing is ever downloaded.

They are those of `segmentation_models_pytorch`, an extra of the package.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from casam_cache.errors import CasamError, OptionError, unknown_name
from casam_cache.fingerprint import generator

STRIDE = 32  # of the encoders: sides of their inputs are multiples of it
# Of each architecture its name in the package, and the encoder where none is named.
ARCHITECTURES = {
    "unet": ("Unet", "resnet34"),
    "unetpp": ("UnetPlusPlus", "resnet34"),
    "segformer": ("Segformer", "mit_b0"),
}


def make_network(architecture: str, encoder: str, channels: int, classes: int, seed: int) -> nn.Module:
    """(N, channels, S, S), S a multiple of `STRIDE` -> logits (N, classes, S, S).

    Args:
        architecture: one of `ARCHITECTURES`.
        encoder: as the package names it; empty is the architecture's own.
        channels: of the images.
        classes: maps.
        seed: of the weights, which depend on nothing else but the names; torch's own generator stays as it was.

    Raises:
        CasamError: the package is not installed.
        OptionError: an unknown encoder, or one that does not fit the architecture.
    """
    package = _package()
    name, own = ARCHITECTURES[architecture]
    encoder = encoder or own
    known = list(package.encoders.encoders)
    if encoder not in known and not encoder.startswith("tu-"):
        raise unknown_name("encoder", encoder, known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "network", architecture, encoder, channels).integers(2**62)))
        try:
            made: nn.Module = package.create_model(
                name, encoder_name=encoder, encoder_weights=None, in_channels=channels, classes=classes
            )
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            why = str(error).strip().splitlines()
            raise OptionError(
                f"{architecture} cannot be built on the encoder '{encoder}': {why[0] if why else error!r}",
                f"leave encoder out ({own}), or choose resnet18, resnet50, mit_b0, ...",
            ) from error
    return made


@cache
def _package() -> Any:
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise CasamError(
            "networks such as unet need segmentation_models_pytorch, which is not installed",
            "pip install 'casam-cache[image]'",
        )
    declare_torchvision_operators()
    return importlib.import_module("segmentation_models_pytorch")


@cache
def declare_torchvision_operators() -> Any:
    """Lets `import torchvision` succeed beside a torch that its compiled operators do not fit.

    Wheels on the package index are built for CUDA; beside a torch for CPUs alone their library cannot be loaded, and
    the import stops at "operator torchvision::nms does not exist". No network here calls that operator.

    Returns:
        What has to be kept for as long as the declarations are to live; None where nothing was declared.
    """
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    for library in Path(folders[0]).glob("_C*") if folders else ():
        try:
            torch.ops.load_library(str(library))
            return None
        except OSError:
            continue
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators
