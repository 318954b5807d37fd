"""SAMs that train through the image, beside cached heads: the decoder, and LoRA, adapters or all in the encoder."""

from __future__ import annotations

from typing import Any, ClassVar

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import IdentityOptions, LoraOptions
from casam_cache.methods.base import Method


class _ThroughImage(Method):
    """A head `image-sam`; the masks, splits and prompts are those of the store.

    Attributes:
        encoder: which part of the encoder is trained.
    """

    encoder: ClassVar[str]
    needs = ("pixels", "input_size")

    def build(self, backbone: Backbone, seed: int) -> Head:
        options: dict[str, Any] = self.options.model_dump(mode="json")
        return build_head("image-sam", {"encoder": self.encoder, **options}, backbone, seed)


class SamDecoder(_ThroughImage):
    """The mask decoder behind the frozen encoder: what `decoder` fits from the cache, without one."""

    name = "sam-decoder"
    Options = IdentityOptions
    encoder = "none"


class SamLora(_ThroughImage):
    """The mask decoder, and LoRA on queries and values of the encoder."""

    name = "sam-lora"
    Options = LoraOptions
    encoder = "lora"


class SamMed2D(_ThroughImage):
    """The mask decoder, and SAM-Med2D's adapter in every block of the encoder: channel attention and a convolution."""

    name = "sam-med2d"
    Options = IdentityOptions
    encoder = "sam-med2d"


class MedicalSamAdapter(_ThroughImage):
    """The mask decoder, and Medical SAM Adapter's two bottlenecks in every block of the encoder."""

    name = "msa"
    Options = IdentityOptions
    encoder = "msa"


class SamFull(_ThroughImage):
    """Full fine-tuning of encoder and mask decoder."""

    name = "sam-full"
    Options = IdentityOptions
    encoder = "all"
