"""Elastic Weight Consolidation (Algorithm 2): weights that mattered to earlier tasks are held where they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field

from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.memory import Memory
from casam_cache.methods.naive import Naive
from casam_cache.methods.sequential import Past, Setting
from casam_cache.training.fisher import FisherLoss, fisher_diagonal, scaled_to_mean_one
from casam_cache.training.items import Items
from casam_cache.training.step import Penalty, Step

Named = Mapping[str, torch.Tensor]


class EWCOptions(AlignmentOptions):
    """How the Fisher information is estimated, kept and weighed.

    Attributes:
        ewc_weight: lambda of Algorithm 2. With `fisher_scale=mean` its size does not depend on the loss, the grid or
            the task; the useful values still span orders of magnitude: choose on validation.
        consolidation: what holds the weights: `last`, the last task's information around the last weights (the
            paper's); `online`, a running sum gamma * F + F_t around the last weights; `separate`, each task's
            information around that task's weights.
        ewc_gamma: of `online`.
        fisher_loss: `likelihood`, the log-likelihood of the mask, cell by cell; `training`, the training loss.
        fisher_scale: `mean` divides each task's information by its mean over the parameters, so that the penalty of
            equal importances is lambda times the squared distance; `none` leaves it, with a scale that goes with the
            square of the loss's.
        fisher_images: how many of the task's images it is estimated on; None is all.
    """

    ewc_weight: float = Field(default=1.0, ge=0)
    consolidation: Literal["last", "online", "separate"] = "last"
    ewc_gamma: float = Field(default=1.0, ge=0, le=1)
    fisher_loss: FisherLoss = "likelihood"
    fisher_scale: Literal["mean", "none"] = "mean"
    fisher_images: int | None = Field(default=None, ge=1)


class EWC(Naive):
    """Fine-tuning on L = L_align + lambda * sum_i F_i (A_i - A*_i)^2.

    Memory: `last` and `online` keep one number a weight, F; the weights A* are the last layer's. `separate` keeps two
    for each task.
    """

    name = "ewc"
    Options = EWCOptions
    remembers = True

    def penalty(self, items: Items, past: Past | None, setting: Setting) -> Penalty:
        """The quadratic penalty of what is remembered; none in a first task."""
        if past is None:
            return Penalty()
        assert isinstance(self.options, EWCOptions)
        tensors = past.memory.tensors
        if self.options.consolidation == "separate":
            terms = [
                (_under(tensors, f"fisher/{task}/"), _under(tensors, f"weights/{task}/"))
                for task in past.memory.facts["tasks"]
            ]
        else:
            last = {name: parameter.detach().cpu() for name, parameter in past.head.named_parameters()}
            terms = [(_under(tensors, "fisher/"), last)]
        return Quadratic(terms, self.options.ewc_weight, setting.backbone.device)

    def remember(
        self, head: Head, items: Items, past: Past | None, penalty: Penalty | None, setting: Setting
    ) -> Memory:
        """The task's Fisher information, joined with what is kept of earlier tasks."""
        options = self.options
        assert isinstance(options, EWCOptions)
        fisher = fisher_diagonal(
            head,
            setting.backbone,
            items,
            setting.training,
            seed=setting.seed,
            task=setting.task,
            loss=options.fisher_loss,
            images=options.fisher_images,
        )
        if options.fisher_scale == "mean":
            fisher = scaled_to_mean_one(fisher)
        kept = {} if past is None else dict(past.memory.tensors)
        if options.consolidation == "separate":
            weights = {name: parameter.detach() for name, parameter in head.named_parameters()}
            kept |= _named(f"fisher/{setting.task}/", fisher) | _named(f"weights/{setting.task}/", weights)
            before = [] if past is None else past.memory.facts["tasks"]
            return Memory(kept, {"tasks": sorted([*before, setting.task])})
        if options.consolidation == "online" and kept:
            sums = _under(kept, "fisher/")
            fisher = {name: options.ewc_gamma * sums[name] + new.cpu() for name, new in fisher.items()}
        return Memory(_named("fisher/", fisher))


class Quadratic(Penalty):
    """lambda * sum over tasks k and weights i of F_ki (A_i - A_ki)^2, at the cost of one task.

    A sum of parabolas is a parabola: with S = sum_k F_k, centre m = sum_k F_k A_k / S and remainder
    r = sum_k F_k (A_k - m)^2 it is sum_i S_i (A_i - m_i)^2 + r. The three are computed once, in float64 on the CPU.

    Args:
        terms: Fisher information and weights of each task, by the names of the head's parameters; in the order in
            which they are to be summed; on the CPU.
        weight: lambda.
        device: of training.
    """

    def __init__(
        self, terms: Sequence[tuple[Named, Named]], weight: float, device: torch.device | str = "cpu"
    ) -> None:
        self._weight = weight
        self._importance: dict[str, torch.Tensor] = {}
        self._centre: dict[str, torch.Tensor] = {}
        remainder = 0.0
        for name in sorted(terms[0][0]):
            fishers = [fisher[name].double() for fisher, _ in terms]
            weights = [held[name].double() for _, held in terms]
            importance = torch.stack(fishers).sum(0)
            pulled = torch.stack([f * w for f, w in zip(fishers, weights, strict=True)]).sum(0)
            centre = torch.where(importance > 0, pulled / importance.clamp_min(1e-300), weights[-1])
            remainder += sum(
                float((f * (w - centre).square()).sum()) for f, w in zip(fishers, weights, strict=True)
            )
            self._importance[name] = importance.float().to(device)
            self._centre[name] = centre.float().to(device)
        self._remainder = remainder

    def term(self, step: Step) -> torch.Tensor:
        """The penalty at the weights of this step."""
        parameters = dict(step.head.named_parameters())
        sums = [
            (importance * (parameters[name] - self._centre[name]).square()).sum()
            for name, importance in self._importance.items()
        ]
        return self._weight * (torch.stack(sums).sum() + self._remainder)


def _named(prefix: str, tensors: Named) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _under(tensors: Named, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
