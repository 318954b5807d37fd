"""K folds by group: no patient is in the training and the held-out part of a fold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from casam_cache.fingerprint import generator


def assign_folds(groups: Sequence[str], folds: int, *, seed: int, task: str) -> np.ndarray:
    """Which fold holds out each row.

    Whole groups are dealt to the fold that has the fewest rows, large groups first, equal ones in an order drawn
    for this task; it does not matter in which order the rows are.

    Args:
        groups: (N,) patient or slide of each row.
        folds: wanted number; K = min(folds, number of groups).
        seed: what the draw belongs to, with `task`.
        task: its name.

    Returns:
        int64 (N,) in 0..K-1; all 0 for one group, of which nothing can be held out.
    """
    names, member, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    count = max(1, min(folds, len(names)))
    drawn = generator(seed, "folds", task).permutation(len(names))
    filled = np.zeros(count, dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for group in sorted(range(len(names)), key=lambda name: (-sizes[name], drawn[name])):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[member]
