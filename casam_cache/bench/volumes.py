"""Scores of volumes: a fitted head beside the frozen SAM, over all volumes and classes and for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.stages.volumes import ScoreVolumes
from casam_cache.bench.tasks import TaskSplit
from casam_cache.engine.runs import Runs
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


@dataclass(frozen=True)
class VolumeStages:
    """The scorings of volumes that stand beside two scorings of slices; none where images are no slices.

    Attributes:
        fitted, frozen: of the head and of the frozen SAM, or None.
    """

    fitted: ScoreVolumes | None
    frozen: ScoreVolumes | None

    @classmethod
    def of(cls, split: TaskSplit, fitted: Evaluate, frozen: Evaluate) -> VolumeStages:
        if not split.volumes:
            return cls(None, None)
        return cls(ScoreVolumes(evaluated=fitted), ScoreVolumes(evaluated=frozen))

    @property
    def wanted(self) -> list[ScoreVolumes]:
        return [stage for stage in (self.frozen, self.fitted) if stage is not None]

    def scores(self, runs: Runs) -> tuple[VolumeScore, ...]:
        """Once computed."""
        if self.fitted is None or self.frozen is None:
            return ()
        return volume_scores(self.fitted.read(runs), self.frozen.read(runs))

    def folder(self, runs: Runs) -> str:
        """With the fitted head's scores of each volume; empty where there are none."""
        return "" if self.fitted is None else str(runs.folder(self.fitted))


def volume_scores(fitted: Outcomes, frozen: Outcomes) -> tuple[VolumeScore, ...]:
    """Over all, then of each class where there are several."""
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
