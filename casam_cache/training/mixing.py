"""Mixing in embedding space: the augmentation that needs no further pass of the encoder.

Mixup (Zhang et al., ICLR 2018) at the image embedding, as manifold mixup (Verma et al., ICML 2019) has it at a hidden
layer, for targets that are told by a prompt. With z the embeddings of a step and z' the same in another order

    z_i <- l z_i + (1 - l) z'_i,    l = max(b, 1 - b),    b ~ Beta(a, a)

Mask and prompt stay those of image i, since a prompt means nothing in the other image: so l is at least a half, and the
other embedding is what i has to be told apart from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from casam_cache.training.items import EMBEDDING
from casam_cache.training.step import Pairs


def mix_embeddings(pairs: Pairs, strength: float, rng: np.random.Generator) -> Pairs:
    """The pairs with each image's embedding mixed with that of the next image of the step; one alone stays as it is.

    Args:
        pairs: of one step; the order of its images is random already.
        strength: a, above 0.
        rng: of this step.
    """
    own = pairs.features[EMBEDDING]  # (B, C, g, g)
    if len(own) < 2:
        return pairs
    drawn = rng.beta(strength, strength, len(own)).astype(np.float32)
    share = torch.from_numpy(np.maximum(drawn, 1 - drawn)).to(own.device).view(-1, 1, 1, 1)
    mixed = torch.lerp(own.roll(-1, 0), own, share)
    return replace(pairs, features={**pairs.features, EMBEDDING: mixed})
