"""Fit a head of proposals to one task from its store, and score the objects that it finds in every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from casam_cache.bench.fits_without_prompts import FitWithoutPrompts, Request, facts, parts_of, run_both
from casam_cache.bench.stages.instances import FitProposals, ScoreProposals
from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.schedule import PlanProgress
from casam_cache.errors import OptionError
from casam_cache.segmenters.registry import PROPOSALS
from casam_cache.training.instance_scores import InstanceScore, instance_scores
from casam_cache.training.loop import FitProgress
from casam_cache.training.segmentation_options import ProposalTrainingOptions

ONE_OBJECT_A_MASK = ("instances", "components")


@dataclass(frozen=True)
class InstanceReport(FitWithoutPrompts):
    """A head of proposals on one task.

    Attributes, beside those of `FitWithoutPrompts`:
        threshold: the least score of an object in predictions and in mSA.
        tiles: whether images are tiles of larger ones.
    """

    scores: tuple[InstanceScore, ...]
    threshold: float
    tiles: bool = False


def fit_instances(
    task: str,
    store: Path | str = "casam_store",
    runs: Path | str = "casam_runs",
    *,
    head: str = "proposals",
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
) -> InstanceReport:
    """Trains on the task's train split and scores on another, each computed once and found again.

    Args:
        task: name of the dataset, a folder of `store`, whose masks are one object each.
        store: folder of stores.
        runs: folder of runs.
        head: `proposals`, or `FILE.py:CLASS`.
        options: `key=value` for the head's options and for `ProposalTrainingOptions`.
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
        OptionError: unknown task, model, head or option, a wrong value, or masks that are regions of a class.
        StoreError: the store is not finished, lacks an array of a view, or has no such split.
    """
    request = Request(task, store, head, options, split, model, device)
    parts = parts_of(request, PROPOSALS, ProposalTrainingOptions)
    check_objects(task, str(parts.attributes["mask_mode"]))
    fit = FitProposals(
        head=parts.head,
        training=parts.training,
        seed=seed,
        items=parts.train.ref,
        background=parts.background,
        cost=parts.cost,
    )
    score = ScoreProposals(
        items=parts.scored.ref, fitted=fit, background=parts.background, cost=len(parts.scored.images)
    )
    folder = Runs(Path(runs))
    computed = run_both(
        fit, score, parts, folder, changed=changed, on_fit=on_fit, on_evaluate=on_evaluate, say=say,
        executor=executor, jobs=jobs, on_stages=on_stages,
    )  # fmt: skip
    return InstanceReport(
        **facts(parts, fit, score, folder, instance_scores(score.read(folder)), seed, computed),
        threshold=folder.recorded(fit)["threshold"],
        tiles=parts.scored.tiles,
    )


def check_objects(task: str, mask_mode: str) -> None:
    """Whether each mask of a task is one object.

    Raises:
        OptionError: it is all that an image has of a class.
    """
    if mask_mode not in ONE_OBJECT_A_MASK:
        raise OptionError(
            f"the masks of {task} were read as {mask_mode}: each is all of a class in an image, not one object",
            "casam encode FOLDER --masks components (each connected region an object) or --masks instances; no "
            "image is encoded again",
        )
