"""The frozen SAM: nothing is trained, every other method is measured against it."""

from __future__ import annotations

from casam_cache.backbones.sam import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import IdentityOptions
from casam_cache.methods.base import Method


class Frozen(Method):
    """Embeddings pass unchanged into the frozen decoder (Tables 1-3, "SAM")."""

    name = "frozen"
    family = "frozen"
    Options = IdentityOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        """The identity; a fit of it is refused, since there is nothing to train."""
        return build_head("identity", self.options, backbone, seed)
