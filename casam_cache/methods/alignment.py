"""The paper's Alignment Layer between the frozen encoder and the frozen decoder (section 3.2)."""

from __future__ import annotations

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.base import Method


class Alignment(Method):
    """One Alignment Layer for one task, trained from scratch (Table 3, "CA-SAM (Ours)")."""

    name = "alignment"
    Options = AlignmentOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_alignment(self.options, backbone, seed)


def build_alignment(options: BaseModel, backbone: Backbone, seed: int) -> Head:
    own = {name: getattr(options, name) for name in AlignmentOptions.model_fields}
    return build_head("alignment", AlignmentOptions(**own), backbone, seed)
