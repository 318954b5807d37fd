"""The segmentation loss on low-res logits: 20 * focal + Dice + squared error of the IoU head's estimate.

SAM-Med2D's terms and weights; the paper names no loss. SAM-Med2D sums Dice and IoU over the batch, which lets large
masks drown small ones and ties the loss to the batch; here each term is computed for each mask and then averaged.
Padding has no weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from casam_cache.training.options import TrainingOptions


class Loss(NamedTuple):
    """The three terms, unweighted means over the samples, and their weighted total (0-d tensors)."""

    total: torch.Tensor
    focal: torch.Tensor
    dice: torch.Tensor
    iou: torch.Tensor


def segmentation_loss(
    low_res: torch.Tensor,
    predicted_iou: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    options: TrainingOptions,
) -> Loss:
    """The loss of P masks.

    Args:
        low_res: logits (P, L, L); computed in fp32 whatever they come in.
        predicted_iou: the IoU head's estimate (P,).
        target: 0 or 1, (P, L, L), any dtype.
        weight: share of each low-res cell that holds image, (P, L, L).
        options: weights and constants of the terms.
    """
    logits, target, weight = low_res.float(), target.float(), weight.float()
    focal = focal_loss(logits, target, weight, options.focal_alpha, options.focal_gamma).mean()
    dice = dice_loss(logits, target, weight, options.dice_smooth).mean()
    iou = (predicted_iou.float() - mask_iou(logits, target, weight)).square().mean()
    total = options.focal_weight * focal + options.dice_weight * dice + options.iou_weight * iou
    return Loss(total, focal, dice, iou)


def focal_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, alpha: float, gamma: float
) -> torch.Tensor:
    """Focal loss (P,), the weighted mean over cells of alpha_t * (1 - p_t)^gamma * cross-entropy."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # 1 - p_t, kept off zero: a power below one has no finite slope there
    wrong = (probability + target - 2 * probability * target).clamp_min(1e-8)
    balance = (1 - alpha) + (2 * alpha - 1) * target
    return (weight * balance * wrong.pow(gamma) * entropy).sum((1, 2)) / weight.sum((1, 2))


def dice_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, smooth: float
) -> torch.Tensor:
    """Soft Dice loss (P,): 1 - (2 * sum(p t) + smooth) / (sum(p) + sum(t) + smooth), over weighted cells."""
    probability, truth = logits.sigmoid() * weight, target * weight
    both = (probability * target).sum((1, 2))
    return 1 - (2 * both + smooth) / (probability.sum((1, 2)) + truth.sum((1, 2)) + smooth)


def distillation_loss(
    logits: torch.Tensor,
    teacher: torch.Tensor,
    weight: torch.Tensor,
    temperature: float,
    dice_smooth: float | None,
) -> torch.Tensor:
    """Pixelwise distillation (P,) of a student's masks from a teacher's (L_mask of Algorithm 1).

    Cross-entropy to the teacher's probabilities, the weighted mean over cells, plus Dice to them; both at the
    temperature T and scaled by T^2, which keeps the size of the gradient. Neither is zero where the two agree, unless
    the teacher is certain: only the gradient of the cross-entropy is.

    Args:
        logits: of the student, (P, L, L).
        teacher: logits of the teacher, (P, L, L), without gradients.
        weight: share of each low-res cell that holds image, (P, L, L).
        temperature: T; logits are divided by it.
        dice_smooth: constant of the Dice fraction; None leaves Dice out.
    """
    student, weight = logits.float() / temperature, weight.float()
    wanted = (teacher.float() / temperature).sigmoid()
    entropy = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    loss = (weight * entropy).sum((1, 2)) / weight.sum((1, 2))
    if dice_smooth is not None:
        loss = loss + dice_loss(student, wanted, weight, dice_smooth)
    return temperature**2 * loss


def log_likelihood(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Log p(mask) (P,), each low-res cell an independent coin: minus the weighted sum of cross-entropies."""
    entropy = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
    return -(weight.float() * entropy).sum((1, 2))


def squared_error(logits: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Squared difference (P,) of logits (P, L, L), the weighted mean over cells."""
    difference = (logits.float() - wanted.float()).square()
    return (weight.float() * difference).sum((1, 2)) / weight.float().sum((1, 2))


@torch.no_grad()
def mask_iou(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The IoU (P,) of the thresholded prediction (logit > 0), which the IoU head has to foresee.

    No gradient passes through it: a threshold has none. The term's gradient goes by the estimate alone. Where the head
    is trained it learns to judge; where it is frozen, before it an Alignment Layer, the layer learns features by which
    the frozen head judges rightly, and the mask itself is moved by focal and Dice only.
    """
    predicted = (logits > 0).float() * weight
    both = (predicted * target).sum((1, 2))
    union = predicted.sum((1, 2)) + (target * weight).sum((1, 2)) - both
    return both / union.clamp_min(1e-7)
