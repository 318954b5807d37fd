"""Which of its states a fit gives: the best on groups that were set apart, the one it began with among them.

Points between two states (`interpolation`) can be candidates too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head
from casam_cache.training.evaluate import evaluate
from casam_cache.training.evaluation_prompts import BOX, EvaluationPrompt, parse_prompt
from casam_cache.training.interpolation import Weights, on_the_way, weights_of
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
class Between:
    """A point on the way from the weights that a fit began with to those of a state, on the held-out groups.

    Attributes:
        step: of the state.
        share: of the way, in (0, 1].
        iou: mean over the masks.
    """

    step: int
    share: float
    iou: float


@dataclass(frozen=True)
class Chosen:
    """How the state of a fit was chosen.

    Attributes:
        step: of the state that was kept; 0 is the head as it began.
        iou: mean IoU on the held-out masks of what was kept.
        frozen: that of the frozen SAM.
        groups, masks: held out, and looked at.
        checks: every state that was looked at.
        stopped: whether training ended early, for want of a better state.
        share: of the way from where the fit began to that state, where a point between was kept; 1: the state itself.
        between: every such point that was looked at.
    """

    step: int
    iou: float
    frozen: float
    groups: int
    masks: int
    checks: tuple[Check, ...]
    stopped: bool
    share: float = 1.0
    between: tuple[Between, ...] = ()

    @property
    def below_frozen(self) -> bool:
        """Whether no head at all is better than the state, by more than what rounding makes of an identity."""
        return self.iou < self.frozen - 1e-6


class Selection:
    """The states of a head that were looked at so far, and a copy of the best.

    It is made with the head as the fit begins, before a checkpoint is read.

    Attributes:
        checks: in order.
    """

    def __init__(self, head: Head, backbone: Backbone, items: Items, options: TrainingOptions) -> None:
        self._head, self._backbone, self._items, self._options = head, backbone, items, options
        self.checks: list[Check] = []
        self._points = 0 if head.replaces_sam else options.interpolations
        self._start: Weights = weights_of(head) if self._points else {}
        self._best: Weights = {}
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
            self._best = weights_of(self._head)
        self.checks.append(Check(step, iou))

    def give(self) -> Chosen:
        """Puts the best state into the head, or the point before it, or before the last one, that is better."""
        best, between = self.best, list[Between]()
        kept, weights = Between(best.step, 1.0, best.iou), self._best
        reached = (
            {best.step: self._best, self.checks[-1].step: weights_of(self._head)} if self._points else {}
        )
        for step, state in reached.items():
            for part in range(1, self._points + 1) if step else ():
                share = part / (self._points + 1)
                point = on_the_way(self._start, state, share)
                self._head.load_state_dict(point)
                between.append(Between(step, share, self._score(self._head)))
                if between[-1].iou > kept.iou:
                    kept, weights = between[-1], point
        self._head.load_state_dict(weights)
        groups = {(item.task, item.group) for item in self._items}
        masks = sum(item.masks for item in self._items)
        return Chosen(
            kept.step, kept.iou, self._frozen, len(groups), masks, tuple(self.checks), self.stopped, kept.share,
            tuple(between),
        )  # fmt: skip

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
