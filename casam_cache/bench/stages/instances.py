"""A head of proposals fitted to one task, and how well the objects that it finds match the true ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from casam_cache.bench.run_kinds import FINDS_OBJECTS
from casam_cache.bench.stages.head import about
from casam_cache.bench.stages.segmentation import SegmenterRef
from casam_cache.bench.tasks import Place, SplitRef
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work
from casam_cache.segmenters.files import build_proposals, load_proposals, save_segmenter
from casam_cache.segmenters.proposals import Proposals
from casam_cache.segmenters.registry import PROPOSALS
from casam_cache.training.class_maps import classes_of, with_background
from casam_cache.training.instance_scores import (
    InstanceOutcomes,
    read_instances,
    score_instances,
    write_instances,
)
from casam_cache.training.proposals import fit_proposals
from casam_cache.training.segmentation_options import ProposalTrainingOptions


@dataclass(frozen=True, eq=False, kw_only=True)
class FitProposals(Stage):
    """A head of proposals, fitted to one task from its train split.

    Attributes:
        head: what is fitted.
        training: the recipe, its precision resolved.
        seed: of the run.
        items: the train split.
        background: whether images without masks are known to show no object.
    """

    kind: ClassVar[str] = FINDS_OBJECTS

    head: SegmenterRef
    training: ProposalTrainingOptions
    seed: int
    items: SplitRef
    background: bool

    @property
    def label(self) -> str:
        return f"{self.head.name} on {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        place: Place = work.place
        task = self.items.task
        work.use(PROPOSALS.planned(self.head.name, self.head.revision))
        backbone, items = place.backbone(task), with_background(place.items(self.items), self.background)
        made = build_proposals(self.head.name, self.head.options, backbone, classes_of(items), self.seed)
        fitted = fit_proposals(
            made, backbone, items, self.training, seed=self.seed, device=place.torch_device,
            checkpoint_dir=work.resumable(), on_step=work.progress, warn=work.say,
        )  # fmt: skip
        save_segmenter(made, work.result)
        return {
            **about(work, task),
            "head": self.head.name,
            "classes": list(made.classes),
            "class_names": place.store(task).annotations.attributes.get("class_names", {}),
            "parameters": made.trained_parameters(),
            "threshold": round(float(made.threshold), 4),
            "fit": fitted.to_json(),
        }

    def fitted(self, runs: Runs, place: Place) -> Proposals:
        """The finished one, on the CPU and in evaluation mode."""
        return load_proposals(runs.open(self), place.backbone(self.items.task))


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreProposals(Stage):
    """The objects that a head finds in every image of one split, beside the true ones.

    Attributes:
        items: the split.
        fitted: what is scored.
        background: as of `FitProposals`.
    """

    kind: ClassVar[str] = "instances"

    items: SplitRef
    fitted: FitProposals
    background: bool

    @property
    def label(self) -> str:
        return f"{self.fitted.label} scored on {self.items.split}"

    def compute(self, work: Work) -> dict[str, Any]:
        place: Place = work.place
        work.use(PROPOSALS.planned(self.fitted.head.name, self.fitted.head.revision))
        progress = work.progress
        done = None if progress is None else (lambda images, total: progress((images, total)))
        items = with_background(place.items(self.items), self.background)
        head, backbone = self.fitted.fitted(work.runs, place), place.backbone(self.items.task)
        write_instances(work.result, score_instances(head, backbone, items, progress=done))
        return {}

    def read(self, runs: Runs) -> InstanceOutcomes:
        return read_instances(runs.open(self))
