"""`--dry-run`: what encoding would do and cost; nothing is written and nothing downloaded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_devices
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.registry import BACKBONES, load_backbone
from casam_cache.datasets import Dataset, Sample, read_dataset
from casam_cache.encode.begun import as_begun, recorded_attributes, say_what_changed
from casam_cache.encode.choices import batch_size_of, dtype_of, encoder_of, identity_of, precision_of
from casam_cache.encode.decode import Preprocessing, decode
from casam_cache.encode.one_shard import decoders
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.preprocessing import intensity_of, resize_of
from casam_cache.encode.store_name import check_store_name
from casam_cache.errors import unknown_name
from casam_cache.store import EmbeddingStore, store_path
from casam_cache.store.quantise import stored_dtype
from casam_cache.store.schema import EMBEDDING, ROOT, ArraySpec
from casam_cache.views import View

READ, LONG = 6, 2.0  # images that are decoded for an estimate; no further one after so many seconds


@dataclass(frozen=True)
class EncodeEstimate:
    """What `--dry-run` says of one task.

    Attributes:
        task: name of the dataset.
        images: usable images of the dataset.
        pending: images still to encode.
        store_bytes: bytes their features will take, without checksums and scales.
        seconds: estimated time from files to stored features: a pass of the encoder and the decoding of some of the
            images are timed on this machine; None if nothing is pending or the checkpoint is not here.
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
        """Its fields and the counts of a run's report, of which only `skipped` can be other than 0."""
        counts = {"encoded": 0, "skipped": self.images - self.pending, "failed": 0}
        return {**asdict(self), **counts, "dry_run": True}

    def describe(self) -> str:
        time = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        download = f", after downloading {self.download}" if self.download else ""
        size = f"{self.store_bytes / 2**20:,.1f} MiB"
        return f"{self.task}: {self.pending} of {self.images} images to encode, {size}{time}{download} -> {self.store}"


def estimate_task(
    root: Path, stores: Path, options: EncodeOptions, *, warn: Callable[[str], None] | None = None
) -> EncodeEstimate:
    """What encoding would do and cost; the encoder is timed here if its checkpoint is on this machine.

    `warn` is called with a line for a person where something unusual would be done.

    Raises:
        CasamError: the dataset, the store or the checkpoint cannot be used.
    """
    options = as_begun(root, stores, options, warn)
    dataset = read_dataset(root, options.dataset, reader=options.reader)
    if warn is not None:
        for note in dataset.notes:
            warn(f"{dataset.task}: {note}")
    path = store_path(stores, dataset.task, options.backbone_name)
    if warn is not None:
        say_what_changed(recorded_attributes(path), dataset, warn)
    fetch = BACKBONES.get(options.model).to_fetch(options.checkpoint)
    arrays = (EMBEDDING, *options.extra)
    views = [View(name) for name in options.views]
    there = _encoded(path, (*arrays, *(view.array for view in views)))
    missing = [sample for sample in dataset.samples if sample.id not in there]
    pending = len(missing)
    seconds = None
    if fetch is not None:
        shapes = fetch.features
    else:
        device = choose_devices(options.device)[0]
        backbone = load_backbone(options.model, options.checkpoint, device=device)
        if warn is not None:
            for note in backbone.notes:
                warn(note)
        check_store_name(path, backbone, options, warn)
        shapes = backbone.features()
        if pending:
            encoding = _per_image(path, backbone, options, arrays)
            decoding = _decoding(path, backbone, options, dataset, missing)
            seconds = _together(encoding, decoding, options, device) * pending * (1 + len(views))
    dtype = dtype_of(options, path)
    features = (*arrays, *(EMBEDDING for _ in views))
    for name in features:
        if name not in shapes:
            raise unknown_name(f"feature of {options.model}", name, list(shapes))
    item_bytes = sum(_spec(shapes[name], dtype).item_bytes for name in features)
    download = "" if fetch is None else fetch.filename
    return EncodeEstimate(
        dataset.task, len(dataset.samples), pending, item_bytes * pending, seconds, download, str(path)
    )


def _together(encoding: float, decoding: float, options: EncodeOptions, device: torch.device) -> float:
    """Seconds an image of `run_pipeline`, which decodes while it encodes.

    t = max(d / p, e + c), with p processes that decode, or one thread; c = d / cores where the encoder runs on the same
    cores, else 0.
    """
    processes = decoders(options, device.type)
    shared = decoding / (os.cpu_count() or 1) if device.type == "cpu" else 0.0
    return max(decoding / max(1, processes), encoding + shared)


def _decoding(
    path: Path, backbone: Backbone, options: EncodeOptions, dataset: Dataset, missing: Sequence[Sample]
) -> float:
    """Seconds an image from file to the encoder's input: the mean of some, spread over all, after one that warms up."""
    stated = identity_of(path)
    preprocessing = Preprocessing(
        backbone.image_size, backbone.patch_size, resize_of(backbone, options.resize, stated),
        intensity_of(options.intensity, stated), options.dataset.max_pixels, backbone.prepare, reader=dataset.reader,
    )  # fmt: skip
    decode(dataset.root, missing[0].source, preprocessing)
    start, read = time.monotonic(), 0
    for place in np.linspace(0, len(missing) - 1, min(READ, len(missing))).astype(int):
        decode(dataset.root, missing[place].source, preprocessing)
        read += 1
        if time.monotonic() - start > LONG:
            break
    return (time.monotonic() - start) / read


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


def _per_image(path: Path, backbone: Backbone, options: EncodeOptions, arrays: Sequence[str]) -> float:
    """Seconds an image of one pass after a first one that does not count."""
    if (path / ROOT).exists():
        encoder = encoder_of(path, backbone)
    else:
        precision = precision_of(options, path, backbone.device)
        encoder = FrozenEncoder(backbone, precision, compiled=options.compiled)
    count, side = batch_size_of(options, [encoder]), backbone.image_size
    batch = torch.zeros((count, 3, side, side), dtype=torch.uint8)
    sizes = torch.full((count, 2), side)
    for _ in range(2):
        start = time.monotonic()
        for feature in encoder(batch, sizes, arrays).values():
            feature.cpu()
    return (time.monotonic() - start) / count
