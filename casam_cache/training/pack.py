"""Several fits at once over the same embeddings: other seeds, learning rates, losses, prompts or head options.

Every member of a pack keeps what is its own: its head and initial weights, its order of samples, masks and prompts
(they belong to seed, task, epoch and sample), its learning rate, its Adam state, its history. Done once for all:
embeddings are read and kept, the frozen decoder sees the images of all members in one pass, and one fused Adam steps
all members of one learning rate. The heads stand side by side as branches of one graph, so that they may differ in
shape; one grouped convolution over stacked weights gained nothing clear on a CPU (`benchmarks/pack.py` times both), and
`torch.func.vmap` refuses the channels last order that the Alignment Layer works in.

What holds in fp32: at equal weights the loss and the gradients of a member's step are within 1e-5 (relative) of those
of `fit_head` alone, and Adam is torch's own, element by element. Only the decoder's batch is larger, so that sums may
round differently; Adam makes full steps of such differences where a gradient is almost zero, and weights drift apart
slowly: final IoU stays within 0.2 points. Which others a pack holds, and in which order, changes bits within these
bounds and nothing else. The same pack gives the same bits on a CPU, resumed or not.

A pack has no penalties: a fit whose method adds to the loss is not packed, nor is a head that reads more than the
embedding, adds prompt tokens or has a decoder of its own (`why_not_packed`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_precision
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.training.checkpoint import FILE, read_checkpoint, write_checkpoint
from casam_cache.training.compiled import arithmetic
from casam_cache.training.data import Items
from casam_cache.training.epochs import Batch, TrainingMasks, draw_epoch
from casam_cache.training.feed import Feed
from casam_cache.training.loop import (
    REPORT_EVERY,
    EpochRecord,
    FitResult,
    Progress,
    epoch_record,
    fit_key,
)
from casam_cache.training.losses import segmentation_terms
from casam_cache.training.options import VIEW_SEPARATOR, TrainingOptions
from casam_cache.training.residency import Residency, place_features
from casam_cache.training.step import Pairs, Penalty
from casam_cache.training.views import ViewedItems
from casam_cache.views import parse_views

# Members step together: these decide which steps there are, and of how many images and masks.
SHARED_OPTIONS = ("epochs", "batch_size", "masks_per_image", "max_steps", "precision", "views", "compiled")
_LOSS_OPTIONS = ("focal_alpha", "focal_gamma", "dice_smooth")
_KEY = "pack"


@dataclass(frozen=True)
class PackRequest:
    """One fit of a pack: the arguments of `fit_head` that are its own.

    Attributes:
        head: trained in place; an object of its own in each request.
        options: equal to those of the other requests in `SHARED_OPTIONS`.
        seed: of order, masks and prompts.
    """

    head: Head
    options: TrainingOptions
    seed: int = 0


def shared_options(options: TrainingOptions) -> dict[str, Any]:
    """Those options in which all fits of a pack agree."""
    return {name: getattr(options, name) for name in SHARED_OPTIONS}


def why_not_packed(head: Head) -> str | None:
    """Why a head can only be fitted alone; None if it can be packed."""
    if tuple(head.needs) != ("embedding",):
        return f"reads {', '.join(name for name in head.needs if name != 'embedding')} beside the embedding"
    if head.mask_decoder is not None or type(head).decode is not Head.decode:
        return "has a mask decoder of its own"
    if type(head).prompt_tokens is not Head.prompt_tokens:
        return "adds prompt tokens"
    return None if head.trained_parameters() else "has nothing to train"


def fit_pack(
    requests: Sequence[PackRequest],
    backbone: Backbone,
    items: Items,
    *,
    device: torch.device | str | None = None,
    checkpoint_dir: Path | None = None,
    residency: Residency = "auto",
    memory_limit: int | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[list[EpochRecord], Progress], None] | None = None,
    on_prepare: Callable[[int, int], None] | None = None,
) -> list[FitResult]:
    """Trains several heads on the same view, each as `fit_head` would alone, up to the rounding of sums.

    Memory for activations grows with the number of requests.

    Args:
        requests: at least one.
        backbone: as for `fit_head`.
        items: the training view of all requests.
        device: as for `fit_head`.
        checkpoint_dir: an existing folder for the one checkpoint of the pack, replaced after every epoch. One found
            there is continued; it may be of a pack that held further fits.
        residency: where embeddings wait. Streamed ones are read by each member in its own order, others once.
        memory_limit: bytes embeddings may take; None is half of what is free.
        on_step: called every `REPORT_EVERY` steps and at the end of an epoch; its loss is the mean over the members.
        on_epoch: called after every epoch with a record of each request.
        on_prepare: called with (images done, images) while targets are prepared.

    Returns:
        One result a request. `seconds` and `samples_per_second` are those of the whole pack.

    Raises:
        CasamError: a head cannot be packed, options that must agree differ, no image has a mask, a checkpoint of other
            fits, or the loss of one of them is no longer finite.
    """
    _check(requests)
    shared = requests[0].options
    where = backbone.device if device is None else torch.device(device)
    backbone = backbone.to(where)
    for request in requests:
        request.head.to(where).train()
    precision = choose_precision(shared.precision, where)
    if views := parse_views(shared.views, VIEW_SEPARATOR):
        items = ViewedItems(items, views)
    masks = TrainingMasks.prepare(items, on_prepare)
    features = place_features(items, masks.trained, where, ("embedding",), residency, memory_limit)
    feed = Feed(masks, features, backbone)
    run = _PackRun(requests, backbone, precision, masks.visits)
    keys = [fit_key(one.head, masks, one.options, one.seed, precision, Penalty()) for one in requests]
    saved = read_checkpoint(checkpoint_dir, _KEY) if checkpoint_dir else None
    if checkpoint_dir and len(set(keys)) < len(keys):
        raise CasamError("a pack with a checkpoint holds the same fit twice", "give each its own seed")
    if saved:
        _restore(run, saved, keys, checkpoint_dir)
    resumed_from = run.epochs_done
    while not run.finished:
        left, epoch = run.total_steps - run.steps, run.epochs_done
        drawn = [draw_epoch(masks, one.options, one.seed, epoch)[:left] for one in requests]
        records = run.epoch(feed, drawn, on_step)
        if checkpoint_dir:
            write_checkpoint(checkpoint_dir, {"key": _KEY, **run.state(keys)})
        if on_epoch:
            on_epoch(records, run.progress(_mean([record.loss for record in records])))
    return [
        FitResult(
            head=request.head.eval(),
            history=tuple(history),
            steps=run.steps,
            pairs=sum(record.pairs for record in history),
            resumed_from=resumed_from,
            seconds=run.seconds,
            samples_per_second=run.speed,
            device=str(where),
            precision=precision,
            residency=features["embedding"].residency,
            threads=torch.get_num_threads(),
        )
        for request, history in zip(requests, run.histories, strict=True)
    ]


def join_batches(batches: Sequence[Batch]) -> Batch:
    """One step of several fits as one batch: their images one after the other, each pair with its own image."""
    starts = np.cumsum([0, *(len(batch.items) for batch in batches[:-1])])
    return Batch(
        items=tuple(item for batch in batches for item in batch.items),
        image=np.concatenate([batch.image + start for batch, start in zip(batches, starts, strict=True)]),
        masks=np.concatenate([batch.masks for batch in batches]),
        is_box=np.concatenate([batch.is_box for batch in batches]),
        coordinates=np.concatenate([batch.coordinates for batch in batches]),
    )


def _check(requests: Sequence[PackRequest]) -> None:
    if not requests:
        raise ValueError("a pack holds at least one fit")
    for request in requests:
        if (reason := why_not_packed(request.head)) is not None:
            raise CasamError(
                f"the head '{request.head.name}' cannot be packed: it {reason}", "fit it without --pack"
            )
    if len({id(request.head) for request in requests}) < len(requests):
        raise ValueError("each request of a pack has a head object of its own")
    first = shared_options(requests[0].options)
    for request in requests:
        other = shared_options(request.options)
        if names := [name for name in SHARED_OPTIONS if other[name] != first[name]]:
            raise CasamError(
                f"fits with different {names[0]} ({first[names[0]]}, {other[names[0]]}) cannot be packed",
                f"equal in a pack: {', '.join(SHARED_OPTIONS)}",
            )


class _PackRun:
    """Everything that changes while a pack runs: weights, optimiser, counters, histories."""

    def __init__(
        self, requests: Sequence[PackRequest], backbone: Backbone, precision: str, visits: int
    ) -> None:
        self.requests, self.backbone = requests, backbone
        self.histories: list[list[EpochRecord]] = [[] for _ in requests]
        self.steps = 0
        self.seconds = 0.0
        self._pairs_here = self._steps_here = 0
        self._autocast = precision == "bf16"
        options = requests[0].options
        per_epoch = -(-visits // options.batch_size)
        self.total_steps = min(options.epochs * per_epoch, options.max_steps or options.epochs * per_epoch)
        rates: dict[float, list[torch.nn.Parameter]] = {}
        for request in requests:
            rates.setdefault(request.options.learning_rate, []).extend(request.head.trained())
        self._optimiser = torch.optim.Adam(
            [{"params": parameters, "lr": rate} for rate, parameters in rates.items()],
            fused=backbone.device.type in ("cpu", "cuda"),
        )
        self._forward = arithmetic(_terms(requests, backbone), options.compiled, backbone)
        weights = [_values(one.options, ("focal_weight", "dice_weight", "iou_weight")) for one in requests]
        self._weights = torch.tensor(weights, device=backbone.device)

    @property
    def epochs_done(self) -> int:
        """Of every member."""
        return len(self.histories[0])

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return self.steps >= self.total_steps

    @property
    def speed(self) -> float:
        """Image-mask pairs a second in this process, of all members together."""
        return self._pairs_here / self.seconds if self.seconds else 0.0

    def state(self, keys: Sequence[str]) -> dict[str, Any]:
        """For a checkpoint: tensors and plain data only, each member by its key."""
        moments = self._optimiser.state_dict()["state"]
        places = self._places()
        members = {
            key: {
                "head": request.head.state_dict(),
                "optimiser": [moments.get(places[parameter]) for parameter in request.head.trained()],
                "history": [asdict(record) for record in history],
            }
            for key, request, history in zip(keys, self.requests, self.histories, strict=True)
        }
        return {"steps": self.steps, "members": members}

    def restore(self, state: dict[str, Any], keys: Sequence[str]) -> None:
        """Takes back what `state` gave, of these members."""
        own = [state["members"][key] for key in keys]
        places, moments = self._places(), {}
        for request, member in zip(self.requests, own, strict=True):
            request.head.load_state_dict(member["head"])
            for parameter, saved in zip(request.head.trained(), member["optimiser"], strict=True):
                if saved is not None:  # a parameter that no loss reaches has none
                    moments[places[parameter]] = saved
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.histories = [[EpochRecord(**record) for record in member["history"]] for member in own]
        self.steps = state["steps"]

    def _places(self) -> dict[torch.Tensor, int]:
        """By which number the optimiser's state names each parameter."""
        parameters = (parameter for group in self._optimiser.param_groups for parameter in group["params"])
        return {parameter: place for place, parameter in enumerate(parameters)}

    def epoch(
        self,
        feed: Feed,
        drawn: Sequence[Sequence[Batch]],
        on_step: Callable[[Progress], None] | None,
    ) -> list[EpochRecord]:
        """One pass over the batches of every member, `drawn` by member and step."""
        start, done = time.perf_counter(), self.seconds
        counts = [[len(batch.masks) for batch in own] for own in drawn]
        seen_by = torch.tensor(
            counts, device=self.backbone.device
        )  # here: in a step it would wait for the device
        steps = list(zip(*drawn, strict=True))
        sums = torch.zeros((len(drawn), 4), device=self.backbone.device)
        seen = 0
        for index, batch in enumerate(feed.epoch([join_batches(step) for step in steps])):
            sums += self._step(batch, [own[index] for own in counts]) * seen_by[:, index, None]
            seen += len(batch)
            self._pairs_here += len(batch)
            self._steps_here += 1
            self.steps += 1
            last = index + 1 == len(steps)
            if last or (on_step and (index + 1) % REPORT_EVERY == 0):
                loss = float(sums[:, 0].sum()) / seen  # waits for the device, so that the clock below is true
                self.seconds = done + time.perf_counter() - start
                if on_step and not last:
                    on_step(self.progress(loss))
        means = (sums / seen_by.sum(1, keepdim=True)).tolist()
        records = [
            self._record(request, sum(count), len(steps), own)
            for request, count, own in zip(self.requests, counts, means, strict=True)
        ]
        for history, record in zip(self.histories, records, strict=True):
            history.append(record)
        if on_step:
            on_step(self.progress(_mean([record.loss for record in records])))
        return records

    def _record(self, request: PackRequest, pairs: int, steps: int, means: Sequence[float]) -> EpochRecord:
        try:
            return epoch_record(self.epochs_done, pairs, steps, [*means, 0.0])
        except CasamError as error:
            which = f"seed {request.seed}, learning_rate={request.options.learning_rate:g}"
            raise CasamError(f"{which}: {error.message}", error.hint) from None

    def _step(self, pairs: Pairs, counts: list[int]) -> torch.Tensor:
        """One optimiser step of every member.

        Args:
            pairs: of all members, one after the other.
            counts: how many of them are each member's.

        Returns:
            Each member's loss, focal, dice and iou, (K, 4) on the device.
        """
        images = len(pairs.embedding) // len(self.requests)
        with torch.autocast(self.backbone.device.type, dtype=torch.bfloat16, enabled=self._autocast):
            terms = self._forward(
                pairs.embedding.split(images), pairs.image_index, pairs.sparse, pairs.dense, pairs.target,
                pairs.weight, counts,
            )  # fmt: skip
        # Apart from each other: a member whose loss is not finite must not spoil its neighbours' gradients.
        means = torch.stack([own.mean(1) for own in terms.split(counts, dim=1)])  # (K, 3)
        total = (means * self._weights).sum(1)
        self._optimiser.zero_grad(set_to_none=True)
        total.sum().backward()
        self._optimiser.step()
        return torch.cat([total[:, None], means], dim=1).detach()

    def progress(self, loss: float) -> Progress:
        """Where the pack stands now."""
        per_step = self.seconds / max(1, self._steps_here)
        return Progress(
            epoch=self.epochs_done,
            epochs=self.requests[0].options.epochs,
            step=self.steps,
            steps=self.total_steps,
            loss=loss,
            samples_per_second=self.speed,
            eta_seconds=(self.total_steps - self.steps) * per_step,
        )


def _terms(requests: Sequence[PackRequest], backbone: Backbone) -> Callable[..., torch.Tensor]:
    """The arithmetic of a step; in one go for all members where the constants of their losses are equal."""
    one_loss = len({_values(request.options, _LOSS_OPTIONS) for request in requests}) == 1

    def run(
        embeddings: Sequence[torch.Tensor],
        image_index: torch.Tensor | None,
        sparse: torch.Tensor,
        dense: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor,
        counts: list[int],
    ) -> torch.Tensor:
        """Focal, Dice and IoU terms of all P pairs, (3, P), from the embeddings of each member."""
        branches = zip(requests, embeddings, strict=True)
        aligned = torch.cat([request.head.align({"embedding": own}) for request, own in branches])
        masks, scores = backbone.decode(aligned, image_index, sparse, dense, multimask=False)
        low_res, iou = masks[:, 0], scores[:, 0]
        if one_loss:
            return torch.stack(segmentation_terms(low_res, iou, target, weight, requests[0].options))
        parts = (tensor.split(counts) for tensor in (low_res, iou, target, weight))
        each = [
            torch.stack(segmentation_terms(masks, scores, target, weight, request.options))
            for request, masks, scores, target, weight in zip(requests, *parts, strict=True)
        ]
        return torch.cat(each, dim=1)

    return run


def _restore(run: _PackRun, saved: dict[str, Any], keys: Sequence[str], folder: Path | None) -> None:
    if not set(keys) <= set(saved["members"]):
        raise CasamError(
            f"{folder}/{FILE} belongs to fits with other options, data or seeds",
            "use another folder, or remove it",
        )
    run.restore(saved, keys)


def _values(options: TrainingOptions, names: Sequence[str]) -> tuple[float, ...]:
    return tuple(getattr(options, name) for name in names)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
