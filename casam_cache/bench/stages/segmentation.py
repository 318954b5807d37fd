"""A head without prompts fitted to one task, and its scores: every class of every image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from casam_cache.bench.run_kinds import WITHOUT_PROMPTS
from casam_cache.bench.stages.evaluate import MetricRefs, metric_refs
from casam_cache.bench.stages.head import about
from casam_cache.bench.tasks import Place, SplitRef
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work
from casam_cache.metrics.registry import METRICS
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.files import build_segmenter, load_segmenter, save_segmenter
from casam_cache.segmenters.registry import SEGMENTERS
from casam_cache.training.class_maps import classes_of, with_background
from casam_cache.training.outcomes import Outcomes, read_outcomes, write_outcomes
from casam_cache.training.segmentation import fit_segmenter
from casam_cache.training.segmentation_options import SegmentationOptions
from casam_cache.training.segmentation_scores import score_segmenter
from casam_cache.training.whole_images import read_whole_images, whole_images_of, write_whole_images


@dataclass(frozen=True)
class SegmenterRef:
    """A segmenter with its options as a stage's key names it.

    Attributes:
        name, revision: which; the revision of one from a user's file is the SHA-256 of the file.
        options: every option, plain.
    """

    name: str
    revision: int | str
    options: Mapping[str, Any]

    def key_data(self) -> dict[str, Any]:
        return vars(self)

    def use(self, work: Work) -> None:
        """Records its code with the result.

        Raises:
            CasamError: it has changed since the plan was made.
        """
        work.use(SEGMENTERS.planned(self.name, self.revision))


@dataclass(frozen=True, eq=False, kw_only=True)
class FitSegmenter(Stage):
    """A head without prompts, fitted to one task from its train split.

    Attributes:
        segmenter: what is fitted.
        training: the recipe, its precision resolved.
        seed: of the run.
        items: the train split.
        background: whether images without masks are known to show background alone.
    """

    kind: ClassVar[str] = WITHOUT_PROMPTS

    segmenter: SegmenterRef
    training: SegmentationOptions
    seed: int
    items: SplitRef
    background: bool

    @property
    def label(self) -> str:
        return f"{self.segmenter.name} on {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        place: Place = work.place
        task = self.items.task
        self.segmenter.use(work)
        backbone, items = place.backbone(task), with_background(place.items(self.items), self.background)
        made = build_segmenter(
            self.segmenter.name, self.segmenter.options, backbone, classes_of(items), self.seed
        )
        fitted = fit_segmenter(
            made, backbone, items, self.training, seed=self.seed, device=place.torch_device,
            checkpoint_dir=work.resumable(), on_step=work.progress, warn=work.say,
        )  # fmt: skip
        save_segmenter(made, work.result)
        return {
            **about(work, task),
            "head": self.segmenter.name,
            "classes": list(made.classes),
            "class_names": place.store(task).annotations.attributes.get("class_names", {}),
            "parameters": made.trained_parameters(),
            "fit": fitted.to_json(),
        }

    def fitted(self, runs: Runs, place: Place) -> Segmenter:
        """The finished one, on the CPU and in evaluation mode."""
        return load_segmenter(runs.open(self), place.backbone(self.items.task))


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreSegmenter(Stage):
    """Scores of every class of every image of one split; of tiles, those of whole images too.

    Attributes:
        items: the split.
        fitted: what is scored.
        background: as of `FitSegmenter`.
        metrics: what is scored.
    """

    kind: ClassVar[str] = "segmentation"

    items: SplitRef
    fitted: FitSegmenter
    background: bool
    metrics: MetricRefs = field(default_factory=metric_refs)

    @property
    def label(self) -> str:
        return f"{self.fitted.label} scored on {self.items.split}"

    def compute(self, work: Work) -> dict[str, Any]:
        place: Place = work.place
        self.fitted.segmenter.use(work)
        names = [name for name, _ in self.metrics]
        work.use(*(METRICS.get(name) for name in names))
        progress = work.progress
        done = None if progress is None else (lambda images, total: progress((images, total)))
        items = with_background(place.items(self.items), self.background)
        whole = whole_images_of(items)
        outcomes = score_segmenter(
            self.fitted.fitted(work.runs, place), place.backbone(self.items.task), items,
            metrics=names, progress=done, whole=whole,
        )  # fmt: skip
        write_outcomes(work.result, outcomes)
        if whole is not None:
            write_whole_images(work.result, whole.outcomes())
        return {}

    def read(self, runs: Runs) -> Outcomes:
        return read_outcomes(runs.open(self))

    def read_whole_images(self, runs: Runs) -> Outcomes:
        """Of each class of the whole images, where items are tiles of them."""
        return read_whole_images(runs.open(self))
