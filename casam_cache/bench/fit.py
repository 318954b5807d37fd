"""Fit one method to one task from its store, and score it beside the frozen SAM on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.devices import choose_device, choose_precision
from casam_cache.backbones.sam import Backbone
from casam_cache.bench.find import find_store
from casam_cache.bench.outcomes import Score, gain, read_outcomes, score, write_outcomes
from casam_cache.bench.stages import Runs, Stage
from casam_cache.config import parse_assignments
from casam_cache.encode.sources import decoder_of
from casam_cache.errors import CasamError, StoreError
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.methods.base import Method
from casam_cache.methods.registry import method_class
from casam_cache.metrics.intervals import Interval
from casam_cache.store import EmbeddingStore
from casam_cache.training.evaluate import Outcomes, evaluate
from casam_cache.training.loop import Progress, fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.stored import SplitView, open_split

FIT_REVISION = 1
EVALUATE_REVISION = 1
PROMPT = "oracle box"
SPLITS = ("val", "test")


@dataclass(frozen=True)
class FitReport:
    """A fitted method beside the frozen SAM on one task.

    Attributes:
        task, method, model: what was fitted: dataset, method, backbone's store.
        run: folder of the fit: head.safetensors, head.json, record.json.
        outcomes: folder of the fitted head's per-mask outcomes.
        computed: whether this call trained; False where the fit was there already.
        evaluate: the split that was scored, `test` or `val`.
        test: the fitted head on that split.
        frozen: the frozen SAM on the same masks and prompts.
        gain: paired difference fitted - frozen for iou, biou and dice.
        parameters: trained parameters.
        mask_mode: how the dataset's masks were read.
        seed: of initial weights, order, masks and prompts.
    """

    task: str
    method: str
    model: str
    run: str
    outcomes: str
    computed: bool
    evaluate: str
    test: Score
    frozen: Score
    gain: dict[str, Interval]
    parameters: int
    mask_mode: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, str | int | bool)}
        gains = {name: interval.to_json() for name, interval in self.gain.items()}
        return {
            **plain, "prompt": PROMPT, "test": self.test.to_json(), "frozen": self.frozen.to_json(), "gain": gains
        }  # fmt: skip


def fit_task(
    task: str,
    store: Path | str = "casam_store",
    runs: Path | str = "casam_runs",
    *,
    method: str = "alignment",
    options: Sequence[str] = (),
    seed: int = 0,
    split: str = "test",
    model: str | None = None,
    device: str = "auto",
    on_fit: Callable[[Progress], None] | None = None,
    on_evaluate: Callable[[int, int], None] | None = None,
) -> FitReport:
    """Trains on the task's train split and scores on another, each computed once and found again.

    Args:
        task: name of the dataset, a folder of `store`.
        store: folder of stores.
        runs: folder of runs.
        method: a method's name.
        options: `key=value` for the method's options and for `TrainingOptions`.
        seed: of everything random.
        split: `test`, or `val` so that nothing needs choosing on test.
        model: the backbone's store, needed only where the task has several.
        device: `auto`, `cpu`, `cuda`, ...
        on_fit: progress of training.
        on_evaluate: progress of scoring, called with (images done, images).

    Raises:
        OptionError: unknown task, model, method or option, or a wrong value.
        StoreError: the store is not finished, lacks an array the method needs, or has no such split.
    """
    if split not in SPLITS:
        raise CasamError(f"unknown split '{split}' to evaluate on", f"available: {', '.join(SPLITS)}")
    made = method_class(method)
    method_options, training = parse_assignments(options, [made.Options, TrainingOptions])
    assert isinstance(training, TrainingOptions)
    chosen = made(method_options)
    path = find_store(Path(store), task, model)
    opened = EmbeddingStore.open(path)
    for array in chosen.needs:
        opened.require_complete(array)
    where = choose_device(device)
    backbone = decoder_of(Path(store), opened.identity["backbone"]["weights"], where)
    context = _Context(opened, task, backbone, Runs(Path(runs)), where)
    train, test = context.items("train"), context.items(split)

    def compute(result: Path, checkpoints: Path) -> dict[str, Any]:
        return context.fit(chosen, training, train, seed, on_fit, result, checkpoints)

    fit = context.fit_stage(chosen, training, train, seed)
    folder, computed = context.runs.obtain(fit, compute)
    head = load_head(folder, backbone)
    identity = build_head("identity", None, backbone, seed=0)
    fitted, fitted_folder = context.evaluated(head, fit.key, test, on_evaluate)
    frozen, _ = context.evaluated(identity, "identity", test, on_evaluate)
    return FitReport(
        task=task,
        method=method,
        model=path.stem,
        run=str(folder),
        outcomes=str(fitted_folder),
        computed=computed,
        evaluate=split,
        test=score(fitted),
        frozen=score(frozen),
        gain=gain(fitted, frozen),
        parameters=head.trained_parameters(),
        mask_mode=str(opened.annotations.attributes["mask_mode"]),
        seed=seed,
    )


@dataclass(frozen=True)
class _Context:
    """What the stages of one task share."""

    store: EmbeddingStore
    task: str
    backbone: Backbone
    runs: Runs
    device: torch.device

    def items(self, split: str) -> SplitView:
        """The view of one split; the only way here to reach data.

        Raises:
            StoreError: the split has no images, or none of them has a mask.
        """
        items = open_split(self.store, split, self.task)
        if not any(items.item(index).masks for index in range(len(items))):
            hint = {
                "val": "casam encode --val-fraction 0.2 sets groups apart for validation",
                "test": "give a split.csv, test/ folder or --test-fraction to casam encode",
                "train": "give a split.csv, train/ folder or --test-fraction to casam encode",
            }[split]
            raise StoreError(f"task '{self.task}' has no masks in its {split} split", hint)
        return items

    def fit_stage(self, method: Method, training: TrainingOptions, items: SplitView, seed: int) -> Stage:
        """The stage of a fit: exactly what its weights depend on."""
        numeric = choose_precision(training.precision, self.device)
        inputs = {
            "task": self.task,
            "method": {"name": method.name, "revision": method.revision},
            "options": method.options.model_dump(mode="json"),
            "training": {**training.model_dump(mode="json"), "precision": numeric},
            "items": items.content,
            "seed": seed,
        }
        return Stage("fit", FIT_REVISION, inputs)

    def fit(
        self,
        method: Method,
        training: TrainingOptions,
        items: SplitView,
        seed: int,
        on_fit: Callable[[Progress], None] | None,
        result: Path,
        checkpoints: Path,
    ) -> dict[str, Any]:
        """Trains and writes the stage's files; returns what is recorded beside them."""
        head = method.build(self.backbone, seed)
        fitted = fit_head(
            head, self.backbone, items, training,
            seed=seed, device=self.device, checkpoint_dir=checkpoints, on_step=on_fit,
        )  # fmt: skip
        recorded = {
            "task": self.task,
            "method": method.name,
            "store": str(self.store.path.resolve()),
            "identity": self.store.identity,
            "mask_mode": self.store.annotations.attributes["mask_mode"],
        }
        save_head(head, result, **recorded)
        return {**recorded, "fit": fitted.to_json()}

    def evaluated(
        self, head: Head, parent: str, items: SplitView, progress: Callable[[int, int], None] | None
    ) -> tuple[Outcomes, Path]:
        """Outcomes of a head on a view, computed once for each head and set of items."""
        inputs = {
            "task": self.task,
            "head": parent,
            "items": items.content,
            "prompt": PROMPT,
        }

        def compute(result: Path, _: Path) -> dict[str, Any]:
            write_outcomes(result, evaluate(head, self.backbone, items, progress=progress))
            return {"device": str(self.device)}

        folder, _ = self.runs.obtain(Stage("evaluate", EVALUATE_REVISION, inputs), compute)
        return read_outcomes(folder), folder
