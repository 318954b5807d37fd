"""Folds of a store as splits by name: `fold 2/5`, and what is trained on beside it, `rest 2/5`.

`fold 2/5 of train` and `rest 2/5 of train` divide the training split alone: what is chosen on them sees no test image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from casam_cache.datasets.folds import draw_folds, pooled
from casam_cache.store import Annotations
from casam_cache.store.annotations import SPLITS


@dataclass(frozen=True)
class Fold:
    """One of several folds, numbered from 1; they are drawn as `casam encode --folds` draws them.

    Attributes:
        number, of: which, and of how many.
        within: whether they divide the training split alone, whoever drew the test split.
    """

    number: int
    of: int
    within: bool = False

    @property
    def train(self) -> str:
        """The name of the split that is trained on: all folds but this one."""
        return f"rest {self._which}"

    @property
    def scored(self) -> str:
        """The name of the split that is scored: this fold."""
        return f"fold {self._which}"

    @property
    def _which(self) -> str:
        return f"{self.number}/{self.of}{' of train' if self.within else ''}"


def rows_of(annotations: Annotations, split: str) -> np.ndarray:
    """int64, ascending: where the samples of a split stand in the annotations.

    Args:
        annotations: of a store.
        split: `train`, `val` or `test`, or a name that `Fold` gives.

    Raises:
        DatasetError: there are fewer groups than folds.
    """
    named = re.fullmatch(r"(fold|rest) (\d+)/(\d+)( of train)?", split)
    if named is None:
        return annotations.rows(split)
    kind, number, of = named[1], int(named[2]), int(named[3])
    attributes = annotations.attributes
    if named[4]:
        places = [int(place) for place in annotations.rows("train")]
    else:
        splits = [SPLITS[place] for place in annotations.split]
        places, _ = pooled(splits, attributes["split_source"])
    drawn = draw_folds([annotations.group(place) for place in places], of, attributes["options"]["seed"])
    chosen = [
        place for place, fold in zip(places, drawn, strict=True) if (fold == number) == (kind == "fold")
    ]
    return np.array(chosen, dtype=np.int64)
