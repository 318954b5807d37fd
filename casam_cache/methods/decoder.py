"""Decoder tuning: the whole mask decoder is trained on the frozen embedding (Table 3, "Tuning Decoder")."""

from __future__ import annotations

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import DecoderOptions
from casam_cache.methods.base import Method


class Decoder(Method):
    """A trainable copy of the backbone's mask decoder; the embedding passes unchanged."""

    name = "decoder"
    Options = DecoderOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_head(self.name, self.options, backbone, seed)
