"""Naive fine-tuning: one Alignment Layer, trained on one task after the other (the paper's lower bound)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.alignment import build_alignment
from casam_cache.methods.sequential import Sequential


class NaiveOptions(AlignmentOptions):
    """Those of the Alignment Layer: naive fine-tuning adds none."""


class Naive(Sequential):
    """The Alignment Layer as `Sequential` trains it, with nothing against forgetting."""

    name = "naive"
    Options: ClassVar[type[BaseModel]] = NaiveOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_alignment(self.options, backbone, seed)
