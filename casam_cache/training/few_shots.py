"""A few images of the training split, nested: what a fit learns from one image is among what it learns from two."""

from __future__ import annotations

from dataclasses import replace

from casam_cache.fingerprint import digest
from casam_cache.training.items import Items, Row


def few_shots(items: Items, shots: int | None, seed: int) -> Items:
    """The first images of an order that the seed and the names of task, groups and images decide.

    One image of each group (patient, slide) comes before a second one of any, so that few images are of as many groups
    as there can be. Another number takes more or fewer of the same order; new images do not change that of the others.

    Args:
        items: of one task; images without masks are left out where `shots` is given.
        shots: how many, all where there are fewer; None: all.
        seed: of the run.
    """
    if shots is None:
        return items
    turns: dict[str, int] = {}
    ranked: list[tuple[int, str, Row]] = []
    rows = [row for row in items.rows if row.item.masks]
    for row in sorted(
        rows, key=lambda row: digest(["shot", seed, row.item.task, row.item.group, row.item.id])
    ):
        turn = turns[row.item.group] = turns.get(row.item.group, -1) + 1
        ranked.append((turn, digest(["shot", seed, row.item.task, row.item.group]), row))
    ranked.sort(key=lambda each: each[:2])
    taken = {row.item.id for *_, row in ranked[:shots]}
    return replace(items, rows=tuple(row for row in rows if row.item.id in taken), content="")
