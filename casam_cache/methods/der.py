"""Dark Experience Replay (Algorithm 4): logits kept along the trajectory are matched on replayed images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.memory import Exemplar, Memory
from casam_cache.methods.naive import Naive
from casam_cache.methods.sequential import Past, Setting
from casam_cache.training.items import Items
from casam_cache.training.losses import squared_error
from casam_cache.training.reservoir import Reservoir
from casam_cache.training.step import Penalty, Step


class DEROptions(AlignmentOptions):
    """The reservoir and its weight.

    Attributes:
        buffer_size: image-mask pairs in all (Mammoth's smallest is 200); each keeps 2 * (4g)^2 bytes of logits.
        alpha: of the distillation. Mammoth's are 0.1 to 1 on class scores; mask logits spread wider, so the lowest.
    """

    buffer_size: int = Field(default=200, ge=1)
    alpha: float = Field(default=0.1, ge=0)


class DER(Naive):
    """Fine-tuning on L_align + alpha * the mean squared difference of logits on a batch of the reservoir.

    The mean over the cells that hold image, not the norm that Algorithm 4 writes: that would be 65,536 times as much
    on 256 x 256 logits. The reservoir fills while the first task trains, which therefore is no ordinary fit.
    """

    name = "der"
    Options = DEROptions
    first: ClassVar[str | None] = None
    remembers = True

    def penalty(self, items: Items, past: Past | None, setting: Setting) -> Penalty:
        """Distillation from the reservoir, which goes on filling."""
        assert isinstance(self.options, DEROptions)
        replay = past.replay if past else None
        reservoir = Reservoir(
            self.options.buffer_size,
            [items] if replay is None else [items, replay],
            setting.backbone,
            ("embedding",) if past is None else past.head.needs,
            setting.seed,
            setting.task,
        )
        if past is not None:
            reservoir.restore({**past.memory.tensors, **past.memory.facts})
        return DarkReplay(reservoir, self.options.alpha, setting.training.batch_size)

    def remember(
        self, head: Head, items: Items, past: Past | None, penalty: Penalty | None, setting: Setting
    ) -> Memory:
        """The reservoir as training left it."""
        assert isinstance(penalty, DarkReplay)
        state = penalty.state()
        entries = state.pop("entries")
        exemplars = sorted({Exemplar(task, item) for task, item in entries})
        return Memory(state, {"entries": entries}, tuple(exemplars))


class DarkReplay(Penalty):
    """alpha * mean squared difference on replayed pairs; then the step's own pairs are offered to the reservoir.

    Args:
        reservoir: as it stands before training.
        alpha: of the term.
        count: pairs replayed in a step.
    """

    def __init__(self, reservoir: Reservoir, alpha: float, count: int) -> None:
        self._reservoir, self._alpha, self._count = reservoir, alpha, count

    def term(self, step: Step) -> torch.Tensor | None:
        """The distillation of this step; None while the reservoir is empty."""
        added = None
        if len(self._reservoir):
            slots = self._reservoir.draw(step.index, self._count)
            added = self._alpha * squared_error(*self._reservoir.replay(step.head, slots)).mean()
        self._reservoir.offer(step)
        return added

    def state(self) -> dict[str, Any]:
        """Of the reservoir."""
        return self._reservoir.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""
        self._reservoir.restore(state)
