"""Groups of the training split that are set apart, so that the best state of a fit can be chosen on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from casam_cache.fingerprint import digest
from casam_cache.training.items import Items, Row

FEWEST_GROUPS = 8  # with masks: what fewer would leave to choose on says too little, and costs too much
MOST_MASKS = 64  # of a task: a look at the held-out images is to cost seconds


def hold_out(items: Items, share: float) -> tuple[Items, Items | None]:
    """What is left to train on, and what was set apart: whole groups (patients, slides), task by task.

    A group's place in the order in which groups are taken depends on the names of its task and its own alone: neither
    the seed nor new images move others. A group is taken while that brings the number of images closer to the share, at
    least two of them.

    Args:
        items: for training; images without masks stay with their group.
        share: of the images that have masks, in [0, 0.5].

    Returns:
        Those to train on, in their order; those set apart that have masks, of each task no more than hold 64 masks.
        None where the share is 0 or no task has eight groups.
    """
    apart: list[Row] = []
    taken: set[tuple[str, str]] = set()
    if share:
        for task, own in groupby(sorted(items.rows, key=_task), key=_task):
            rows = [row for row in own if row.item.masks]
            groups = _drawn(rows, share)
            taken |= {(task, group) for group in groups}
            apart += _some([row for row in rows if row.item.group in groups])
    if not apart:
        return items, None
    left = tuple(row for row in items.rows if (row.item.task, row.item.group) not in taken)
    return replace(items, rows=left, content=""), Items(items.task, items.embedding_shape, tuple(apart))


def _task(row: Row) -> str:
    return row.item.task


def _order(*names: str) -> str:
    return digest(["held out", *names])


def _drawn(rows: Sequence[Row], share: float) -> set[str]:
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.item.group] = sizes.get(row.item.group, 0) + 1
    if len(sizes) < FEWEST_GROUPS:
        return set()
    wanted, taken, found = share * len(rows), 0, set[str]()
    for group in sorted(sizes, key=lambda group: _order(rows[0].item.task, group)):
        if len(found) < 2 or abs(taken + sizes[group] - wanted) < abs(taken - wanted):
            found.add(group)
            taken += sizes[group]
    return found


def _some(rows: Sequence[Row]) -> list[Row]:
    """As many as hold MOST_MASKS masks, in an order of their own, one group's images among another's."""
    kept, masks = list[Row](), 0
    for row in sorted(rows, key=lambda row: _order(row.item.task, row.item.group, row.item.id)):
        if masks >= MOST_MASKS:
            break
        kept.append(row)
        masks += row.item.masks
    return kept
