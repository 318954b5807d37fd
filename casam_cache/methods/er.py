"""Experience Replay (Algorithm 3): a small bank of earlier images is trained on along with each task."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.memory import Exemplar, Memory
from casam_cache.methods.naive import Naive
from casam_cache.methods.sequential import Past, Setting
from casam_cache.training.exemplars import Selection, select_exemplars
from casam_cache.training.items import Items, join
from casam_cache.training.losses import segmentation_loss
from casam_cache.training.options import TrainingOptions
from casam_cache.training.replay import Replay
from casam_cache.training.step import Penalty, Step, forward_pairs


class EROptions(AlignmentOptions):
    """The memory bank and how it is replayed; the paper states neither.

    Attributes:
        buffer_size: images in all (Mammoth's smallest is 200).
        selection: `balanced` keeps equally many of each task, as Algorithm 3 selects task by task; `reservoir` is a
            uniform choice of all images seen (Mammoth's).
        replay: `concatenate` trains on the union of the task and the bank, as Algorithm 3 is written: each image once
            an epoch, so that where the task is large the bank is rare, and the fit takes as many more steps as the bank
            has images. `batch` adds to each step the loss of as many images of the bank (Mammoth's): the same steps, at
            twice the cost, and old and new weigh the same.
        replay_weight: of that added loss.
    """

    buffer_size: int = Field(default=200, ge=1)
    selection: Selection = "balanced"
    replay: Literal["concatenate", "batch"] = "concatenate"
    replay_weight: float = Field(default=1.0, ge=0)


class ER(Naive):
    """Fine-tuning on the task and on exemplars of all earlier tasks, with their true masks."""

    name = "er"
    Options = EROptions
    remembers = True

    def items(self, items: Items, past: Past | None, setting: Setting) -> Items:
        """With `concatenate` the union of the task's images and the bank's."""
        if past is None or past.replay is None or self._options.replay != "concatenate":
            return items
        return join([items, past.replay], purposes=[(), ("replay", setting.task)])

    def penalty(self, items: Items, past: Past | None, setting: Setting) -> Penalty:
        """With `batch` the loss of a batch of the bank at each step."""
        if past is None or past.replay is None or self._options.replay != "batch":
            return Penalty()
        replay = Replay(
            past.replay, setting.backbone, setting.training, past.head.needs, setting.seed, setting.task
        )
        return ReplayedLoss(replay, setting.training, self._options.replay_weight)

    def remember(
        self, head: Head, items: Items, past: Past | None, penalty: Penalty | None, setting: Setting
    ) -> Memory:
        """The bank after this task: names only."""
        candidates: dict[str, list[str]] = {}
        for exemplar in past.memory.exemplars if past else ():
            candidates.setdefault(exemplar.task, []).append(exemplar.item)
        # An image without masks would never be trained on.
        candidates[setting.task] = [item.id for item in items if item.masks]
        chosen = select_exemplars(
            candidates, self._options.buffer_size, self._options.selection, setting.seed
        )
        return Memory(exemplars=tuple(Exemplar(task, item) for task, item in chosen))

    @property
    def _options(self) -> EROptions:
        assert isinstance(self.options, EROptions)
        return self.options


class ReplayedLoss(Penalty):
    """weight * L_align on a batch of exemplars.

    Where both batches have as many pairs, weight 1 is Mammoth's one mean over both, times two: a factor that Adam
    divides out.

    Args:
        replay: gives the batches.
        training: the loss.
        weight: of the term.
    """

    def __init__(self, replay: Replay, training: TrainingOptions, weight: float) -> None:
        self._replay, self._training, self._weight = replay, training, weight

    def term(self, step: Step) -> torch.Tensor:
        """The loss of this step's replayed batch."""
        pairs = self._replay.at(step.index)
        _, low_res, iou = forward_pairs(step.head, step.backbone, pairs)
        return (
            self._weight * segmentation_loss(low_res, iou, pairs.target, pairs.weight, self._training).total
        )
