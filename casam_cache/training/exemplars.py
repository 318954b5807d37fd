"""Which images a memory of limited size keeps.

Each image draws a number from (seed, task, sample), and those with the smallest numbers stay. The images with the
k smallest of independent uniform numbers are a uniform choice of k images out of all seen so far, which is what
reservoir sampling keeps too; but here the choice is the same in whatever order images and tasks came by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from casam_cache.fingerprint import generator

Selection = Literal["balanced", "reservoir"]


def select_exemplars(
    candidates: Mapping[str, Sequence[str]], size: int, selection: Selection, seed: int
) -> list[tuple[str, str]]:
    """The (task, id) of the images to keep, sorted.

    Args:
        candidates: ids by task: what was kept of earlier tasks, and every training image of the last one.
        size: images in all.
        selection: `balanced` shares `size` equally between the tasks; what a small task cannot fill goes to the
            others, and what does not divide to the first tasks by name. `reservoir` is a uniform choice of all
            images seen, so that large tasks have more (Mammoth's).
        seed: of the run.
    """
    ordered = {
        task: sorted((generator(seed, task, "exemplar", item).random(), item) for item in set(items))
        for task, items in candidates.items()
    }
    if selection == "reservoir":
        drawn = sorted((key, task, item) for task, own in ordered.items() for key, item in own)
        return sorted((task, item) for _, task, item in drawn[:size])
    quotas = shares({task: len(own) for task, own in ordered.items()}, size)
    return sorted((task, item) for task, own in ordered.items() for _, item in own[: quotas[task]])


def shares(available: Mapping[str, int], size: int) -> dict[str, int]:
    """`size` places shared equally between tasks, none of which takes more than it has."""
    quotas = dict.fromkeys(sorted(available), 0)
    left = min(size, sum(available.values()))
    while left:
        for task in quotas:
            if left and quotas[task] < available[task]:
                quotas[task] += 1
                left -= 1
    return quotas
