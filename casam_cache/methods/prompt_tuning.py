"""Prompt tuning: learned sparse and dense prompt embeddings a task, on the frozen embedding and decoder."""

from __future__ import annotations

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import PromptTuningOptions
from casam_cache.methods.base import Method


class PromptTuning(Method):
    """Fits one set of prompt embeddings to one task."""

    name = "prompt-tuning"
    Options = PromptTuningOptions

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_head(self.name, self.options, backbone, seed)
