"""Scores of volumes: a fitted head beside the frozen SAM, over all volumes and classes and for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from casam_cache.metrics.intervals import Interval
from casam_cache.training.outcomes import Outcomes, Score, gain, score


@dataclass(frozen=True)
class VolumeScore:
    """Means over volumes, 3D Dice and IoU in [0, 1] and distances in mm.

    Attributes:
        class_id: the class; None: over all volumes and classes, each pair of the two counting alike.
        fitted, frozen: every volume metric's mean, `casam_cache.metrics.volumes.VOLUME_METRICS`.
        gain: paired difference fitted - frozen by metric, where both have a value.
    """

    class_id: int | None
    fitted: Score
    frozen: Score
    gain: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        return {
            "class": self.class_id,
            "fitted": self.fitted.to_json(),
            "frozen": self.frozen.to_json(),
            "gain": {name: interval.to_json() for name, interval in self.gain.items()},
        }


def volume_scores(fitted: Outcomes | None, frozen: Outcomes | None) -> tuple[VolumeScore, ...]:
    """Over all, then of each class where there are several; empty where the images are no slices of volumes."""
    if fitted is None or frozen is None:
        return ()
    classes = sorted(set(fitted.class_id))
    parts: list[int | None] = [None, *(classes if len(classes) > 1 else [])]
    found = []
    for number in parts:
        after, before = (_of_class(one, number) for one in (fitted, frozen))
        found.append(VolumeScore(number, score(after), score(before), gain(after, before)))
    return tuple(found)


def _of_class(outcomes: Outcomes, number: int | None) -> Outcomes:
    """The rows of a class; of None, all."""

    def kept(column: list[Any]) -> list[Any]:
        every = zip(column, outcomes.class_id, strict=True)
        return [value for value, own in every if number is None or own == number]

    return Outcomes(
        kept(outcomes.task), kept(outcomes.item), kept(outcomes.group), kept(outcomes.class_id),
        kept(outcomes.instance), kept(outcomes.area), kept(outcomes.predicted_iou),
        {name: kept(values) for name, values in outcomes.scores.items()},
    )  # fmt: skip
