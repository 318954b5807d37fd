"""What a metric is: a number for one predicted mask against one true mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

Better = Literal["high", "low"]


@dataclass(frozen=True)
class MetricFacts:
    """What results and tables say of a metric, also where its code is not at hand.

    Attributes:
        name: of its columns: `last_NAME`, ...
        label: in tables.
        better: whether high or low values are.
        percent: whether it is shown times 100.
    """

    name: str
    label: str
    better: Better = "high"
    percent: bool = True


class Metric(ABC):
    """How well one predicted mask covers one true mask. Made without arguments; holds no state between calls.

    Attributes:
        name: in `--metric`, and of its columns: a Python identifier.
        label: in tables.
        better: whether `high` or `low` values are.
        percent: whether tables show it times 100.
        revision: raised when the same masks would give another value; for a metric from a user's file, the SHA-256 of
            that file.
        takes_ignored: whether it is called with `ignored=`, bool (H, W) or None: the pixels that count nowhere. Both
            masks are False there, which is all that a metric needs that counts no true background.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    better: ClassVar[Better]
    percent: ClassVar[bool] = True
    revision: ClassVar[int | str] = 1
    takes_ignored: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        """The value for two bool masks (H, W); NaN where it is undefined, which leaves the mask out of every mean."""

    @classmethod
    def facts(cls) -> MetricFacts:
        return MetricFacts(cls.name, cls.label, cls.better, cls.percent)


def scored(metric: Metric, predicted: np.ndarray, truth: np.ndarray, ignored: np.ndarray | None) -> float:
    """What a metric says of two bool masks (H, W) that are both False where pixels are ignored, bool (H, W) or None."""
    if metric.takes_ignored:
        return metric(predicted, truth, ignored=ignored)  # type: ignore[call-arg]
    return metric(predicted, truth)
