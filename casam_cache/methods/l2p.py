"""L2P (Algorithm 5): a prompt pool is learnt task after task; see `casam_cache/heads/prompt_pool.py`."""

from __future__ import annotations

import copy

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.heads.options import PromptPoolOptions
from casam_cache.heads.prompt_pool import PromptPool
from casam_cache.methods.sequential import Past, Sequential, Setting
from casam_cache.training.items import Items
from casam_cache.training.step import Penalty, Step


class L2P(Sequential):
    """Prompts and keys are all that learns after the first task; nothing of earlier tasks is kept but the pool.

    A task's slot goes by its place in the order. At test each image retrieves from the slots of all tasks learnt.
    """

    name = "l2p"
    revision = 3  # prompts learn at a rate of their own and start small
    Options = PromptPoolOptions
    first = None

    def build(self, backbone: Backbone, seed: int) -> Head:
        return build_head("prompt-pool", self.options, backbone, seed)

    def start(self, past: Past | None, setting: Setting) -> Head:
        """The pool with this task's slot open, and the Alignment Layer frozen after the first task."""
        if past is None:
            return self.build(setting.backbone, setting.seed)
        head = copy.deepcopy(past.head)
        assert isinstance(head, PromptPool)
        head.open_slot(len(past.tasks), setting.seed)
        head.requires_grad_(False)
        head.keys.requires_grad_(True)
        head.prompts.requires_grad_(True)
        return head

    def penalty(self, items: Items, past: Past | None, setting: Setting) -> Penalty:
        """The keys are pulled towards the queries that retrieved them."""
        assert isinstance(self.options, PromptPoolOptions)
        return KeyMatch(self.options.pull_weight)


class KeyMatch(Penalty):
    """weight * L_key-match.

    Args:
        weight: of the term.
    """

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def term(self, step: Step) -> torch.Tensor:
        assert isinstance(step.head, PromptPool)
        return self._weight * step.head.pull(step.pairs.features)
