"""The loop of heads that learn an image at a time, with all that is in it: order, steps, checks, checkpoints.

What is learnt is a lesson's: what a head says of a batch, how wrong that is, how good a state is on held-out groups.
Results on a CPU are the same bit for bit for the same number of threads, resumed or not, as of `training.loop`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from casam_cache.backbones.base import Backbone
from casam_cache.errors import DivergedError
from casam_cache.fingerprint import generator
from casam_cache.training.checkpoints import read_checkpoint, write_checkpoint
from casam_cache.training.feed import Embeddings
from casam_cache.training.items import Items
from casam_cache.training.loop import REPORT_EVERY, FitProgress
from casam_cache.training.schedule import rate_share
from casam_cache.training.segmentation_options import ImageTrainingOptions

LOOP = 2  # raised when checkpoints hold something else, so that none of another release is continued


class Lesson(Protocol):
    """What a head is taught.

    Attributes:
        measure: what `score` measures, as files and tables name it.
    """

    measure: str

    def predict(self, embedding: torch.Tensor) -> Any:
        """What the head says of embeddings (B, C, g, g); under autocast where the recipe says so."""

    def loss(self, predicted: Any, places: Sequence[int]) -> torch.Tensor:
        """How wrong that is of the items at some places: 0-d, in fp32."""

    def score(self) -> float:
        """How good the head is on the held-out groups; more is better, NaN where nothing can be said."""


@dataclass(frozen=True)
class Check:
    """A state on the held-out groups.

    Attributes:
        step: optimiser steps before it.
        value: its score, as the lesson measures it.
    """

    step: int
    value: float


@dataclass(frozen=True)
class ImageFit:
    """What a fit ends with.

    Attributes:
        measure: of the checks.
        steps: optimiser steps in all.
        history: mean loss of each epoch, also of those before a resume.
        checks: states that were looked at on held-out groups; empty where none were.
        chosen: the one that was kept; None: the last.
        groups, images: held out.
        resumed_from: epochs that a checkpoint contributed.
        seconds: of training in this process.
        device, precision: what was used.
    """

    measure: str
    steps: int
    history: tuple[float, ...]
    checks: tuple[Check, ...]
    chosen: Check | None
    groups: int
    images: int
    resumed_from: int
    seconds: float
    device: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the value of a check by the name of what it measures."""

        def named(check: Check) -> dict[str, Any]:
            return {"step": check.step, self.measure: check.value}

        plain = {name: value for name, value in asdict(self).items() if name != "measure"}
        chosen = None if self.chosen is None else named(self.chosen)
        return {**plain, "checks": [named(check) for check in self.checks], "chosen": chosen}


def fit_images(
    head: nn.Module,
    backbone: Backbone,
    items: Items,
    apart: Items | None,
    lesson: Lesson,
    options: ImageTrainingOptions,
    precision: str,
    *,
    shown: int,
    key: str,
    seed: int,
    checkpoint_dir: Path | None = None,
    on_step: Callable[[FitProgress], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> ImageFit:
    """Trains a head in place; where some groups were held out it is given the best of its states on them.

    Args:
        head: on the device of the backbone; what requires a gradient is trained.
        backbone: frozen.
        items: to train on, views of them last.
        apart: held out, which the lesson scores.
        lesson: what is learnt.
        options: the recipe.
        precision: `fp32` or `bf16`.
        shown: how many of the items are no views of others.
        key: what the fit is named: a checkpoint of another one is refused.
        seed: of order and views.
        checkpoint_dir: an existing folder; a checkpoint found there is continued, and every epoch replaces it.
        on_step: called every `REPORT_EVERY` steps and at the end of an epoch.
        warn: called with a line where a damaged checkpoint was found, so that the fit begins anew.

    Raises:
        CasamError: a checkpoint of another fit, or a loss that is no longer finite.
    """
    run = _Run(head, backbone, items, apart, lesson, options, precision, shown)
    saved = read_checkpoint(checkpoint_dir, key, warn) if checkpoint_dir else None
    if saved:
        run.restore(saved)
    else:
        run.check()
    resumed_from = len(run.history)
    while run.steps < run.total:
        batches = _epoch(items, shown, options, seed, len(run.history))[: run.total - run.steps]
        run.epoch(batches, on_step)
        run.check()
        if checkpoint_dir:
            write_checkpoint(checkpoint_dir, {"key": key, **run.state()})
    if run.best:
        head.load_state_dict(run.best)
    head.eval()
    return ImageFit(
        measure=lesson.measure,
        steps=run.steps,
        history=tuple(run.history),
        checks=tuple(run.checks),
        chosen=run.chosen,
        groups=len({(item.task, item.group) for item in apart}) if apart else 0,
        images=len(apart) if apart else 0,
        resumed_from=resumed_from,
        seconds=run.seconds,
        device=str(backbone.device),
        precision=precision,
    )


def _epoch(
    items: Items, shown: int, options: ImageTrainingOptions, seed: int, epoch: int
) -> list[tuple[int, ...]]:
    """Each of the first `shown` items once, as itself or one of its views, in batches."""
    drawn: list[tuple[float, str, int]] = []
    for index in range(shown):
        item = items.item(index)
        rng = generator(seed, item.task, "segmentation", epoch, item.id)
        turn, places = float(rng.random()), (index, *item.variants)
        drawn.append((turn, item.id, places[int(rng.integers(len(places)))]))
    ordered, size = [place for _, _, place in sorted(drawn)], options.batch_size
    return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]


class _Run:
    """Everything that changes while a fit runs."""

    def __init__(
        self,
        head: nn.Module,
        backbone: Backbone,
        items: Items,
        apart: Items | None,
        lesson: Lesson,
        options: ImageTrainingOptions,
        precision: str,
        shown: int,
    ) -> None:
        self._head, self._backbone, self._options = head, backbone, options
        self._apart, self._lesson = apart, lesson
        self._embeddings = Embeddings(items, range(len(items)), backbone.device)
        self._autocast = precision == "bf16"
        self._optimiser = torch.optim.AdamW(
            [parameter for parameter in head.parameters() if parameter.requires_grad],
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        self.total = options.steps(shown)
        self._epochs = -(-self.total // -(-shown // options.batch_size))
        self.steps, self.seconds, self._here = 0, 0.0, 0
        self.history: list[float] = []
        self.checks: list[Check] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def chosen(self) -> Check | None:
        """The first of those with the highest score."""
        return max(self.checks, key=lambda check: check.value) if self.checks else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain data only."""
        return {
            "head": self._head.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "steps": self.steps,
            "history": self.history,
            "checks": [asdict(check) for check in self.checks],
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._head.load_state_dict(state["head"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.steps, self.history = state["steps"], state["history"]
        self.checks = [Check(**check) for check in state["checks"]]
        self.best = {name: tensor.to(self._backbone.device) for name, tensor in state["best"].items()}

    def epoch(
        self, batches: Sequence[tuple[int, ...]], on_step: Callable[[FitProgress], None] | None
    ) -> None:
        self._head.train()
        start, done = time.perf_counter(), self.seconds
        total, images = torch.zeros((), device=self._backbone.device), 0
        for index, (batch, embedding) in enumerate(
            zip(batches, self._embeddings.batches(batches), strict=True), start=1
        ):
            total += self._step(batch, embedding) * len(batch)
            images += len(batch)
            self._here += len(batch)
            self.steps += 1
            if on_step and index % REPORT_EVERY == 0 and index < len(batches):
                mean = float(total) / images  # waits for the device, so that the clock below is true
                self.seconds = done + time.perf_counter() - start
                on_step(self._progress(mean))
        mean = float(total) / images
        self.seconds = done + time.perf_counter() - start
        if not math.isfinite(mean):
            raise DivergedError(
                f"the loss is no longer finite in epoch {len(self.history) + 1}",
                "lower learning_rate, or train with precision=fp32",
            )
        self.history.append(mean)
        if on_step:
            on_step(self._progress(mean))

    def _step(self, places: Sequence[int], embedding: torch.Tensor) -> torch.Tensor:
        options, device = self._options, self._backbone.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._autocast):
            predicted = self._lesson.predict(embedding)
        loss = self._lesson.loss(predicted, places)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._head.parameters(), options.clip)
        share = rate_share(options.schedule, options.warmup_steps, self.steps, self.total)
        for group in self._optimiser.param_groups:
            group["lr"] = options.learning_rate * share
        self._optimiser.step()
        return loss.detach()

    def check(self) -> None:
        """Scores the state on the held-out groups where a look is due: at the start, at each part, at the end."""
        if self._apart is None:
            return
        if self.checks:
            parts, last = self._options.checks, self.checks[-1].step
            if self.steps < self.total and self.steps * parts // self.total == last * parts // self.total:
                return
        value = self._lesson.score()
        self.checks.append(Check(self.steps, 0.0 if np.isnan(value) else value))
        if self.chosen is self.checks[-1]:
            self.best = {name: tensor.detach().clone() for name, tensor in self._head.state_dict().items()}

    def _progress(self, loss: float) -> FitProgress:
        speed = self._here / self.seconds if self.seconds else 0.0
        left = (self.total - self.steps) * self._options.batch_size
        eta = left / speed if speed else 0.0
        return FitProgress(len(self.history), self._epochs, self.steps, self.total, loss, speed, eta)
