"""The frozen SAM as a head: the bypass that comparisons and fallbacks use, never a layer near identity."""

from __future__ import annotations

import torch
from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.options import IdentityOptions


class Identity(Head):
    """Embeddings pass unchanged into the backbone's own decoder; nothing is trained."""

    name = "identity"
    Options = IdentityOptions

    def __init__(self, options: IdentityOptions | None = None) -> None:
        super().__init__(options or IdentityOptions())

    @classmethod
    def build(cls, options: BaseModel, backbone: Backbone, seed: int) -> Head:
        """See `Head.build`."""
        assert isinstance(options, IdentityOptions)
        return cls(options)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, g, g), returned as it is."""
        return embedding
