"""The loop that fits a segmenter: one training item is one image with the map of all its classes.

Loss: cross entropy over the counted cells of a batch, plus one minus the mean over the classes, background left out, of

    Dice_c = (2 sum p_c y_c + s) / (sum p_c + sum y_c + s)

where p are the softmax's probabilities, y the map, and the sums go over the counted cells of the whole batch, so that a
class that one image lacks is not lost in it.

Results on a CPU are the same bit for bit for the same number of threads, resumed or not, as of `training.loop`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_precision
from casam_cache.errors import DivergedError
from casam_cache.fingerprint import digest, digest_arrays, generator
from casam_cache.segmenters.base import Segmenter
from casam_cache.training.checkpoints import read_checkpoint, write_checkpoint
from casam_cache.training.class_maps import UNCOUNTED, ClassMaps
from casam_cache.training.feed import Embeddings
from casam_cache.training.held_out import hold_out
from casam_cache.training.items import Items, add_views
from casam_cache.training.loop import REPORT_EVERY, FitProgress
from casam_cache.training.options import VIEW_SEPARATOR
from casam_cache.training.schedule import rate_share
from casam_cache.training.segmentation_options import SegmentationOptions
from casam_cache.training.segmentation_scores import class_scores, score_segmenter
from casam_cache.views import parse_views


@dataclass(frozen=True)
class SegmentationCheck:
    """A state on the held-out groups.

    Attributes:
        step: optimiser steps before it.
        dice: mean over the classes of their means over images, at the images' own size.
    """

    step: int
    dice: float


@dataclass(frozen=True)
class SegmentationFit:
    """What a fit ends with.

    Attributes:
        steps: optimiser steps in all.
        history: mean loss of each epoch, also of those before a resume.
        checks: states that were looked at on held-out groups; empty where none were.
        chosen: the one that was kept; None: the last.
        groups, images: held out.
        resumed_from: epochs that a checkpoint contributed.
        seconds: of training in this process.
        device, precision: what was used.
    """

    steps: int
    history: tuple[float, ...]
    checks: tuple[SegmentationCheck, ...]
    chosen: SegmentationCheck | None
    groups: int
    images: int
    resumed_from: int
    seconds: float
    device: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def segmentation_loss(
    logits: torch.Tensor, target: torch.Tensor, options: SegmentationOptions
) -> torch.Tensor:
    """The loss of a batch, 0-d, in fp32.

    Args:
        logits: (B, 1 + K, s, s).
        target: uint8 (B, s, s), labels or `UNCOUNTED`.
        options: weights of the terms.
    """
    logits = logits.float()
    counted = target != UNCOUNTED
    labels = torch.where(counted, target, torch.zeros_like(target)).long()
    entropy = F.cross_entropy(logits, labels, reduction="none")
    ce = (entropy * counted).sum() / counted.sum().clamp(min=1)
    share = logits.softmax(dim=1)[:, 1:] * counted[:, None]
    truth = (F.one_hot(labels, logits.shape[1]).movedim(3, 1)[:, 1:] * counted[:, None]).float()
    both, total = ((one).sum(dim=(0, 2, 3)) for one in (share * truth, share + truth))
    dice = (2 * both + options.dice_smooth) / (total + options.dice_smooth)
    return options.ce_weight * ce + options.dice_weight * (1 - dice.mean())


def fit_segmenter(
    segmenter: Segmenter,
    backbone: Backbone,
    items: Items,
    options: SegmentationOptions,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint_dir: Path | None = None,
    on_step: Callable[[FitProgress], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> SegmentationFit:
    """Trains a segmenter on the stored embeddings of some items, with the backbone frozen.

    With `held_out` some groups are set apart, and the segmenter is given the best of its states on them.

    Args:
        segmenter: trained in place and moved to the device.
        backbone: moved to the device, never changed.
        items: for training; those without masks are trained on as background.
        options: the recipe.
        seed: of order and views.
        device: by default where the backbone is.
        checkpoint_dir: an existing folder; a checkpoint found there is continued, and every epoch replaces it.
        on_step: called every `REPORT_EVERY` steps and at the end of an epoch.
        warn: called with a line where a damaged checkpoint was found, so that the fit begins anew.

    Raises:
        CasamError: no image has a mask, a checkpoint of another fit, or a loss that is no longer finite.
    """
    where = backbone.device if device is None else torch.device(device)
    backbone = backbone.to(where)
    segmenter.to(where)
    precision = choose_precision(options.precision, where)
    items, apart = hold_out(items, options.held_out)
    shown = len(items)
    if views := parse_views(options.views, VIEW_SEPARATOR):
        items = add_views(items, views)
    maps = ClassMaps.prepare(items, segmenter.classes, segmenter.side(backbone))
    key = digest(
        {
            "segmenter": [segmenter.name, segmenter.options.model_dump(mode="json"), segmenter.classes],
            "options": options.model_dump(mode="json"),
            "items": [[item.task, item.id, item.view] for item in items],
            "targets": digest_arrays([("targets", maps.targets)]),
            "seed": seed,
            "precision": precision,
        }
    )
    run = _Run(segmenter, backbone, items, maps, apart, options, precision, shown)
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
        segmenter.load_state_dict(run.best)
    segmenter.eval()
    return SegmentationFit(
        steps=run.steps,
        history=tuple(run.history),
        checks=tuple(run.checks),
        chosen=run.chosen,
        groups=len({(item.task, item.group) for item in apart}) if apart else 0,
        images=len(apart) if apart else 0,
        resumed_from=resumed_from,
        seconds=run.seconds,
        device=str(where),
        precision=precision,
    )


def _epoch(
    items: Items, shown: int, options: SegmentationOptions, seed: int, epoch: int
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
        segmenter: Segmenter,
        backbone: Backbone,
        items: Items,
        maps: ClassMaps,
        apart: Items | None,
        options: SegmentationOptions,
        precision: str,
        shown: int,
    ) -> None:
        self._segmenter, self._backbone, self._apart, self._options = segmenter, backbone, apart, options
        self._targets = torch.from_numpy(maps.targets).to(backbone.device)
        self._embeddings = Embeddings(items, range(len(items)), backbone.device)
        self._autocast = precision == "bf16"
        self._optimiser = torch.optim.AdamW(
            [parameter for parameter in segmenter.parameters() if parameter.requires_grad],
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        self.total = options.steps(shown)
        self._epochs = -(-self.total // -(-shown // options.batch_size))
        self.steps, self.seconds, self._here = 0, 0.0, 0
        self.history: list[float] = []
        self.checks: list[SegmentationCheck] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def chosen(self) -> SegmentationCheck | None:
        """The first of those with the highest Dice."""
        return max(self.checks, key=lambda check: check.dice) if self.checks else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain data only."""
        return {
            "segmenter": self._segmenter.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "steps": self.steps,
            "history": self.history,
            "checks": [asdict(check) for check in self.checks],
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._segmenter.load_state_dict(state["segmenter"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.steps, self.history = state["steps"], state["history"]
        self.checks = [SegmentationCheck(**check) for check in state["checks"]]
        self.best = {name: tensor.to(self._backbone.device) for name, tensor in state["best"].items()}

    def epoch(
        self, batches: Sequence[tuple[int, ...]], on_step: Callable[[FitProgress], None] | None
    ) -> None:
        self._segmenter.train()
        start, done = time.perf_counter(), self.seconds
        total, images = torch.zeros((), device=self._backbone.device), 0
        for index, (batch, embedding) in enumerate(
            zip(batches, self._embeddings.batches(batches), strict=True), start=1
        ):
            total += self._step(self._targets[list(batch)], embedding) * len(batch)
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

    def _step(self, target: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        options, device = self._options, self._backbone.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._autocast):
            logits = self._segmenter.logits(self._backbone, embedding)
        loss = segmentation_loss(logits, target, options)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._segmenter.parameters(), options.clip)
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
        outcomes = score_segmenter(self._segmenter, self._backbone, self._apart, metrics=("dice",))
        dice = class_scores(outcomes)[0]["dice"].mean
        self.checks.append(SegmentationCheck(self.steps, 0.0 if np.isnan(dice) else dice))
        if self.chosen is self.checks[-1]:
            self.best = {
                name: tensor.detach().clone() for name, tensor in self._segmenter.state_dict().items()
            }

    def _progress(self, loss: float) -> FitProgress:
        speed = self._here / self.seconds if self.seconds else 0.0
        left = (self.total - self.steps) * self._options.batch_size
        eta = left / speed if speed else 0.0
        return FitProgress(len(self.history), self._epochs, self.steps, self.total, loss, speed, eta)
