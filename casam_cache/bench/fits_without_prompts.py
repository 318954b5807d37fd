"""What a fit of a head without prompts begins with and ends with, whatever it shows: maps of classes or objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.devices import choose_device, choose_precision
from casam_cache.bench.fit import check_split
from casam_cache.bench.stages.segmentation import SegmenterRef
from casam_cache.bench.tasks import Place, Tasks, TaskSplit
from casam_cache.config import parse_assignments
from casam_cache.encode.kept_backbones import keep_backbone
from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.schedule import PlanProgress, run_plan
from casam_cache.engine.stage import Stage
from casam_cache.engine.uses import note_use
from casam_cache.references import absolute_reference, is_file_reference
from casam_cache.registry import Registry, revision_of
from casam_cache.training.loop import FitProgress
from casam_cache.training.options import VIEW_SEPARATOR
from casam_cache.training.segmentation_options import ImageTrainingOptions
from casam_cache.training.segmentation_scores import ClassScore
from casam_cache.views import parse_views


@dataclass(frozen=True)
class Request:
    """What is asked for, whatever the head.

    Attributes:
        task: name of the dataset, a folder of `store`.
        store: folder of stores.
        head: a name, or `FILE.py:CLASS`.
        options: `key=value` for the head's options and for those of its training.
        split: that is scored, `test`, or `val` so that nothing needs choosing on test.
        model: the backbone's store, needed only where the task has several.
        device: `auto`, `cpu`, `cuda`, ...
    """

    task: str
    store: Path | str
    head: str
    options: Sequence[str]
    split: str
    model: str | None
    device: str


@dataclass(frozen=True)
class Parts:
    """What the stages of a fit without prompts are made of.

    Attributes:
        place: where its stages run.
        head: with its options.
        training: with the precision of the device.
        train, scored: the splits.
        background: whether images without masks are trained on and scored as background.
        attributes: of the store's annotations.
    """

    place: Place
    head: SegmenterRef
    training: Any
    train: TaskSplit
    scored: TaskSplit
    background: bool
    attributes: Mapping[str, Any]

    @property
    def cost(self) -> int:
        """Samples that the fit takes."""
        return self.training.steps(len(self.train.images)) * self.training.batch_size

    @property
    def class_names(self) -> dict[int, str]:
        return {int(number): name for number, name in self.attributes.get("class_names", {}).items()}


@dataclass(frozen=True)
class FitWithoutPrompts:
    """A head without prompts on one task.

    Attributes:
        task, head, model: what was fitted: dataset, head, backbone's store.
        run: folder of the fit: segmenter.safetensors, segmenter.json, record.json.
        outcomes: folder of the scores of every image.
        computed: whether this call trained.
        evaluate: the split that was scored.
        scores: over all classes first, then each class.
        class_names: of the classes that have one, by id.
        untrained: classes of the scored split that the training images do not have.
        background: whether images without masks are trained on and scored as showing nothing.
        parameters: trained parameters.
        mask_mode: how the dataset's masks were read.
        seed: of initial weights, order and views.
        stand_in: what the backbone is, where it is no real SAM.
        fit: as `ImageFit.to_json`.
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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        plain = {
            name: value for name, value in vars(self).items() if isinstance(value, str | int | bool | float)
        }
        return {
            **plain, "scores": [each.to_json() for each in self.scores], "untrained": list(self.untrained),
            "class_names": {str(number): name for number, name in self.class_names.items()}, "fit": dict(self.fit),
        }  # fmt: skip


def facts(
    parts: Parts,
    fit: Stage,
    score: Stage,
    runs: Runs,
    scores: Sequence[ClassScore],
    seed: int,
    computed: bool,
) -> dict[str, Any]:
    """The fields of `FitWithoutPrompts`."""
    recorded = runs.recorded(fit)
    scored = {each.class_id for each in scores if each.class_id is not None}
    return {
        "task": parts.scored.ref.task,
        "head": parts.head.name,
        "model": parts.place.model,
        "run": str(runs.folder(fit)),
        "outcomes": str(runs.folder(score)),
        "computed": computed,
        "evaluate": parts.scored.ref.split,
        "scores": tuple(scores),
        "class_names": parts.class_names,
        "untrained": tuple(sorted(scored - {*recorded["classes"]})),
        "background": parts.background,
        "parameters": recorded["parameters"],
        "mask_mode": recorded["mask_mode"],
        "seed": seed,
        "stand_in": parts.place.backbone(parts.scored.ref.task).stand_in,
        "fit": recorded["fit"],
    }


def parts_of(request: Request, heads: Registry[Any], training: type[ImageTrainingOptions]) -> Parts:
    """Looks everything up; nothing is computed.

    Args:
        request: what is asked for.
        heads: the registry of its head.
        training: the options of its training.

    Raises:
        OptionError: unknown task, model, head or option, or a wrong value.
        StoreError: the store is not finished, lacks an array of a view, or has no such split.
    """
    check_split(request.split)
    made = heads.get(request.head)
    own, trained = parse_assignments(request.options, [made.Options, training], made.recipe)
    assert isinstance(trained, training)
    references = [absolute_reference(request.head)] if is_file_reference(request.head) else []
    task, device = request.task, str(choose_device(request.device))
    tasks = Tasks.open(Path(request.store), request.model, device, references, task=task)
    tasks.require(task, ("embedding", *(view.array for view in parse_views(trained.views, VIEW_SEPARATOR))))
    precision = choose_precision(trained.precision, torch.device(tasks.place.device))
    attributes = tasks.place.store(task).annotations.attributes
    return Parts(
        place=tasks.place,
        head=SegmenterRef(made.name, revision_of(made), own.model_dump(mode="json")),
        training=trained.model_copy(update={"precision": precision}),
        train=tasks.split(task, "train"),
        scored=tasks.split(task, request.split),
        background=not attributes.get("options", {}).get("unlabelled", False),
        attributes=attributes,
    )


def run_both(
    fit: Stage,
    score: Stage,
    parts: Parts,
    runs: Runs,
    *,
    changed: Changed,
    on_fit: Callable[[FitProgress], None] | None,
    on_evaluate: Callable[[int, int], None] | None,
    say: Callable[[str], None] | None,
    executor: Executor | None,
    jobs: int,
    on_stages: Callable[[PlanProgress], None] | None,
) -> bool:
    """Fits and scores what is not there yet, and notes what it was for.

    Returns:
        Whether the fit was computed now.

    Raises:
        ChangedCodeError: the fit is there and was computed by other code, with `changed` "stop".
    """

    def show(progress: Any) -> None:
        if isinstance(progress, FitProgress):
            if on_fit:
                on_fit(progress)
        elif on_evaluate:
            on_evaluate(*progress)

    place, task = parts.place, parts.scored.ref.task
    computed = run_plan(
        [fit, score], runs, place, changed=changed, jobs=jobs, executor=executor,
        threads=None if executor is None else 1, on_progress=on_stages, on_inner=show, say=say,
    )  # fmt: skip
    keep_backbone(Path(place.stores), place.weights(task), runs.root)
    what = f"fit: {parts.head.name} on {task}, {parts.scored.ref.split}, without prompts"
    note_use(runs, f"fit-{score.key}", what, [fit, score])
    return fit.key in computed
