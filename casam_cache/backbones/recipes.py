"""What heads are fitted with where nothing else is said, by backbone. No torch here.

Each was chosen on validation splits, with no look at a test image, by `benchmarks/choose_recipe.py`; its studies are
benchmarks/results/recipe_small.md and recipe_lite_medsam.md. Some training groups are held out, and a fit gives the
best of its states on them, the frozen model and points on the way from it among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HELD_OUT = 0.2  # of the training images
BETWEEN = 3  # points on the way from the frozen model to a state: at a quarter, a half and three quarters

PAPER: Mapping[str, Any] = {"held_out": HELD_OUT}
"""The paper's recipe is what options are by default."""

SMALL: Mapping[str, Any] = {
    "blocks": 1, "norm": "none", "learning_rate": 1e-3, "schedule": "cosine", "batch_size": 2, "epochs": 1,
    "min_steps": 240, "max_steps": 240, "box_share": 1.0, "box_jitter": 0.02, "focal_alpha": 0.5, "held_out": HELD_OUT,
    "interpolations": BETWEEN,
}  # fmt: skip
"""One full block of the paper's, without its LayerNorm, so that it begins as the identity."""

TINY_VIT: Mapping[str, Any] = {
    "blocks": 1, "norm": "none", "learning_rate": 3e-4, "schedule": "cosine", "batch_size": 2, "epochs": 1,
    "min_steps": 240, "max_steps": 240, "box_share": 1.0, "box_jitter": 0.02, "focal_alpha": 0.5, "held_out": HELD_OUT,
    "interpolations": BETWEEN,
}  # fmt: skip
"""One full block that begins as the identity, for as many steps as two cores do in about two minutes.

With the paper's jitter of a tenth of the box's side the layer unlearns to trust the box, which costs where the frozen
model is good already. At 1e-3 the block learns faster, and where few images are there it first answers nothing at all
and does not come back to where it was; sets of fewer than eight groups have none held out that would notice.
"""
