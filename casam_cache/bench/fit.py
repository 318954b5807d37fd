"""Fit one method to one task from its store, and score it beside the frozen SAM on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.backbones.devices import choose_device
from casam_cache.bench.find import find_store
from casam_cache.bench.node import Place
from casam_cache.bench.nodes import PROMPT, Nodes
from casam_cache.bench.outcomes import Score, gain, read_outcomes, score
from casam_cache.bench.run import run_plan
from casam_cache.bench.site import Site
from casam_cache.bench.sources import forget_sources
from casam_cache.bench.stages import Runs
from casam_cache.config import parse_assignments
from casam_cache.errors import CasamError, OptionError
from casam_cache.methods.frozen import Frozen
from casam_cache.methods.joint import Joint
from casam_cache.methods.registry import METHODS
from casam_cache.methods.routed import Routed
from casam_cache.methods.sequential import Sequential
from casam_cache.metrics.intervals import Interval
from casam_cache.training.loop import Progress
from casam_cache.training.options import TrainingOptions

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
        gain: paired difference fitted - frozen by metric.
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
    made = METHODS.get(method)
    if issubclass(made, (Sequential, Joint, Routed, Frozen)):
        raise OptionError(
            f"method '{made.name}' is not a fit of one task",
            f"casam bench --methods {method} compares it over tasks",
        )
    method_options, training = parse_assignments(options, [made.Options, TrainingOptions])
    assert isinstance(training, TrainingOptions)
    path = find_store(Path(store), task, model)
    forget_sources()
    references = {made.name: method} if ":" in method else {}
    site = Site(Path(store), Place(str(store), path.stem, str(choose_device(device)), references))
    nodes = Nodes(site)
    fit = nodes.fit(made(method_options), training, task, seed)
    test = site.split(task, split)
    fitted, frozen = nodes.evaluate(fit, test), nodes.evaluate(None, test)
    folder = Runs(Path(runs))

    def show(progress: Any) -> None:
        if isinstance(progress, Progress):
            if on_fit:
                on_fit(progress)
        elif on_evaluate:
            on_evaluate(*progress)

    wanted = [fit, fitted, frozen]
    counts = run_plan(wanted, wanted, folder, threads=None, on_inner=show)
    after, before = read_outcomes(folder.folder(fitted.stage)), read_outcomes(folder.folder(frozen.stage))
    recorded = folder.record(folder.folder(fit.stage))["recorded"]
    return FitReport(
        task=task,
        method=made.name,
        model=path.stem,
        run=str(folder.folder(fit.stage)),
        outcomes=str(folder.folder(fitted.stage)),
        computed=fit.key in counts.keys,
        evaluate=split,
        test=score(after),
        frozen=score(before),
        gain=gain(after, before),
        parameters=recorded["parameters"],
        mask_mode=recorded["mask_mode"],
        seed=seed,
    )
