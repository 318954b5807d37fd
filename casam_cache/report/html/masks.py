"""Every scored mask of a fit: truth, the frozen SAM's and the fit's, predicted again as they were scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from casam_cache.backbones.devices import choose_device
from casam_cache.bench.tasks import Place, Tasks
from casam_cache.cutout import Cutout
from casam_cache.errors import StoreError
from casam_cache.heads.files import build_head, load_head, needs_of
from casam_cache.report.html.fits import ScoredFit
from casam_cache.store import EmbeddingStore
from casam_cache.training.evaluate import evaluate
from casam_cache.training.evaluation_prompts import parse_prompt
from casam_cache.training.items import Item, ItemMask, Items

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


class FitMasks:
    """The store and the heads of a scored fit, opened to predict its masks again.

    Args:
        fit: which.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        StoreError: the store is gone, or holds something else than what was scored.
        CasamError: the backbone or the head cannot be had.
    """

    def __init__(self, fit: ScoredFit, device: str = "auto") -> None:
        path = fit.store
        if not path.is_dir():
            raise StoreError(
                f"the store of {fit.task} is no longer in {path}", "masks are shown where it is there"
            )
        tasks = Tasks.open(path.parent.parent, path.stem, str(choose_device(device)), task=fit.task)
        place: Place = tasks.place
        self.fit = fit
        self.store: EmbeddingStore = place.store(fit.task)
        self.items: Items = place.items(fit.items)
        self._backbone = place.backbone(fit.task, needs_of(fit.folder))
        self._heads = (
            build_head("identity", None, self._backbone, seed=0), load_head(fit.folder, self._backbone)
        )  # fmt: skip
        self._rows: dict[Owner, int] = {
            owner: row
            for row, owner in enumerate(
                zip(fit.fitted.item, fit.fitted.class_id, fit.fitted.instance, strict=True)
            )
        }

    def cases(self, rows: Sequence[int] | None = None, at_once: int = 32) -> Iterator[MaskCase]:
        """Every mask, or those of some rows of the outcomes, image by image; few are in memory at a time.

        Args:
            rows: of the outcomes; None: all.
            at_once: images predicted in one go.
        """
        wanted = None if rows is None else set(rows)
        names = None if wanted is None else {self.fit.fitted.item[row] for row in wanted}
        own = [row for row in self.items.rows if row.item.masks and (names is None or row.item.id in names)]
        for start in range(0, len(own), at_once):
            yield from self._some(replace(self.items, rows=tuple(own[start : start + at_once])), wanted)

    def _some(self, items: Items, wanted: set[int] | None) -> Iterator[MaskCase]:
        prompt = parse_prompt(self.fit.prompt)
        found: list[dict[Owner, Cutout]] = []
        truths: dict[Owner, tuple[Item, ItemMask]] = {}
        for head in self._heads:
            seen: dict[Owner, Cutout] = {}

            def keep(
                item: Item, mask: ItemMask, bitmap: np.ndarray, seen: dict[Owner, Cutout] = seen
            ) -> None:
                owner = (item.id, int(mask.class_id), int(mask.instance))
                seen[owner] = Cutout.of(bitmap).tight() if bitmap.any() else _nothing(bitmap)
                truths[owner] = item, mask

            evaluate(head, self._backbone, items, prompt=prompt, on_mask=keep)
            found.append(seen)
        for owner, (item, mask) in truths.items():
            row = self._rows[owner]
            if wanted is not None and row not in wanted:
                continue
            size, named = (item.geometry.height, item.geometry.width), (item.task, *owner)
            box = point = None
            if prompt.ambiguous:
                point = tuple(prompt.point(mask.bitmap, mask.point, named).tolist())
            else:
                box = tuple(prompt.box(mask.box, size, named).tolist())
            yield MaskCase(
                item,
                self.store.index(item.id),
                mask.cutout,
                found[0][owner],
                found[1][owner],
                box,
                point,
                row,
            )


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
