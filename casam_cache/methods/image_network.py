"""Segmentation networks from random weights, beside cached heads: plain, or with the box as a channel of the image."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import BoxNetworkOptions, NetworkOptions
from casam_cache.methods.base import Method


class _Network(Method):
    """A head `image-network`; images, masks, splits and prompts are those of the store.

    Attributes:
        architecture: of the network.
        box: whether it sees the prompt.
    """

    architecture: ClassVar[str]
    box: ClassVar[bool] = False
    Options: ClassVar[type[BaseModel]] = NetworkOptions
    needs = ("pixels", "input_size")
    runs_encoder = False

    def build(self, backbone: Backbone, seed: int) -> Head:
        options: dict[str, Any] = self.options.model_dump(mode="json")
        fixed = {"architecture": self.architecture, "box": self.box}
        return build_head("image-network", {**fixed, **options}, backbone, seed)


class UNet(_Network):
    """U-Net on the image alone."""

    name = "unet"
    architecture = "unet"


class UNetBox(_Network):
    """U-Net on the image and the box."""

    name = "unet-box"
    architecture = "unet"
    box = True
    Options = BoxNetworkOptions


class UNetPlusPlus(_Network):
    """U-Net++ on the image alone."""

    name = "unetpp"
    architecture = "unetpp"


class UNetPlusPlusBox(_Network):
    """U-Net++ on the image and the box."""

    name = "unetpp-box"
    architecture = "unetpp"
    box = True
    Options = BoxNetworkOptions


class SegFormer(_Network):
    """SegFormer on the image alone."""

    name = "segformer"
    architecture = "segformer"


class SegFormerBox(_Network):
    """SegFormer on the image and the box."""

    name = "segformer-box"
    architecture = "segformer"
    box = True
    Options = BoxNetworkOptions
