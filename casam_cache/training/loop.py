"""The training loop: the only place that steps an optimiser on a head.

Results on a CPU are the same bit for bit for the same number of threads (`torch.set_num_threads`), resumed or
not; on CUDA up to the order of parallel sums, unless `torch.use_deterministic_algorithms(True)` is set (with
CUBLAS_WORKSPACE_CONFIG=:4096:8): every operation here has a deterministic kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_precision
from casam_cache.errors import CasamError, DivergedError, is_out_of_memory
from casam_cache.fingerprint import digest, digest_arrays, generator
from casam_cache.heads.base import Head
from casam_cache.training.checkpoints import read_checkpoint, write_checkpoint
from casam_cache.training.epochs import TrainingMasks, VisitBatch, draw_epoch
from casam_cache.training.evaluate import check_masks
from casam_cache.training.feed import Feed, Residency, place_features
from casam_cache.training.few_shots import few_shots
from casam_cache.training.held_out import hold_out
from casam_cache.training.interpolation import on_the_way, share_of, weights_of
from casam_cache.training.items import Items, add_views
from casam_cache.training.mixing import mix_embeddings
from casam_cache.training.objective import objective
from casam_cache.training.options import VIEW_SEPARATOR, TrainingOptions
from casam_cache.training.pixels import PIXELS
from casam_cache.training.schedule import rate_share
from casam_cache.training.selection import Chosen, Selection
from casam_cache.training.step import Pairs, Penalty, Step
from casam_cache.views import parse_views

REPORT_EVERY = 20  # steps; each report makes the host wait for the device once
SLOWER = "lower learning_rate, or train with precision=fp32"
_TERMS = ("loss", "focal", "dice", "iou", "penalty")


@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch's image-mask pairs. `loss` is what was minimised, without `penalty`.

    Attributes:
        epoch: from 0.
        pairs: image-mask pairs seen.
        steps: optimiser steps.
        loss, focal, dice, iou, penalty: weighted total, its unweighted terms, and what the method added. A head with
            a lesson of its own has none of the three terms: they are 0.
    """

    epoch: int
    pairs: int
    steps: int
    loss: float
    focal: float
    dice: float
    iou: float
    penalty: float


@dataclass(frozen=True)
class FitProgress:
    """Where a fit stands.

    Attributes:
        epoch, epochs: epochs finished, and in all.
        step, steps: steps done, and in all.
        loss: mean over the pairs of this epoch so far.
        samples_per_second: image-mask pairs a second since this process began to train.
        eta_seconds: until the end, at that speed.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    samples_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class FitResult:
    """What a fit ends with.

    Attributes:
        head: trained, in evaluation mode (the object that was passed in).
        history: one record an epoch, also of epochs before a resume.
        chosen: which state the head has, of those that were compared on held-out groups; None: the last.
        shrunk: how far it went on the way to the last state, where nothing could be held out to tell; None: all of it.
        steps, pairs: optimiser steps and image-mask pairs in all.
        resumed_from: epochs that a checkpoint contributed.
        seconds: of training in this process, preparation of targets not included.
        samples_per_second: image-mask pairs a second in this process; 0 if nothing was left to do.
        device, precision, residency, threads: what was used; recorded, since numbers may differ between them.
    """

    head: Head
    history: tuple[EpochRecord, ...]
    chosen: Chosen | None
    shrunk: float | None
    steps: int
    pairs: int
    resumed_from: int
    seconds: float
    samples_per_second: float
    device: str
    precision: str
    residency: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        history = [asdict(record) for record in self.history]
        chosen = None if self.chosen is None else asdict(self.chosen)
        plain = {name: value for name, value in vars(self).items() if name != "head"}
        return plain | {"history": history, "chosen": chosen}


def fit_head(
    head: Head,
    backbone: Backbone,
    items: Items,
    options: TrainingOptions | None = None,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint_dir: Path | None = None,
    residency: Residency = "auto",
    memory_limit: int | None = None,
    penalty: Penalty | None = None,
    on_step: Callable[[FitProgress], None] | None = None,
    on_epoch: Callable[[EpochRecord, FitProgress], None] | None = None,
    on_prepare: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> FitResult:
    """Trains a head on the stored embeddings of some items, with the backbone frozen.

    With `held_out` some groups are set apart, and the head is given the best of its states on them, the one it began
    with among them. With `interpolations`, of too few groups for that, a head that begins as the frozen model goes only
    part of the way (`interpolation.share_of`).

    Args:
        head: trained in place and moved to the device.
        backbone: prompt encoder and mask decoder; moved to the device, never changed.
        items: for training; images without masks are left out.
        options: the recipe; the paper's by default.
        seed: of order, masks and prompts (the head's initial weights had their own).
        device: by default where the backbone is.
        checkpoint_dir: an existing folder; a checkpoint found there is continued, and every epoch replaces it.
        residency: where embeddings wait; does not change the numbers.
        memory_limit: bytes embeddings may take; None is half of what is free.
        penalty: a continual-learning method's addition to the loss.
        on_step: called every `REPORT_EVERY` steps and at the end of an epoch.
        on_epoch: called after every epoch, once its checkpoint is on disk.
        on_prepare: called with (images done, images) while targets are prepared.
        warn: called with a line where a damaged checkpoint was found, so that the fit begins anew.

    Raises:
        CasamError: no image has a mask, a checkpoint of another fit, memory that does not hold a step; a
            `DivergedError`: a loss, or at the end a weight, that is no longer finite. Its message names the step.
    """
    options = options or TrainingOptions()
    where = backbone.device if device is None else torch.device(device)
    backbone = backbone.to(where)
    head.to(where).train()
    if not head.trained_parameters():
        raise CasamError(f"the head '{head.name}' has nothing to train", "evaluate it without a fit")
    precision = choose_precision(options.precision, where)
    items, apart = hold_out(few_shots(items, options.shots, seed), options.held_out)
    images = sum(bool(item.masks) for item in items)
    shrinks = bool(options.interpolations and apart is None and head.begins_as_frozen)
    start = weights_of(head) if shrinks else {}
    if views := parse_views(options.views, VIEW_SEPARATOR):
        items = add_views(items, views)
    side = head.mask_side(backbone)
    masks = TrainingMasks.prepare(items, on_prepare, None if side == backbone.low_res else side)
    if head.class_maps:
        check_masks(head, items)
        masks = masks.united()
    features = place_features(items, masks.trained, where, head.needs, residency, memory_limit)
    feed = Feed(masks, features, backbone, head)
    selection = Selection(head, backbone, apart, options) if apart else None
    if options.mix and PIXELS in features:
        raise CasamError(
            f"the head '{head.name}' trains on images, and mix is of cached embeddings", "leave mix out"
        )
    mixing = (seed, items.task, "mix")
    forward = objective(head, backbone, options, items, penalty)
    run = _Run(
        head, backbone, options, forward, penalty or Penalty(), precision, masks.visits, selection, mixing
    )
    key = _fit_key(head, masks, options, seed, precision, run.penalty)
    saved = read_checkpoint(checkpoint_dir, key, warn) if checkpoint_dir else None
    if saved:
        run.restore(saved)
    elif selection:
        selection.look(0, run.total_steps)
    resumed_from = len(run.history)

    while not run.finished:
        epoch = len(run.history)
        batches = draw_epoch(masks, options, seed, epoch, head.augments)[: run.total_steps - run.steps]
        try:
            record = run.epoch(feed, batches, on_step)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _too_large(items.task, options.batch_size) from error
        except DivergedError as error:
            if checkpoint_dir and run.history:
                error.message += f"; the state after the epoch before is in {checkpoint_dir}"
            raise
        if selection:
            selection.look(run.steps, run.total_steps)
        if checkpoint_dir:
            write_checkpoint(checkpoint_dir, {"key": key, **run.state()})
        if on_epoch:
            on_epoch(record, run.progress(record.loss))

    if selection is None and not all(bool(weight.isfinite().all()) for weight in head.parameters()):
        raise DivergedError(f"the weights are no longer finite after step {run.steps}", SLOWER)
    chosen = selection.give() if selection else None
    if shrinks:
        head.load_state_dict(on_the_way(start, weights_of(head), share_of(images)))
    head.eval()
    return FitResult(
        head=head,
        history=tuple(run.history),
        chosen=chosen,
        shrunk=share_of(images) if shrinks else None,
        steps=run.steps,
        pairs=sum(record.pairs for record in run.history),
        resumed_from=resumed_from,
        seconds=run.seconds,
        samples_per_second=run.speed,
        device=str(where),
        precision=precision,
        residency=", ".join(sorted({feature.residency for feature in features.values()})),
        threads=torch.get_num_threads(),
    )


class _Run:
    """Everything that changes while a fit runs: weights, optimiser, counters, history."""

    def __init__(
        self,
        head: Head,
        backbone: Backbone,
        options: TrainingOptions,
        forward: Callable[[Pairs], tuple[torch.Tensor, ...]],
        penalty: Penalty,
        precision: str,
        visits: int,
        selection: Selection | None,
        mixing: tuple[int | str, ...],
    ) -> None:
        self.selection, self._mixing = selection, mixing
        self.head, self.backbone, self.options, self.penalty = head, backbone, options, penalty
        self.history: list[EpochRecord] = []
        self.steps = 0
        self.seconds = 0.0
        self._pairs_here = self._steps_here = 0
        self._autocast = precision == "bf16"
        each = -(-visits // options.batch_size)
        self.total_steps = options.steps(visits)
        self._epochs = -(-self.total_steps // each)
        self._forward = forward
        kind = torch.optim.AdamW if options.weight_decay else torch.optim.Adam
        rates = head.rates(options.learning_rate)
        self._rates = [rate for rate, _ in rates]
        self._optimiser = kind(
            [{"params": parameters, "lr": rate} for rate, parameters in rates],
            weight_decay=options.weight_decay,
            fused=backbone.device.type in ("cpu", "cuda"),
        )

    @property
    def finished(self) -> bool:
        return self.steps >= self.total_steps or bool(self.selection and self.selection.stopped)

    @property
    def speed(self) -> float:
        return self._pairs_here / self.seconds if self.seconds else 0.0

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain data only."""
        return {
            "head": self.head.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "penalty": self.penalty.state(),
            "steps": self.steps,
            "history": [asdict(record) for record in self.history],
            "selection": self.selection.state() if self.selection else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.penalty.restore(state["penalty"])
        self.steps = state["steps"]
        self.history = [EpochRecord(**record) for record in state["history"]]
        if self.selection:
            self.selection.restore(state["selection"])

    def epoch(
        self, feed: Feed, batches: list[VisitBatch], on_step: Callable[[FitProgress], None] | None
    ) -> EpochRecord:
        start, done = time.perf_counter(), self.seconds
        number, pairs = len(self.history), 0
        sums = torch.zeros(len(_TERMS), device=self.backbone.device)
        diverged = torch.full((), -1, device=self.backbone.device)
        for index, batch in enumerate(feed.epoch(batches), start=1):
            if self.options.mix:
                drawn = generator(*self._mixing, self.steps)
                batch = mix_embeddings(batch, self.options.mix, drawn)
            terms = self._step(batch, number)
            sums += terms * len(batch)
            bad = ~terms.isfinite().all() & (diverged < 0)
            diverged = torch.where(bad, self.steps + 1, diverged)
            pairs += len(batch)
            self._pairs_here += len(batch)
            self._steps_here += 1
            self.steps += 1
            last = index == len(batches)
            if last or (on_step and index % REPORT_EVERY == 0):
                loss = float(sums[0]) / pairs  # waits for the device, so that the clock below is true
                self.seconds = done + time.perf_counter() - start
                self._check_finite(int(diverged), number)
                if on_step and not last:
                    on_step(self.progress(loss))
        means = dict(zip(_TERMS, (sums / pairs).tolist(), strict=True))
        record = EpochRecord(number, pairs, len(batches), **means)
        self.history.append(record)
        if on_step:
            on_step(self.progress(record.loss))
        return record

    def _check_finite(self, step: int, epoch: int) -> None:
        if step >= 0:
            raise DivergedError(
                f"the loss is no longer finite in step {step} of {self.total_steps}, epoch {epoch + 1}",
                SLOWER,
            )

    def _step(self, pairs: Pairs, epoch: int) -> torch.Tensor:
        """One optimiser step; returns its `_TERMS` (5,) on the device."""
        device = self.backbone.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._autocast):
            aligned, low_res, iou, loss, *terms = self._forward(pairs)
            step = Step(self.head, self.backbone, pairs, aligned, low_res, iou, epoch, self.steps)
            added = self.penalty.term(step)
        total = loss if added is None else loss + added
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        share = rate_share(self.options.schedule, self.options.warmup_steps, self.steps, self.total_steps)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self._optimiser.step()
        extra = torch.zeros_like(total) if added is None else added
        return torch.stack([loss, *terms, extra]).detach().float()

    def progress(self, loss: float) -> FitProgress:
        per_step = self.seconds / max(1, self._steps_here)
        return FitProgress(
            epoch=len(self.history),
            epochs=self._epochs,
            step=self.steps,
            steps=self.total_steps,
            loss=loss,
            samples_per_second=self.speed,
            eta_seconds=(self.total_steps - self.steps) * per_step,
        )


def _too_large(task: str, batch_size: int) -> CasamError:
    what = f"task {task}: not enough memory for a training step with batch_size={batch_size}"
    if batch_size == 1:
        return CasamError(what, "end other programs, or train on another machine")
    return CasamError(what, f"try half as many images a step: --set batch_size={batch_size // 2}")


def _fit_key(
    head: Head, masks: TrainingMasks, options: TrainingOptions, seed: int, precision: str, penalty: Penalty
) -> str:
    """Names a fit in its checkpoint: what decides its numbers, but for the head's initial weights."""
    return digest(
        {
            "head": [head.name, head.options.model_dump(mode="json")],
            "options": options.model_dump(mode="json"),
            "items": [[item.task, item.id, item.visits, *item.purpose] for item in masks.items],
            "targets": digest_arrays([("targets", masks.targets)]),
            "seed": seed,
            "precision": precision,
            "penalty": type(penalty).__qualname__,
        }
    )
