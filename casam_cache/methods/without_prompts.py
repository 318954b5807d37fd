"""Heads that need no prompt, as methods: a map a class, or objects, from the cached embedding, scored mask by mask."""

from __future__ import annotations

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.methods.base import Method
from casam_cache.segmenters.options import ClassPromptsMapOptions, FCNMapOptions, ProposalHeadOptions


class _WithoutPrompts(Method):
    """The head of the method's own name."""

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_head(self.name, self.options, backbone, seed)


class FCNMethod(_WithoutPrompts):
    """A light convolutional decoder on the embedding."""

    name = "fcn"
    Options = FCNMapOptions


class ClassPromptsMethod(_WithoutPrompts):
    """Learned prompt embeddings of each class through SAM's frozen mask decoder."""

    name = "class-prompts"
    Options = ClassPromptsMapOptions


class ProposalsMethod(_WithoutPrompts):
    """Centres and boxes of objects, whose masks SAM's frozen mask decoder gives."""

    name = "proposals"
    Options = ProposalHeadOptions
