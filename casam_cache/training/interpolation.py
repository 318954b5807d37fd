"""Points on the way from the weights that a fit began with to those that it reached (WiSE-FT, Wortsman et al. 2022).

Where a fit has learnt its few images by heart, such a point is often better on new ones than either end. With groups
held out, points are candidates of the selection. With too few groups for that, how far to go is decided beforehand, by
the number of images: n / (n + PRIOR) of the way, as a mean of n values shrinks towards a prior that counts as PRIOR.
"""

from __future__ import annotations

import torch
from torch import nn

PRIOR = 2
"""Images that the frozen model counts as; `benchmarks/results/recipe_small.md` has what other shares give."""

Weights = dict[str, torch.Tensor]


def weights_of(module: nn.Module) -> Weights:
    """A copy."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def on_the_way(start: Weights, reached: Weights, share: float) -> Weights:
    """(1 - share) * start + share * reached (equation 1 of WiSE-FT); counters are those of `reached`."""
    return {
        name: torch.lerp(start[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in reached.items()
    }


def share_of(images: int) -> float:
    """How far to go where nothing can tell: 0.5 with two images, 0.71 with five, 0.91 with twenty."""
    return images / (images + PRIOR)
