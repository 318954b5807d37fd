"""An Alignment Layer, a part of the decoder and learned prompts, fitted together to one task."""

from __future__ import annotations

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import CombinedOptions
from casam_cache.methods.base import Method


class Combined(Method):
    """Fits one `combined` head to one task."""

    name = "combined"
    Options = CombinedOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_head(self.name, self.options, backbone, seed)
