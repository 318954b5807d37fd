"""Which of its states a fit gives: the best on groups that were set apart, the one it began with among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.training.evaluate import evaluate
from casam_cache.training.evaluation_prompts import BOX, EvaluationPrompt, parse_prompt
from casam_cache.training.items import Items
from casam_cache.training.options import TrainingOptions


@dataclass(frozen=True)
class Check:
    """A state on the held-out groups.

    Attributes:
        step: optimiser steps before it.
        iou: mean over the masks.
    """

    step: int
    iou: float


@dataclass(frozen=True)
class Chosen:
    """How the state of a fit was chosen.

    Attributes:
        step: of the state that was kept; 0 is the head as it began.
        iou: its mean IoU on the held-out masks.
        frozen: that of the frozen SAM.
        groups, masks: held out, and looked at.
        checks: every state that was looked at.
        stopped: whether training ended early, for want of a better state.
    """

    step: int
    iou: float
    frozen: float
    groups: int
    masks: int
    checks: tuple[Check, ...]
    stopped: bool

    @property
    def below_frozen(self) -> bool:
        """Whether no head at all is better than the state, by more than what rounding makes of an identity."""
        return self.iou < self.frozen - 1e-6


class Selection:
    """The states of a head that were looked at so far, and a copy of the best.

    Attributes:
        checks: in order.
    """

    def __init__(self, head: Head, backbone: Backbone, items: Items, options: TrainingOptions) -> None:
        self._head, self._backbone, self._items, self._options = head, backbone, items, options
        self.checks: list[Check] = []
        self._best: dict[str, torch.Tensor] = {}
        self._frozen = math.nan

    @property
    def best(self) -> Check:
        """The first of those with the highest IoU."""
        return max(self.checks, key=lambda check: check.iou)

    @property
    def stopped(self) -> bool:
        since = len(self.checks) - 1 - self.checks.index(self.best) if self.checks else 0
        return self._options.patience is not None and since >= self._options.patience

    def look(self, step: int, total: int) -> None:
        """Scores the head as it is where a check is due: at the start, at each of `checks` parts, at the end.

        Args:
            step: optimiser steps done.
            total: to do in all.
        """
        if not self.checks:
            self._frozen = self._score(build_head("identity", None, self._backbone, 0))
        else:
            parts, last = self._options.checks, self.checks[-1].step
            if step < total and step * parts // total == last * parts // total:
                return
        iou = self._score(self._head)
        self._head.train()
        if not self.checks or iou > self.best.iou:
            self._best = {name: tensor.detach().clone() for name, tensor in self._head.state_dict().items()}
        self.checks.append(Check(step, iou))

    def give(self) -> Chosen:
        """Puts the best state into the head."""
        self._head.load_state_dict(self._best)
        groups = {(item.task, item.group) for item in self._items}
        masks = sum(item.masks for item in self._items)
        best = self.best
        return Chosen(best.step, best.iou, self._frozen, len(groups), masks, tuple(self.checks), self.stopped)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "best": self._best,
            "frozen": self._frozen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.checks = [Check(**check) for check in state["checks"]]
        device = self._backbone.device
        self._best = {name: tensor.to(device) for name, tensor in state["best"].items()}
        self._frozen = state["frozen"]

    def _score(self, head: Head) -> float:
        outcomes = evaluate(head, self._backbone, self._items, prompt=self._prompt)
        values = np.array(outcomes.scores["iou"])
        return float(values[np.isfinite(values)].mean())

    @property
    def _prompt(self) -> EvaluationPrompt:
        """Boxes, unless most training prompts are points."""
        return BOX if self._options.box_share >= 0.5 else parse_prompt("point")
