"""The learning rate over the steps of a fit."""

from __future__ import annotations

import math
from typing import Literal


def rate_share(schedule: Literal["constant", "cosine"], warmup_steps: int, step: int, steps: int) -> float:
    """Share of the learning rate at a step.

    Args:
        schedule: `constant`, or `cosine`, which ends at zero.
        warmup_steps: steps over which it rises from zero to where the schedule has it.
        step: from 0.
        steps: in all.
    """
    rising = min(1.0, (step + 1) / (warmup_steps + 1))
    if schedule == "constant":
        return rising
    return rising * (1 + math.cos(math.pi * step / steps)) / 2
