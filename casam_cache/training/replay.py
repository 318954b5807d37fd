"""Batches of remembered images, each a pure function of (seed, task, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from casam_cache.backbones.base import Backbone
from casam_cache.fingerprint import generator
from casam_cache.training.epochs import TrainingMasks, Visit, VisitBatch
from casam_cache.training.feed import Feed, place_features
from casam_cache.training.items import Items
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Pairs

AHEAD = 16  # steps whose prompts are embedded together


class Replay:
    """An endless supply of batches of exemplars.

    The images of a step are drawn by (seed, task, step), without replacement; the masks and prompts of each by
    (seed, its own task, its id) and the step they are replayed in.

    Args:
        items: the exemplars.
        backbone: whose prompt encoder embeds the prompts, on the device of training.
        options: batch size, masks an image, prompts.
        needs: features that the head reads.
        seed: of the run.
        task: the one being learnt meanwhile.

    Raises:
        CasamError: no exemplar has a mask.
    """

    def __init__(
        self,
        items: Items,
        backbone: Backbone,
        options: TrainingOptions,
        needs: Sequence[str],
        seed: int,
        task: str,
    ) -> None:
        self._masks = TrainingMasks.prepare(items)
        features = place_features(items, self._masks.trained, backbone.device, needs)
        self._feed = Feed(self._masks, features, backbone)
        self._options, self._seed, self._task = options, seed, task
        self._next = -1
        self._block: Iterator[Pairs] = iter(())

    def at(self, step: int) -> Pairs:
        """The batch of a step of training: as many images as a step has, or all where there are fewer."""
        start = step - step % AHEAD
        if step == start or step != self._next:
            # All of the block, so that a resumed run multiplies matrices of the same sizes.
            batches = [self.draw(number) for number in range(start, start + AHEAD)]
            self._block = islice(self._feed.epoch(batches), step - start, None)
        self._next = step + 1
        return next(self._block)

    def draw(self, step: int) -> VisitBatch:
        """What `at` gives, before any tensor is made."""
        trained = self._masks.trained
        size = min(self._options.batch_size, len(trained))
        chosen = generator(self._seed, self._task, "replay", step).choice(len(trained), size, replace=False)
        return VisitBatch.of([self._visit(trained[place], step) for place in np.sort(chosen)])

    def _visit(self, index: int, step: int) -> Visit:
        item = self._masks.items[index]
        rng = generator(self._seed, item.task, "replay", self._task, step, item.id)
        return self._masks.draw(index, self._options, rng)
