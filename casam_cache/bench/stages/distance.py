"""What a training pass costs, and distances between features (Tables 3 and 4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.bench.stages.head import HeadStage, MethodRef
from casam_cache.bench.tasks import Place, SplitRef, find_store
from casam_cache.bench.tuned_run import TUNED
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work, beside
from casam_cache.errors import CasamError, StoreError
from casam_cache.fingerprint import digest
from casam_cache.heads.base import Head
from casam_cache.methods.registry import METHODS
from casam_cache.metrics.distribution import feature_distances
from casam_cache.store import EmbeddingStore
from casam_cache.training.cost import training_flops
from casam_cache.training.items import EMBEDDING, Items
from casam_cache.training.pixels import PIXELS

DISTANCES = "distances.json"
VECTORS = "vectors.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class Cost(Stage):
    """Arithmetic of one training pass of a method's head.

    Attributes:
        method: whose head.
        weights: fingerprint of the backbone.
        task: one whose store names the backbone.
    """

    kind: ClassVar[str] = "cost"
    revision: ClassVar[int] = 2

    method: MethodRef
    weights: str
    task: str = beside("")

    @property
    def label(self) -> str:
        return f"cost of {self.method.name}"

    @property
    def pace(self) -> str:
        return self.method.name

    def cached_flops(self, backbone: Backbone) -> int:
        """What a pass from the cache is spared: the encoder's, unless the method trains through it."""
        return 0 if PIXELS in METHODS.get(self.method.name).needs else backbone.encoder_flops()

    def compute(self, work: Work) -> dict[str, Any]:
        place: Place = work.place
        method = self.method.make(work)
        backbone = place.backbone(self.task, method.needs, encoder=method.runs_encoder)
        head = method.build(backbone, seed=0).to(place.torch_device).train()
        work.use(type(head))
        return {"flops": training_flops(head, backbone)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Distance(Stage):
    """TV and JS (equations 13 and 14) of a split's features, before and after a head, to a reference store's.

    The mean cell of each image is kept of all three, for Figure 5.

    Attributes:
        items: the split.
        head: the fitted head.
        reference: hash of what the reference store holds of these images.
    """

    kind: ClassVar[str] = "distance"
    revision: ClassVar[int] = 2

    items: SplitRef
    head: HeadStage
    reference: str

    @property
    def label(self) -> str:
        return f"distances of {self.items.task}"

    def compute(self, work: Work) -> dict[str, Any]:
        place: Place = work.place
        task, items = self.items.task, place.items(self.items)
        head = self.head.head(work.runs, self.head.backbone(place, task)).to(place.torch_device).eval()
        work.use(type(head))
        reference = reference_store(Path(place.reference), task)
        images = [item.id for item in items]
        if reference_content(reference, images) != self.reference:
            raise StoreError(
                f"the reference store of '{task}' has changed since the plan was made", "run again"
            )
        known = set(reference.ids)
        absent = [image for image in images if image not in known]
        if absent:
            raise StoreError(
                f"the reference store of task '{task}' lacks {len(absent)} images, the first is {absent[0]}",
                f"encode the same images into {place.reference}",
            )
        adapted, device = _Stored(reference, images), place.torch_device
        sides = {"before": _Aligned(items, None, device), "after": _Aligned(items, head, device)}
        found = {side: vars(distance) for side, distance in feature_distances(adapted, sides).items()}
        (work.result / DISTANCES).write_text(json.dumps(found, indent=1) + "\n")
        every: dict[str, Iterable[np.ndarray]] = {**sides, "reference": adapted}
        vectors = {name: _means(side) for name, side in every.items()}
        Vectors(tuple(images), **vectors, tuned_by=_tuned_by(reference)).write(work.result)
        return {}

    def read(self, runs: Runs) -> dict[str, Any]:
        """`before` and `after`, each with `tv` and `js`."""
        found: dict[str, Any] = json.loads((runs.open(self) / DISTANCES).read_text())
        return found


def reference_store(folder: Path, task: str) -> EmbeddingStore:
    """The store of adapter-tuned features of a task in a folder of such stores.

    Raises:
        CasamError: there is none, or it is not finished.
    """
    store = EmbeddingStore.open(find_store(folder, task))
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


@dataclass(frozen=True)
class Vectors:
    """The mean cell of each image of a split, float32 (images, C) a set.

    Attributes:
        images: ids.
        before, after: of the head.
        reference: of the reference store.
        tuned_by: the method that tuned the reference's encoder; empty where its identity names none.
    """

    images: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray
    reference: np.ndarray
    tuned_by: str

    def write(self, folder: Path) -> None:
        """Writes `VECTORS` into a folder."""
        from safetensors.numpy import save

        sets = {name: getattr(self, name) for name in ("before", "after", "reference")}
        about = json.dumps({"images": self.images, "tuned_by": self.tuned_by})
        (folder / VECTORS).write_bytes(save(sets, metadata={"about": about}))


def read_vectors(folder: Path) -> Vectors:
    """What `Vectors.write` wrote into a finished stage's folder.

    Raises:
        CasamError: it is not there.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / VECTORS, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            sets = {name: file.get_tensor(name) for name in ("before", "after", "reference")}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CasamError(
            f"no features in {folder}: {error}", "run the bench again: it computes them"
        ) from None
    return Vectors(tuple(about["images"]), **sets, tuned_by=str(about["tuned_by"]))


def _means(batches: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([batch.mean(axis=2, dtype=np.float64) for batch in batches]).astype(np.float32)


def _tuned_by(store: EmbeddingStore) -> str:
    architecture = store.identity["backbone"].get("architecture", {})
    return str(architecture.get(TUNED, {}).get("method", ""))


class _Aligned:
    """Batches (1, C, cells) of embeddings, through a head or as they are; valid cells only."""

    def __init__(self, items: Items, head: Head | None, device: torch.device) -> None:
        self._items, self._head, self._device = items, head, device

    def __iter__(self) -> Iterator[np.ndarray]:
        for index, item in enumerate(self._items):
            features = {
                name: torch.from_numpy(np.array(self._items.feature(name, index), dtype=np.float32))[None].to(
                    self._device
                )
                for name in (self._head.needs if self._head else (EMBEDDING,))
            }
            found = features[EMBEDDING]
            if self._head is not None:
                with torch.no_grad():
                    found = self._head.align(features)
            rows, columns = item.geometry.valid_grid
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
