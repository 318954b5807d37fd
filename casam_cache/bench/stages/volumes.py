"""How good a head, or the frozen SAM, is on whole volumes: from the masks of their slices, which are predicted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.volumes import VolumeMasks, read_volumes, write_volumes


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreVolumes(Stage):
    """Outcomes of each volume and class; a stage of its own, since surfaces take time and not everybody asks.

    Attributes:
        evaluated: the scoring of the slices.
    """

    kind: ClassVar[str] = "volumes"

    evaluated: Evaluate

    @property
    def label(self) -> str:
        return f"volumes of {self.evaluated.label}"

    def compute(self, work: Work) -> dict[str, Any]:
        progress = work.progress
        done = None if progress is None else (lambda volumes, total: progress((volumes, total)))
        masks = VolumeMasks.read(work.runs.open(self.evaluated))
        write_volumes(work.result, masks.outcomes(done))
        return {}

    def read(self, runs: Runs) -> Outcomes:
        return read_volumes(runs.open(self))
