"""Every scored mask: truth, the frozen SAM's and the method's, predicted again as they were scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_device
from casam_cache.bench.tasks import Place, Tasks
from casam_cache.cutout import Cutout
from casam_cache.errors import StoreError
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head, head_class, load_head
from casam_cache.report.html.scored import Scored
from casam_cache.store import EmbeddingStore
from casam_cache.training.evaluate import evaluate
from casam_cache.training.evaluation_prompts import EvaluationPrompt, parse_prompt
from casam_cache.training.items import Item, ItemMask, Items, Row

Seen = Callable[[Item, ItemMask, np.ndarray], None]
Owner = tuple[str, int, int]
"""Id of the image, class, instance."""


@dataclass(frozen=True)
class MaskCase:
    """One true mask with what was predicted for it.

    Attributes:
        item: of which image.
        place: of the image in the store.
        truth, frozen, fitted: masks.
        box, point: what it was prompted with, original pixels, or None.
        row: in the outcomes of the fit.
    """

    item: Item
    place: int
    truth: Cutout
    frozen: Cutout
    fitted: Cutout
    box: tuple[float, ...] | None
    point: tuple[float, ...] | None
    row: int


class ScoredMasks:
    """The store and the heads of what was scored, opened to predict its masks again.

    Args:
        scored: what.
        device: `auto`, `cpu`, `cuda`, ...
        frozen: the frozen SAM's masks by owner, which those of one split share: what is missing is added.

    Raises:
        StoreError: the store is gone, or holds something else than what was scored.
        CasamError: the backbone or a head cannot be had.
    """

    def __init__(
        self, scored: Scored, device: str = "auto", frozen: dict[Owner, Cutout] | None = None
    ) -> None:
        path, task = scored.store, scored.task
        if not path.is_dir():
            raise StoreError(
                f"the store of {task} is no longer in {path}", "masks are shown where it is there"
            )
        tasks = Tasks.open(path.parent.parent, path.stem, str(choose_device(device)), task=task)
        place: Place = tasks.place
        self.scored = scored
        self.store: EmbeddingStore = place.store(task)
        self.items: Items = place.items(scored.items)
        self._frozen = {} if frozen is None else frozen
        self._heads: dict[Path | None, tuple[Head, Backbone]] = {}
        for folder in (None, *scored.heads.values()):
            if folder not in self._heads:
                kind = None if folder is None else head_class(folder)
                backbone = (
                    place.backbone(task)
                    if kind is None
                    else place.backbone(task, kind.needs, encoder=not kind.replaces_sam)
                )
                head = (
                    build_head("identity", None, backbone, seed=0)
                    if folder is None
                    else load_head(folder, backbone)
                )
                self._heads[folder] = head, backbone
        self._rows: dict[Owner, int] = {
            owner: row
            for row, owner in enumerate(
                zip(scored.fitted.item, scored.fitted.class_id, scored.fitted.instance, strict=True)
            )
        }

    def cases(self, rows: Sequence[int] | None = None, at_once: int = 32) -> Iterator[MaskCase]:
        """Every mask, or those of some rows of the outcomes, image by image; few are in memory at a time.

        Args:
            rows: of the outcomes; None: all.
            at_once: images predicted in one go.
        """
        wanted = None if rows is None else set(rows)
        names = None if wanted is None else {self.scored.fitted.item[row] for row in wanted}
        own = [row for row in self.items.rows if row.item.masks and (names is None or row.item.id in names)]
        for start in range(0, len(own), at_once):
            yield from self._some(own[start : start + at_once], wanted)

    def _some(self, rows: Sequence[Row], wanted: set[int] | None) -> Iterator[MaskCase]:
        prompt = parse_prompt(self.scored.prompt)
        unknown = [row for row in rows if any(owner not in self._frozen for owner, _ in _masks(row))]
        self._frozen |= self._predict(None, unknown, prompt)
        fitted: dict[Owner, Cutout] = {}
        for folder in dict.fromkeys(self.scored.heads[row.item.id] for row in rows):
            own = [row for row in rows if self.scored.heads[row.item.id] == folder]
            fitted |= (
                {owner: self._frozen[owner] for row in own for owner, _ in _masks(row)}
                if folder is None
                else self._predict(folder, own, prompt)
            )
        for row in rows:
            item = row.item
            for owner, mask in _masks(row):
                place = self._rows[owner]
                if wanted is not None and place not in wanted:
                    continue
                size, named = (item.geometry.height, item.geometry.width), (item.task, *owner)
                box = point = None
                if prompt.ambiguous:
                    point = tuple(prompt.point(mask.bitmap, mask.point, named).tolist())
                else:
                    box = tuple(prompt.box(mask.box, size, named).tolist())
                at, both = self.store.index(item.id), (self._frozen[owner], fitted[owner])
                yield MaskCase(item, at, mask.cutout, *both, box, point, place)

    def _predict(
        self, folder: Path | None, rows: Sequence[Row], prompt: EvaluationPrompt
    ) -> dict[Owner, Cutout]:
        found: dict[Owner, Cutout] = {}

        def keep(item: Item, mask: ItemMask, bitmap: np.ndarray) -> None:
            found[owner_of(item, mask)] = Cutout.of(bitmap).tight() if bitmap.any() else _nothing(bitmap)

        if rows:
            head, backbone = self._heads[folder]
            evaluate(head, backbone, replace(self.items, rows=tuple(rows)), prompt=prompt, on_mask=keep)
        return found


def owner_of(item: Item, mask: ItemMask) -> Owner:
    return item.id, int(mask.class_id), int(mask.instance)


def _masks(row: Row) -> list[tuple[Owner, ItemMask]]:
    return [(owner_of(row.item, mask), mask) for mask in row.masks()]


def _nothing(bitmap: np.ndarray) -> Cutout:
    return Cutout(np.zeros((0, 0), bool), 0, 0, (bitmap.shape[0], bitmap.shape[1]))


def overlap(first: Cutout, second: Cutout) -> float:
    """IoU of two masks of one image; NaN where both are empty."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom = min(first.top + first.pixels.shape[0], second.top + second.pixels.shape[0])
    right = min(first.left + first.pixels.shape[1], second.left + second.pixels.shape[1])
    both = 0
    if bottom > top and right > left:
        parts = [
            each.pixels[top - each.top : bottom - each.top, left - each.left : right - each.left]
            for each in (first, second)
        ]
        both = int(np.count_nonzero(parts[0] & parts[1]))
    either = first.area + second.area - both
    return both / either if either else float("nan")
