"""Fit a head without prompts to one task from its store, and score the map of every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.bench.fits_without_prompts import FitWithoutPrompts, Request, facts, parts_of, run_both
from casam_cache.bench.stages.segmentation import FitSegmenter, ScoreSegmenter
from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.schedule import PlanProgress
from casam_cache.segmenters.registry import SEGMENTERS
from casam_cache.training.loop import FitProgress
from casam_cache.training.segmentation_options import SegmentationOptions
from casam_cache.training.segmentation_scores import ClassScore, class_scores


@dataclass(frozen=True)
class SegmentationReport(FitWithoutPrompts):
    """A head without prompts on one task.

    Attributes, beside those of `FitWithoutPrompts`:
        whole_images: as `scores`, IoU and Dice of the larger images that were cut into tiles; empty without.
    """

    whole_images: tuple[ClassScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        return {**super().to_json(), "whole_images": [each.to_json() for each in self.whole_images]}


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
    outcomes = score.read(folder)
    return SegmentationReport(
        **facts(parts, fit, score, folder, class_scores(outcomes), seed, computed),
        whole_images=tuple(class_scores(score.read_whole_images(folder))) if parts.scored.tiles else (),
    )
