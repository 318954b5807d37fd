"""HQ-SAM on the cache (Table 3, "HQ-SAM"): decoder tuning with the early feature and an error-correcting mask."""

from __future__ import annotations

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import HQOptions
from casam_cache.methods.base import Method


class HQSAM(Method):
    """HQ-SAM's decoder for one task; see `casam_cache/heads/hq.py` for what trains and where it starts."""

    name = "hq-sam"
    Options = HQOptions
    needs = ("embedding", "early")

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_head(self.name, self.options, backbone, seed)
