"""Fit a head without prompts to one task from its store, and score the map of every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.bench.fits_without_prompts import Request, parts_of, run_both
from casam_cache.bench.stages.segmentation import FitSegmenter, ScoreSegmenter
from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.schedule import PlanProgress
from casam_cache.segmenters.registry import SEGMENTERS
from casam_cache.training.loop import FitProgress
from casam_cache.training.segmentation_options import SegmentationOptions
from casam_cache.training.segmentation_scores import ClassScore, class_scores


@dataclass(frozen=True)
class SegmentationReport:
    """A head without prompts on one task.

    Attributes:
        task, head, model: what was fitted: dataset, head, backbone's store.
        run: folder of the fit: segmenter.safetensors, segmenter.json, record.json.
        outcomes: folder of the scores of every class of every image.
        computed: whether this call trained.
        evaluate: the split that was scored.
        scores: over all classes first, then each class.
        class_names: of the classes that have one, by id.
        untrained: classes of the scored split that the training images do not have.
        background: whether images without masks are trained on and scored as background.
        parameters: trained parameters.
        mask_mode: how the dataset's masks were read.
        seed: of initial weights, order and views.
        stand_in: what the backbone is, where it is no real SAM.
        fit: as `ImageFit.to_json`.
        whole_images: as `scores`, IoU and Dice of the larger images that were cut into tiles; empty without.
    """

    task: str
    head: str
    model: str
    run: str
    outcomes: str
    computed: bool
    evaluate: str
    scores: tuple[ClassScore, ...]
    class_names: Mapping[int, str]
    untrained: tuple[int, ...]
    background: bool
    parameters: int
    mask_mode: str
    seed: int
    stand_in: str
    fit: Mapping[str, Any]
    whole_images: tuple[ClassScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, str | int | bool)}
        return {
            **plain, "scores": [each.to_json() for each in self.scores],
            "whole_images": [each.to_json() for each in self.whole_images], "untrained": list(self.untrained),
            "class_names": {str(number): name for number, name in self.class_names.items()}, "fit": dict(self.fit),
        }  # fmt: skip


def fit_segmentation(
    task: str,
    store: Path | str = "casam_store",
    runs: Path | str = "casam_runs",
    *,
    head: str = "fcn",
    options: Sequence[str] = (),
    seed: int = 0,
    split: str = "test",
    model: str | None = None,
    device: str = "auto",
    changed: Changed = "stop",
    on_fit: Callable[[FitProgress], None] | None = None,
    on_evaluate: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    executor: Executor | None = None,
    jobs: int = 1,
    on_stages: Callable[[PlanProgress], None] | None = None,
) -> SegmentationReport:
    """Trains on the task's train split and scores on another, each computed once and found again.

    Args:
        task: name of the dataset, a folder of `store`.
        store: folder of stores.
        runs: folder of runs.
        head: `fcn`, `class-prompts`, or `FILE.py:CLASS`.
        options: `key=value` for the head's options and for `SegmentationOptions`.
        seed: of everything random.
        split: `test`, or `val` so that nothing needs choosing on test.
        model: the backbone's store, needed only where the task has several.
        device: `auto`, `cpu`, `cuda`, ...
        changed: what to do about finished stages that other code computed: `stop`, `recompute` or `keep`.
        on_fit: progress of training.
        on_evaluate: progress of scoring, called with (images done, images).
        say: takes lines for a person.
        executor: where stages run, with one thread each; None is here, with all threads.
        jobs: stages that the executor takes at once.
        on_stages: called as stages on an executor finish.

    Raises:
        ChangedCodeError: the fit is there and was computed by other code, with `stop`.
        OptionError: unknown task, model, head or option, or a wrong value.
        StoreError: the store is not finished, lacks an array of a view, or has no such split.
    """
    request = Request(task, store, head, options, split, model, device)
    parts = parts_of(request, SEGMENTERS, SegmentationOptions)
    fit = FitSegmenter(
        segmenter=parts.head,
        training=parts.training,
        seed=seed,
        items=parts.train.ref,
        background=parts.background,
        cost=parts.cost,
    )
    score = ScoreSegmenter(
        items=parts.scored.ref, fitted=fit, background=parts.background, cost=len(parts.scored.images)
    )
    folder = Runs(Path(runs))
    computed = run_both(
        fit, score, parts, folder, changed=changed, on_fit=on_fit, on_evaluate=on_evaluate, say=say,
        executor=executor, jobs=jobs, on_stages=on_stages,
    )  # fmt: skip
    recorded, outcomes = folder.recorded(fit), score.read(folder)
    scores = class_scores(outcomes)
    return SegmentationReport(
        task=task,
        head=parts.head.name,
        model=parts.place.model,
        run=str(folder.folder(fit)),
        outcomes=str(folder.folder(score)),
        computed=computed,
        evaluate=split,
        scores=tuple(scores),
        class_names=parts.class_names,
        untrained=tuple(
            sorted({each.class_id for each in scores if each.class_id is not None} - {*recorded["classes"]})
        ),
        background=parts.background,
        parameters=recorded["parameters"],
        mask_mode=recorded["mask_mode"],
        seed=seed,
        stand_in=parts.place.backbone(task).stand_in,
        fit=recorded["fit"],
        whole_images=tuple(class_scores(score.read_whole_images(folder))) if parts.scored.tiles else (),
    )
