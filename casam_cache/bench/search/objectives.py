"""What a search is after: a mean over masks of validation groups, and what a head costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from casam_cache.errors import OptionError, unknown_name

SCORES = ("iou", "biou", "dice")  # more is better
COSTS = ("flops", "parameters")  # less is better


def read_objectives(text: str) -> tuple[str, ...]:
    """The objectives of `iou` or `iou,flops`: one score first, then what it costs.

    Raises:
        OptionError: an unknown one, one twice, or not exactly one score.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in SCORES + COSTS:
            raise unknown_name("objective", name, [*SCORES, *COSTS])
    if len(set(names)) < len(names) or not names or names[0] not in SCORES or set(names[1:]) & set(SCORES):
        raise OptionError(
            f"objectives '{text}' are not one score and then costs",
            "for example iou, or iou,flops, or dice,flops,parameters",
        )
    return names


def higher_is_better(name: str) -> bool:
    return name in SCORES


def dominated_by(values: Sequence[Sequence[float]], objectives: Sequence[str]) -> np.ndarray:
    """By how many of the others each is dominated: as good in every objective and better in one.

    Args:
        values: (N, objectives).
        objectives: their names.

    Returns:
        int64 (N,); the Pareto front is where it is 0.
    """
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    signs = np.array([1.0 if higher_is_better(name) else -1.0 for name in objectives])
    table = np.asarray(values, dtype=np.float64) * signs
    table = np.where(np.isnan(table), -np.inf, table)
    as_good = (table[:, None, :] >= table[None, :, :]).all(axis=2)  # [i, j]: i is as good as j
    better = (table[:, None, :] > table[None, :, :]).any(axis=2)
    found: np.ndarray = (as_good & better).sum(axis=0)
    return found


def front(points: Mapping[int, Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """The numbers of those that no other dominates, the best in the first objective first."""
    numbers = sorted(points)
    counts = dominated_by([points[number] for number in numbers], objectives)
    free = [number for number, count in zip(numbers, counts, strict=True) if count == 0]
    sign = -1.0 if higher_is_better(objectives[0]) else 1.0
    return sorted(free, key=lambda number: (sign * points[number][0], number))
