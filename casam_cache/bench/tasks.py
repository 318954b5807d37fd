"""What a bench works on: the tasks of a folder of stores, what each split holds now, and where workers find it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_device
from casam_cache.encode.preprocessing import as_in_store
from casam_cache.encode.sources import decoder_of, whole_backbone
from casam_cache.errors import OptionError, StoreError, unknown_name
from casam_cache.references import load_reference
from casam_cache.store import EmbeddingStore, find_stores, store_path
from casam_cache.training.items import ALL, Items, open_split
from casam_cache.training.pixels import INPUT_SIZE, PIXELS

_HINTS = {
    "val": "casam encode --val-fraction 0.2 sets groups apart for validation",
    "test": "give a split.csv, test/ folder or --test-fraction to casam encode",
    "train": "give a split.csv, train/ folder or --test-fraction to casam encode",
    ALL: "casam data check says what was found",
}
_FOLDS_HINT = "fewer folds, or another --group-regex of casam encode"


@dataclass(frozen=True)
class SplitRef:
    """One split of one task as a stage's key names it.

    Attributes:
        task, split: which.
        content: hash of everything results depend on: the store's identity, and of each item image, masks, prompts and
            group.
    """

    task: str
    split: str
    content: str

    def key_data(self) -> list[str]:
        return [self.task, self.split, self.content]


@dataclass(frozen=True)
class TaskSplit:
    """One split of one task as it is now.

    Attributes:
        ref: what stages are given.
        images: ids, in the order of the items; masks: how many masks each has.
        groups: patients, slides: how many of them have a mask.
        volumes: whether some are slices of volumes.
        tiles: whether some are tiles of larger images.
    """

    ref: SplitRef
    images: tuple[str, ...]
    masks: tuple[int, ...]
    groups: int
    volumes: bool = False
    tiles: bool = False

    @property
    def scored(self) -> int:
        """Images that have a mask."""
        return sum(count > 0 for count in self.masks)


@dataclass(frozen=True)
class Place:
    """Where inputs lie and where to compute, for workers anywhere; decides no result and enters no key.

    Attributes:
        stores: the folder of stores.
        model: the backbone's store of every task.
        device: `cpu`, `cuda:0`, ...
        references: classes that are not installed, as `FILE.py:Class`.
        reference: folder of stores of adapter-tuned features (Table 4); empty without.
    """

    stores: str
    model: str
    device: str
    references: tuple[str, ...] = ()
    reference: str = ""

    def prepare(self) -> None:
        """Makes the classes that are not installed known in this process."""
        for text in self.references:
            load_reference(text)

    @property
    def torch_device(self) -> torch.device:
        return choose_device(self.device)

    def store(self, task: str) -> EmbeddingStore:
        """The store of a task, opened once a process."""
        return _store_of(self.stores, task, self.model)

    def weights(self, task: str) -> str:
        """Fingerprint of the backbone of a task's store."""
        found: str = self.store(task).identity["backbone"]["weights"]
        return found

    def backbone(self, task: str, needs: Sequence[str] = (), *, encoder: bool = True) -> Backbone:
        """Prompt encoder and mask decoder of the backbone of a task's store, on the device.

        Where `needs`, what a method reads, has the pixels among it, with the preprocessing of the store and, unless
        `encoder` is False, with the encoder.

        Raises:
            CheckpointError: the encoder is needed, and its checkpoint is gone or holds other weights.
        """
        if PIXELS not in needs:
            return _backbone_of(self.stores, self.weights(task), str(self.torch_device))
        known = _whole_of if encoder else _backbone_of
        found = known(self.stores, self.weights(task), str(self.torch_device))
        return as_in_store(found, self.store(task).identity)

    def items(self, ref: SplitRef) -> Items:
        """The items of a split that held `ref.content` when the plan was made.

        Raises:
            StoreError: it holds something else now.
        """
        return _split_of(self.stores, self.model, ref)


@dataclass
class Tasks:
    """Tasks by name, with their splits read when first asked for.

    Attributes:
        place: where workers find things.
    """

    place: Place
    _splits: dict[tuple[str, str], TaskSplit] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        stores: Path,
        model: str | None,
        device: str,
        references: Sequence[str] = (),
        reference: str = "",
        task: str | None = None,
    ) -> Tasks:
        """The tasks of a folder of stores.

        Args:
            stores: the folder.
            model: the backbone's store of every task, needed only where there are several.
            device: where to compute.
            references: classes that are not installed.
            reference: folder of stores of adapter-tuned features.
            task: where only this one is meant, only its stores count.

        Raises:
            StoreError: there is none.
            OptionError: several backbones to choose from, or an unknown one.
        """
        for cache in (_store_of, _backbone_of, _whole_of, _split_of):
            cache.cache_clear()  # a new plan sees stores as they are now
        path = find_store(stores, task, model)
        where = Path(stores).resolve()  # workers may stand in another folder
        return cls(Place(str(where), path.stem, device, tuple(references), reference))

    def names(self) -> list[str]:
        """Names of all tasks that have a store of this backbone, sorted."""
        return sorted(
            {path.parent.name for path in find_stores(Path(self.place.stores), backbone=self.place.model)}
        )

    def store(self, task: str) -> EmbeddingStore:
        """The store of a task.

        Raises:
            OptionError: an unknown task; the message lists what there is.
        """
        find_store(Path(self.place.stores), task, self.place.model)
        return self.place.store(task)

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
            if array not in (PIXELS, INPUT_SIZE):
                self.store(task).require_complete(array)

    def split(self, task: str, split: str) -> TaskSplit:
        """One split of one task.

        Raises:
            StoreError: it has no images, or none of them has a mask.
        """
        if (task, split) not in self._splits:
            found = open_split(self.store(task), split, task)
            items = list(found)
            if not any(item.masks for item in items):
                raise self._without_masks(task, split, len(items))
            self._splits[task, split] = TaskSplit(
                SplitRef(task, split, found.content),
                tuple(item.id for item in items),
                tuple(item.masks for item in items),
                len({item.group for item in items if item.masks}),
                any(item.place is not None for item in items),
                any(item.tile is not None for item in items),
            )
        return self._splits[task, split]

    def _without_masks(self, task: str, split: str, images: int) -> StoreError:
        """What to look at depends on whether other splits have objects: at the split, or at the masks."""
        annotations = self.store(task).annotations
        if annotations.masks:
            return StoreError(
                f"task '{task}' has no masks in its {split} split: its {images} images have none, or empty ones, "
                "while those of other splits hold objects",
                _HINTS.get(split, _FOLDS_HINT),
            )
        return StoreError(
            f"task '{task}' has no masks: none of its {len(annotations)} images has an object in a mask, in any split",
            "the masks are missing or background alone: casam data check FOLDER says what was read of them",
        )


def find_store(stores: Path, task: str | None = None, model: str | None = None) -> Path:
    """DIR/TASK/BACKBONE.zarr; the backbone need not be named where there is only one.

    Args:
        stores: the folder.
        task: None: any task's.
        model: the backbone's name.

    Raises:
        StoreError: the folder of stores is missing or empty.
        OptionError: an unknown task or model, or several models to choose from; the message lists what there is.
    """
    found = find_stores(stores)
    if not found:
        raise StoreError(f"no store in {stores}", f"casam encode DATASET --store {stores}")
    tasks = sorted({path.parent.name for path in found})
    if task is not None and task not in tasks:
        raise unknown_name("task", task, tasks)
    where = f"task '{task}' is encoded" if task is not None else f"{stores} holds stores"
    models = {path.stem: path for path in found if task in (None, path.parent.name)}
    if model is None and len(models) > 1:
        raise OptionError(
            f"{where} with several backbones", f"choose one with --model: {', '.join(sorted(models))}"
        )
    if model is not None and model not in models:
        raise unknown_name("model" if task is None else f"model of task {task}", model, list(models))
    return models[model] if model is not None else next(iter(models.values()))


@lru_cache(maxsize=64)
def _store_of(stores: str, task: str, model: str) -> EmbeddingStore:
    return EmbeddingStore.open(store_path(Path(stores), task, model))


@lru_cache(maxsize=4)
def _backbone_of(stores: str, weights: str, device: str) -> Backbone:
    return decoder_of(Path(stores), weights, torch.device(device))


@lru_cache(maxsize=1)
def _whole_of(stores: str, weights: str, device: str) -> Backbone:
    return whole_backbone(Path(stores), weights, device=torch.device(device))


@lru_cache(maxsize=128)
def _split_of(stores: str, model: str, ref: SplitRef) -> Items:
    items = open_split(_store_of(stores, ref.task, model), ref.split, ref.task)
    if items.content != ref.content:
        # A worker that lives longer than a plan may have the store open as it was.
        items = open_split(
            EmbeddingStore.open(store_path(Path(stores), ref.task, model)), ref.split, ref.task
        )
    if items.content != ref.content:
        raise StoreError(
            f"the {ref.split} split of task '{ref.task}' has changed since the plan was made",
            "run the command again: it plans with what is there now",
        )
    return items
