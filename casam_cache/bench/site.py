"""What a bench works on: the tasks of a folder of stores, and what each split holds now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from casam_cache.bench.find import find_store
from casam_cache.bench.node import Place
from casam_cache.bench.sources import forget_sources, store_of
from casam_cache.errors import OptionError, StoreError
from casam_cache.store import EmbeddingStore, find_stores
from casam_cache.training.stored import open_split

_HINTS = {
    "val": "casam encode --val-fraction 0.2 sets groups apart for validation",
    "test": "give a split.csv, test/ folder or --test-fraction to casam encode",
    "train": "give a split.csv, train/ folder or --test-fraction to casam encode",
}


@dataclass(frozen=True)
class Split:
    """One split of one task as it is now.

    Attributes:
        task, split: which.
        content: hash of everything results depend on.
        images: ids, in the order of the view; masks: how many masks each has.
        groups: of the images.
    """

    task: str
    split: str
    content: str
    images: tuple[str, ...]
    masks: tuple[int, ...]
    groups: tuple[str, ...]

    @property
    def scored(self) -> int:
        """Images that have a mask."""
        return sum(count > 0 for count in self.masks)


@dataclass
class Site:
    """Tasks by name, with their splits read when first asked for.

    Attributes:
        stores: the folder of stores.
        place: where workers find things.
        precision: the numeric mode of training here, `fp32` or `bf16`, by what was asked.
    """

    stores: Path
    place: Place
    _splits: dict[tuple[str, str], Split] = field(default_factory=dict)

    @classmethod
    def open(
        cls, stores: Path, model: str | None, device: str, references: dict[str, str], reference: str = ""
    ) -> Site:
        """The tasks of a folder of stores.

        Args:
            stores: the folder.
            model: the backbone's store of every task, needed only where there are several.
            device: where to compute.
            references: methods that are not installed.
            reference: folder of stores of adapter-tuned features.

        Raises:
            StoreError: there is none.
            OptionError: several backbones to choose from, or an unknown one.
        """
        forget_sources()
        found = find_stores(stores)
        if not found:
            raise StoreError(f"no store in {stores}", f"casam encode DATASET --store {stores}")
        models = sorted({path.stem for path in found})
        if model is None and len(models) > 1:
            raise OptionError(
                f"{stores} holds stores of several backbones", f"choose one with --model: {', '.join(models)}"
            )
        if model is not None and model not in models:
            raise OptionError(f"no store of model '{model}' in {stores}", f"available: {', '.join(models)}")
        return cls(stores, Place(str(stores), model or models[0], device, references, reference))

    def tasks(self) -> list[str]:
        """Names of all tasks that have a store of this backbone, sorted."""
        return sorted({path.parent.name for path in find_stores(self.stores, backbone=self.place.model)})

    def store(self, task: str) -> EmbeddingStore:
        """The store of a task.

        Raises:
            OptionError: an unknown task; the message lists what there is.
        """
        find_store(self.stores, task, self.place.model)
        return store_of(self.place.stores, task, self.place.model)

    def check_same_backbone(self, tasks: Sequence[str]) -> None:
        """All tasks must hold features of the same weights, or heads could not be used across them.

        Raises:
            StoreError: they do not; the message names two that differ.
        """
        weights = {task: self.store(task).identity["backbone"]["weights"] for task in tasks}
        first = tasks[0]
        for task in tasks:
            if weights[task] != weights[first]:
                raise StoreError(
                    f"the stores of '{first}' and '{task}' come from different weights named {self.place.model}",
                    f"encode one of them again: casam encode DATASET --model {self.place.model}",
                )

    def require(self, task: str, arrays: Sequence[str]) -> None:
        """Every array must be there for every image.

        Raises:
            StoreError: one is not; the hint is the command that adds it.
        """
        for array in arrays:
            self.store(task).require_complete(array)

    def split(self, task: str, split: str) -> Split:
        """One split of one task.

        Raises:
            StoreError: it has no images, or none of them has a mask.
        """
        if (task, split) not in self._splits:
            view = open_split(self.store(task), split, task)
            items = [view.item(index) for index in range(len(view))]
            if not any(item.masks for item in items):
                raise StoreError(f"task '{task}' has no masks in its {split} split", _HINTS[split])
            self._splits[task, split] = Split(
                task,
                split,
                view.content,
                tuple(item.id for item in items),
                tuple(item.masks for item in items),
                tuple(item.group for item in items),
            )
        return self._splits[task, split]
