"""Logits kept along the trajectory of training: a reservoir of (image, prompt, what the model said then).

Every image-mask pair that training visits is offered and draws a number from (seed, task, epoch, sample); the pairs
with the smallest numbers stay. At each instant that is a uniform choice of all pairs offered so far, as reservoir
sampling makes it, and needs no count of them: contents do not depend on where in an order a task stood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.heads.base import Head, run_head
from casam_cache.training.epochs import low_res_counted, low_res_cover
from casam_cache.training.feed import Residency, choose_residency, pack_prompts
from casam_cache.training.items import Items, Row
from casam_cache.training.step import Step


class Reservoir:
    """At most `size` pairs with their logits; features stay on the device where they fit, or are read again.

    Args:
        size: pairs in all.
        sources: where features are read: the current task's training images and those replayed, if there are.
        backbone: on the device of training.
        needs: features that the head reads.
        seed: of the run.
        task: the one being learnt.
        residency: `device` keeps features there, `stream` reads them at each draw; does not change the numbers.
    """

    def __init__(
        self,
        size: int,
        sources: Sequence[Items],
        backbone: Backbone,
        needs: Sequence[str],
        seed: int,
        task: str,
        residency: Residency = "auto",
    ) -> None:
        self._backbone = backbone
        self._rows = {(row.item.task, row.item.id): row for items in sources for row in items.rows}
        self._seed, self._task = seed, task
        side = backbone.low_res
        device = backbone.device
        self.entries: list[tuple[str, str]] = []
        self._keys = np.full(size, np.inf)
        self._is_box = np.zeros(size, dtype=bool)
        self._coordinates = np.zeros((size, 4), dtype=np.float32)
        self._logits = torch.zeros((size, side, side), dtype=torch.float16, device=device)
        samples = {name: torch.from_numpy(sources[0].feature(name, 0)[None].copy()) for name in needs}
        needed = size * sum(sample.nbytes for sample in samples.values())
        chosen = choose_residency(needed, device, None) if residency == "auto" else residency
        self._needs = tuple(needs)
        self._features: dict[str, torch.Tensor] | None = None
        if chosen == "device":
            self._features = {
                name: torch.zeros((size, *sample.shape[1:]), dtype=sample.dtype, device=device)
                for name, sample in samples.items()
            }

    def __len__(self) -> int:
        return len(self.entries)

    def offer(self, step: Step) -> None:
        """Takes in those pairs of a step whose numbers are among the smallest, with the step's own logits."""
        pairs = step.pairs
        images = range(len(pairs)) if pairs.image_index is None else pairs.image_index.tolist()
        taken: dict[int, int] = {}
        seen: dict[int, int] = {}
        for pair, image in enumerate(images):
            number = seen[image] = seen.get(image, -1) + 1
            item = pairs.items[image]
            key = generator(self._seed, item.task, "reservoir", step.epoch, item.id, number).random()
            slot = int(np.argmax(self._keys))
            if key >= self._keys[slot] or item.view:  # features are read again, of the images themselves
                continue
            self.entries[slot : slot + 1] = [(item.task, item.id)]
            self._keys[slot], self._is_box[slot] = key, pairs.is_box[pair]
            self._coordinates[slot] = pairs.coordinates[pair]
            taken[slot] = pair
        if not taken:
            return
        slots = torch.tensor(list(taken), device=self._logits.device)
        chosen = torch.tensor(list(taken.values()), device=self._logits.device)
        self._logits[slots] = step.low_res.detach().index_select(0, chosen).half()
        self._place(list(taken))

    def draw(self, step: int, count: int) -> np.ndarray:
        """Slots of `count` pairs (or all there are), drawn by (seed, task, step) without replacement."""
        rng = generator(self._seed, self._task, "replay", step)
        return np.sort(rng.choice(len(self), min(count, len(self)), replace=False))

    def replay(self, head: Head, slots: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the head says now of some pairs, with gradients, and what was said then.

        Args:
            head: in training.
            slots: which pairs, (P,).

        Returns:
            Logits now (P, L, L), logits then (P, L, L), and the share of each cell that holds image (P, L, L).
        """
        device = self._logits.device
        chosen = torch.from_numpy(slots).to(device)
        is_box, corners = torch.from_numpy(self._is_box[slots]), torch.from_numpy(self._coordinates[slots])
        with torch.no_grad():
            sparse, dense = self._backbone.embed_prompts(pack_prompts(is_box, corners).to(device))
        if self._features is None:
            features = {name: self._read(name, slots.tolist()) for name in self._needs}
        else:
            features = {name: kept.index_select(0, chosen) for name, kept in self._features.items()}
        floats = {name: feature.float() for name, feature in features.items()}
        _, low_res, _ = run_head(head, self._backbone, floats, None, sparse, dense)
        weight = torch.from_numpy(np.stack([_weight(self._row(slot)) for slot in slots])).to(device)
        return low_res[:, 0], self._logits.index_select(0, chosen).float(), weight

    def state(self) -> dict[str, Any]:
        """Tensors on the CPU and names: everything but the features, which are read again."""
        held = len(self)
        return {
            "logits": self._logits[:held].cpu(),
            "keys": torch.from_numpy(self._keys[:held].copy()),
            "is_box": torch.from_numpy(self._is_box[:held].copy()),
            "coordinates": torch.from_numpy(self._coordinates[:held].copy()),
            "entries": [list(entry) for entry in self.entries],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave, of this task or of the one before.

        Raises:
            CasamError: an image is in none of the sources.
        """
        self.entries = [(task, item) for task, item in state["entries"]]
        held = len(self)
        self._keys[:] = np.inf
        self._keys[:held] = state["keys"].numpy()
        self._is_box[:held] = state["is_box"].numpy()
        self._coordinates[:held] = state["coordinates"].numpy()
        self._logits[:held] = state["logits"].to(self._logits.device)
        for slot in range(held):
            self._row(slot)
        self._place(range(held))

    def _place(self, slots: Sequence[int]) -> None:
        """Copies the features of newly filled slots to the device, where they stay there."""
        if slots and self._features is not None:
            at = torch.tensor(slots, device=self._logits.device)
            for name, kept in self._features.items():
                kept[at] = self._read(name, slots)

    def _row(self, slot: int) -> Row:
        task, item = self.entries[slot]
        if (task, item) not in self._rows:
            raise CasamError(
                f"remembered image {task}/{item} is not among those replayed", "run the sequence anew"
            )
        return self._rows[task, item]

    def _read(self, name: str, slots: Sequence[int]) -> torch.Tensor:
        stacked = np.stack([self._row(slot).feature(name) for slot in slots])
        return torch.from_numpy(stacked).to(self._logits.device)


def _weight(row: Row) -> np.ndarray:
    """Share of each low-res cell of an image that counts, float32 (L, L)."""
    rows, columns = low_res_cover(row.item.geometry)
    weight: np.ndarray = rows[:, None] * columns
    ignored = row.ignored()
    if ignored is None:
        return weight
    return weight * low_res_counted(ignored, row.item.geometry).astype(np.float16).astype(np.float32)
