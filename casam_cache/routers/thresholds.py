"""From held-out scores to a threshold (section 4.6.2, Tables 6 and 9)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from casam_cache.errors import unknown_name

Rule = Literal["mu2s", "p95", "p97", "p99", "conformal", "none"]
RULES: tuple[str, ...] = get_args(Rule)
_QUANTILES = {"p95": 0.95, "p97": 0.97, "p99": 0.99}
CONFORMAL_PERCENT = 97


def threshold(held_out: np.ndarray, rule: str) -> float:
    """The threshold tau of one task: images with a larger score are sent to the frozen SAM.

    - `mu2s`: mean plus two standard deviations (of the scores at hand, not an estimate for a population).
    - `p95`, `p97`, `p99`: quantiles with linear interpolation; p97 rejects about 3 % of the task's own images.
    - `conformal`: the ceil(0.97 (n + 1))-th smallest score. A new score exchangeable with the held-out ones is
      above it with a chance of at most 3 %, for any n. That takes 33 scores; with fewer it is infinite. (Images of
      one patient are not exchangeable with others, so with groups the guarantee is approximate.)
    - `none`: infinite.

    Args:
        held_out: (N,), scores of images that the scoring model was not fitted on; empty where a task cannot be
            calibrated, which makes every rule's threshold infinite.
        rule: one of `RULES`.

    Raises:
        OptionError: for an unknown rule.
    """
    if rule not in RULES:
        raise unknown_name("threshold", rule, list(RULES))
    scores = np.asarray(held_out, dtype=np.float64)
    if rule == "none" or not len(scores):
        return math.inf
    if rule == "mu2s":
        return float(scores.mean() + 2 * scores.std())
    if rule == "conformal":
        place = conformal_place(len(scores))
        return float(np.sort(scores)[place - 1]) if place <= len(scores) else math.inf
    return float(np.quantile(scores, _QUANTILES[rule]))


def conformal_place(count: int) -> int:
    """ceil(0.97 (n + 1)): which of n sorted scores, counted from 1, is the threshold; above n there is none."""
    return -(-(count + 1) * CONFORMAL_PERCENT // 100)
