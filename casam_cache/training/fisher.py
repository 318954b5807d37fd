"""The diagonal of the Fisher information of a head: the mean over samples of the squared gradient of each.

The squared gradient of a batch's mean is something else: gradients of different samples cancel in it. So every sample
has a backward pass of its own; one pass over the images is all.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.fingerprint import generator
from casam_cache.heads.base import Head
from casam_cache.training.epochs import TrainingMasks, VisitBatch
from casam_cache.training.feed import Feed, place_features
from casam_cache.training.items import Items
from casam_cache.training.losses import log_likelihood, segmentation_loss
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Pairs, forward_pairs

FisherLoss = Literal["likelihood", "training"]


def fisher_diagonal(
    head: Head,
    backbone: Backbone,
    items: Items,
    options: TrainingOptions,
    *,
    seed: int,
    task: str,
    loss: FisherLoss = "likelihood",
    images: int | None = None,
) -> dict[str, torch.Tensor]:
    """The empirical Fisher information's diagonal, in fp32.

    A sample is a training image with one of its masks and one prompt, drawn by (seed, task, "fisher", image).

    Args:
        head: trained; it is not changed.
        backbone: frozen, on the device of the head.
        items: the task's training images.
        options: how prompts are drawn; for `training` the loss too.
        seed: of the run.
        task: whose information it is.
        loss: `likelihood`: minus the log-likelihood of the true mask (the sum of cross-entropies over the low-res
            cells), whose squared score is what "Fisher information" means; `training`: the loss that was trained,
            whose Dice is no log-likelihood.
        images: at most so many, drawn; None is all.

    Returns:
        For each parameter of the head by name, float32 of its shape on its device.

    Raises:
        CasamError: no image has a mask.
    """
    masks = TrainingMasks.prepare(items)
    single = options.model_copy(update={"masks_per_image": 1})
    visits = masks.in_turn(
        masks.draw(index, single, generator(seed, task, "fisher", masks.items[index].id))
        for index in masks.trained
    )[:images]
    features = place_features(items, masks.trained, backbone.device, head.needs, "stream")
    feed = Feed(masks, features, backbone)
    copied = copy.deepcopy(head).requires_grad_(True).eval()
    named = dict(copied.named_parameters())
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in named.items()}
    for pairs in feed.epoch([VisitBatch.of([visit]) for visit in visits]):
        value = _loss(copied, backbone, pairs, options, loss)
        gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient.detach().float().square()
    return {name: total / len(visits) for name, total in sums.items()}


def _loss(
    head: Head, backbone: Backbone, pairs: Pairs, options: TrainingOptions, loss: FisherLoss
) -> torch.Tensor:
    _, low_res, iou = forward_pairs(head, backbone, pairs)
    if loss == "likelihood":
        return -log_likelihood(low_res, pairs.target, pairs.weight).sum()
    return segmentation_loss(low_res, iou, pairs.target, pairs.weight, options).total


def scaled_to_mean_one(fisher: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same importances with mean 1 over all parameters; all zero stays as it is."""
    ordered = [fisher[name] for name in sorted(fisher)]
    total = sum(float(tensor.cpu().double().sum()) for tensor in ordered)
    mean = total / sum(tensor.numel() for tensor in ordered)
    return {name: tensor / mean for name, tensor in fisher.items()} if mean else fisher
