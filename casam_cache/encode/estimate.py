"""`--dry-run`: what encoding would do and cost; nothing is written and nothing downloaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.devices import choose_devices
from casam_cache.backbones.encoder import FrozenEncoder, feature_shape
from casam_cache.backbones.registry import known_model
from casam_cache.backbones.sam import load_backbone
from casam_cache.datasets import read_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.task import batch_size_of, dtype_of, encoder_of, precision_of
from casam_cache.folders import cache_folder
from casam_cache.store import EmbeddingStore, store_path
from casam_cache.store.quantise import stored_dtype
from casam_cache.store.schema import EMBEDDING, ROOT, ArraySpec
from casam_cache.views import View


@dataclass(frozen=True)
class Estimate:
    """What `--dry-run` says of one task.

    Attributes:
        task: name of the dataset.
        images: usable images of the dataset.
        pending: images still to encode.
        store_bytes: bytes their features will take, without checksums and scales.
        seconds: estimated time of the encoder, from a timed pass on this machine; None if nothing is pending or the
            checkpoint is not here.
        download: file that would be downloaded first; empty if the checkpoint is here.
        store: where the store is or will be.
    """

    task: str
    images: int
    pending: int
    store_bytes: int
    seconds: float | None
    download: str
    store: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, with the counts of a run's report."""
        counts = {"encoded": 0, "skipped": self.images - self.pending, "failed": 0}
        return {**asdict(self), **counts, "dry_run": True}

    def describe(self) -> str:
        """One line for a person."""
        time = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        download = f", after downloading {self.download}" if self.download else ""
        size = f"{self.store_bytes / 2**20:,.1f} MiB"
        return f"{self.task}: {self.pending} of {self.images} images to encode, {size}{time}{download} -> {self.store}"


def estimate_task(root: Path, stores: Path, options: EncodeOptions) -> Estimate:
    """What encoding would do and cost; the encoder is timed here if its checkpoint is on this machine.

    Raises:
        CasamError: the dataset, the store or the checkpoint cannot be used.
    """
    dataset = read_dataset(root, options.dataset, reader=options.reader)
    path = store_path(stores, dataset.task, options.backbone_name)
    known = known_model(options.model)
    download = ""
    if options.checkpoint is None and not known.bundled and not (cache_folder() / known.filename).is_file():
        download = known.filename
    arrays = (EMBEDDING, *options.extra)
    views = [View(name) for name in options.views]
    there = _encoded(path, (*arrays, *(view.array for view in views)))
    pending = sum(sample.id not in there for sample in dataset.samples)
    architecture, seconds = known.architecture if download else None, None
    if architecture is None:
        architecture, per_image = _timed(path, options, arrays) if pending else (_architecture(options), 0.0)
        seconds = per_image * pending * (1 + len(views)) if pending else None
    dtype = dtype_of(options, path)
    features = (*arrays, *(EMBEDDING for _ in views))
    specs = [_spec(feature_shape(name, architecture), dtype) for name in features]
    item_bytes = sum(spec.item_bytes for spec in specs)
    return Estimate(
        dataset.task, len(dataset.samples), pending, item_bytes * pending, seconds, download, str(path)
    )


def _spec(shape: tuple[int, ...], dtype: str) -> ArraySpec:
    return ArraySpec(shape, np.dtype(stored_dtype(shape, dtype)))


def _encoded(path: Path, arrays: Sequence[str]) -> set[str]:
    """Ids of the items that have all of `arrays`."""
    if not path.exists():
        return set()
    store = EmbeddingStore.open(path)
    if any(name not in store.arrays for name in arrays):
        return set()
    committed = np.logical_and.reduce([store.committed(name) for name in arrays])
    return {name for name, done in zip(store.ids, committed, strict=True) if done}


def _architecture(options: EncodeOptions) -> Architecture:
    return load_backbone(options.model, options.checkpoint).architecture


def _timed(path: Path, options: EncodeOptions, arrays: Sequence[str]) -> tuple[Architecture, float]:
    """Dimensions, and seconds an image of one pass after a first one that does not count."""
    backbone = load_backbone(options.model, options.checkpoint, device=choose_devices(options.device)[0])
    architecture = backbone.architecture
    if (path / ROOT).exists():
        encoder = encoder_of(path, backbone)
    else:
        encoder = FrozenEncoder(
            backbone, precision_of(options, path, backbone.device), compiled=options.compiled
        )
    count, side = batch_size_of(options, [encoder]), architecture.image_size
    batch = torch.zeros((count, 3, side, side), dtype=torch.uint8)
    sizes = torch.full((count, 2), side)
    for _ in range(2):
        start = time.monotonic()
        for feature in encoder(batch, sizes, arrays).values():
            feature.cpu()
    return architecture, (time.monotonic() - start) / count
