"""Stages beside the main line: what a training pass costs, and distances between features (Tables 3 and 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casam_cache.bench.find import find_store
from casam_cache.bench.node import Work
from casam_cache.bench.sources import store_of
from casam_cache.bench.work import method_of
from casam_cache.errors import CasamError, StoreError
from casam_cache.fingerprint import digest
from casam_cache.heads.base import Head
from casam_cache.heads.files import load_head
from casam_cache.metrics.distribution import feature_distance
from casam_cache.store import EmbeddingStore
from casam_cache.training.cost import training_flops
from casam_cache.training.items import Items

DISTANCES = "distances.json"
EMBEDDING = "embedding"


def cost(work: Work) -> dict[str, Any]:
    """Arithmetic of one training pass of a method's head; recorded, nothing else."""
    backbone = work.backbone()
    head = method_of(work).build(backbone, seed=0).to(work.device).train()
    return {"flops": training_flops(head, backbone)}


def distance(work: Work) -> dict[str, Any]:
    """TV and JS (equations 13 and 14) of a split's features, before and after a head, to a reference store's."""
    backbone = work.backbone()
    view = work.split(work.task, work.inputs["split"], work.inputs["items"])
    head = load_head(work.parents["head"], backbone).to(work.device).eval()
    reference = reference_store(Path(work.place.reference), work.task)
    images = [view.item(index).id for index in range(len(view))]
    if reference_content(reference, images) != work.inputs["reference"]:
        raise StoreError(
            f"the reference store of '{work.task}' has changed since the plan was made", "run again"
        )
    known = set(reference.ids)
    absent = [image for image in images if image not in known]
    if absent:
        raise StoreError(
            f"the reference store of task '{work.task}' lacks {len(absent)} images, the first is {absent[0]}",
            f"encode the same images into {work.place.reference}",
        )
    adapted = _Stored(reference, images)
    sides = {"before": _Aligned(view, None, work.device), "after": _Aligned(view, head, work.device)}
    found = {side: vars(feature_distance(features, adapted)) for side, features in sides.items()}
    (work.result / DISTANCES).write_text(json.dumps(found, indent=1) + "\n")
    return {}


def read_distances(folder: Path) -> dict[str, Any]:
    """What a `distance` stage found: `before` and `after`, each with `tv` and `js`.

    Raises:
        CasamError: missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / DISTANCES).read_text())
        return found
    except (OSError, ValueError) as error:
        raise CasamError(
            f"{folder} cannot be read: {error}", f"remove {folder} and run the command again"
        ) from None


def reference_store(folder: Path, task: str) -> EmbeddingStore:
    """The store of adapter-tuned features of a task.

    Args:
        folder: of reference stores.
        task: its name.

    Raises:
        CasamError: there is none, or it is not finished.
    """
    path = find_store(folder, task)
    store = store_of(str(folder), task, path.stem)
    store.require_complete()
    return store


def reference_content(store: EmbeddingStore, images: Sequence[str]) -> str:
    """Hash of the store's identity and of what its features of these images were made from."""
    place = {name: row for row, name in enumerate(store.ids)}
    held = [
        [image, store.source_sha256[place[image]].tobytes().hex() if image in place else None]
        for image in sorted(images)
    ]
    return digest([store.fingerprint, held])


class _Aligned:
    """Batches (1, C, cells) of a view's embeddings, through a head or as they are; valid cells only."""

    def __init__(self, view: Items, head: Head | None, device: torch.device) -> None:
        self._view, self._head, self._device = view, head, device

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in range(len(self._view)):
            features = {
                name: torch.from_numpy(np.array(self._view.feature(name, index), dtype=np.float32))[None].to(
                    self._device
                )
                for name in (self._head.needs if self._head else (EMBEDDING,))
            }
            found = features[EMBEDDING]
            if self._head is not None:
                with torch.no_grad():
                    found = self._head.align(features)
            rows, columns = self._view.item(index).geometry.valid_grid
            yield found[:, :, :rows, :columns].flatten(2).cpu().numpy()


class _Stored:
    """The same of a reference store, image by image."""

    def __init__(self, store: EmbeddingStore, ids: list[str]) -> None:
        self._store, self._ids = store, ids

    def __iter__(self) -> Iterator[np.ndarray]:
        for name in self._ids:
            index = self._store.index(name)
            rows, columns = self._store.geometry(index).valid_grid
            embedding = np.asarray(self._store.read(index), dtype=np.float32)
            yield embedding[None, :, :rows, :columns].reshape(1, len(embedding), -1)
