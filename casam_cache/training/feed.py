"""The tensors of each step of an epoch: embeddings, prompt embeddings, targets and weights, on the device.

What does not depend on the trained weights is computed for a whole epoch at once (prompt embeddings) or for a
whole fit (targets), so that a step launches the head, the decoder and the loss and hardly anything else.

Embeddings wait between steps on the device, in host memory, or in the store; the numbers are the same. An epoch reads
every embedding once, 2 MiB each at ViT size; a GPU trains on thousands a second, faster than disks read. So they stay
on the device when they fit, else in host memory, and are streamed last, with a thread that reads ahead while the device
computes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import BOX_FIRST, BOX_SECOND, FOREGROUND, NOT_A_POINT, Prompts
from casam_cache.heads.base import Head
from casam_cache.training.augmentation import change_masks, change_pixels
from casam_cache.training.epochs import TrainingMasks, VisitBatch
from casam_cache.training.items import EMBEDDING, Items
from casam_cache.training.pixels import INPUT_SIZE, PIXELS
from casam_cache.training.step import Pairs

Residency = Literal["auto", "device", "host", "stream"]
SHARE = 0.5  # of the free memory that embeddings may take; activations and the system need the rest
READ_AHEAD = 3  # batches


class Feed:
    """Turns the batches of an epoch into tensors.

    Args:
        masks: of all items, prepared.
        features: of the items that have masks, by name, the embedding among them.
        backbone: whose prompt encoder embeds the prompts, on the device of training.
        head: that embeds them in another way; None is the backbone's.
    """

    def __init__(
        self,
        masks: TrainingMasks,
        features: Mapping[str, Embeddings],
        backbone: Backbone,
        head: Head | None = None,
    ) -> None:
        self._masks, self._features, self._backbone, self._head = masks, features, backbone, head
        device = backbone.device
        self._targets = torch.from_numpy(masks.targets).to(device)
        self._row_cover = torch.from_numpy(masks.row_cover).to(device)
        self._column_cover = torch.from_numpy(masks.column_cover).to(device)
        self._counted = torch.from_numpy(masks.counted).to(device)
        self._counted_of = torch.from_numpy(masks.counted_of).to(device)
        self._bits = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)

    def epoch(self, batches: Sequence[VisitBatch]) -> Iterator[Pairs]:
        device = self._backbone.device
        is_box = torch.from_numpy(np.concatenate([batch.is_box for batch in batches]))
        corners = torch.from_numpy(np.concatenate([batch.coordinates for batch in batches]))
        prompts = pack_prompts(is_box, corners).to(device)
        with torch.no_grad():
            if self._head is None:
                sparse, dense = self._backbone.embed_prompts(prompts)
            else:
                classes = self._masks.classes[np.concatenate([batch.masks for batch in batches])]
                sparse, dense = self._head.embed_prompts(
                    self._backbone, prompts, torch.from_numpy(classes).to(device)
                )
        sizes = [len(batch.masks) for batch in batches]
        joined = [
            np.concatenate([batch.masks for batch in batches]),
            np.concatenate([batch.image for batch in batches]),
            np.concatenate([np.array(batch.items, dtype=np.int64)[batch.image] for batch in batches]),
        ]
        rows, images, owners = (torch.from_numpy(one).to(device).split(sizes) for one in joined)
        images_of = [batch.items for batch in batches]
        read = zip(*(feature.batches(images_of) for feature in self._features.values()), strict=True)
        steps = zip(batches, read, sparse.split(sizes), dense.split(sizes), rows, images, owners, strict=True)
        for batch, found, own_sparse, own_dense, own_rows, image, owner in steps:
            features = dict(zip(self._features, found, strict=True))
            target, weight = self._unpack(self._targets.index_select(0, own_rows)), self._weight(owner)
            if batch.changes:
                pixels, shown = features[PIXELS], features[INPUT_SIZE]
                changes = [batch.changes[own] for own in batch.image]
                target, weight = change_masks(target, weight, shown[image], pixels.shape[-1], changes)
                features[PIXELS] = change_pixels(pixels, shown, batch.changes)
            yield Pairs(
                items=tuple(self._masks.items[index] for index in batch.items),
                features=features,
                image_index=None if len(batch.masks) == len(batch.items) else image,
                sparse=own_sparse,
                dense=own_dense,
                target=target,
                weight=weight,
                is_box=batch.is_box,
                coordinates=batch.coordinates,
            )

    def _unpack(self, packed: torch.Tensor) -> torch.Tensor:
        side = self._masks.row_cover.shape[1]
        bits = ((packed[:, :, None] >> self._bits) & 1).flatten(1)
        return bits[:, : side * side].view(-1, side, side).bool()

    def _weight(self, owner: torch.Tensor) -> torch.Tensor:
        rows, columns = self._row_cover.index_select(0, owner), self._column_cover.index_select(0, owner)
        weight = rows[:, :, None] * columns[:, None, :]
        if len(self._counted):
            weight = weight * self._counted.index_select(0, self._counted_of.index_select(0, owner)).float()
        return weight


def pack_prompts(is_box: torch.Tensor, coordinates: torch.Tensor) -> Prompts:
    """Boxes and single points in one batch: both are two tokens to SAM, which pads a lone point.

    Args:
        is_box: bool (P,).
        coordinates: float32 (P, 4), input pixels: x0, y0, x1, y1, or a point's x, y in the first two.
    """
    tokens = coordinates.reshape(-1, 2, 2).clone()
    tokens[~is_box, 1] = 0
    box, point = torch.tensor([BOX_FIRST, BOX_SECOND]), torch.tensor([FOREGROUND, NOT_A_POINT])
    labels = torch.where(is_box[:, None], box, point)
    return Prompts(points=tokens, labels=labels, packed=True)


class Embeddings:
    """One feature array of some items, batch by batch on the device.

    Args:
        items: of which some are trained on.
        indexes: which of them will be asked for.
        device: where batches are needed.
        residency: `device`, `host`, `stream`, or `auto` for the first of these that fits.
        memory_limit: bytes that may be taken on the device and on the host; None is half of what is free.
        name: which feature: the embedding unless given.
    """

    def __init__(
        self,
        items: Items,
        indexes: Sequence[int],
        device: torch.device,
        residency: Residency = "auto",
        memory_limit: int | None = None,
        name: str = EMBEDDING,
    ) -> None:
        self._items, self._name, self._device = items, name, device
        self._place = {index: place for place, index in enumerate(indexes)}
        first = items.feature(name, indexes[0])
        self.bytes = first.nbytes * len(indexes)
        self.residency = (
            choose_residency(self.bytes, device, memory_limit) if residency == "auto" else residency
        )
        self._all: torch.Tensor | None = None
        if self.residency != "stream":
            on = device if self.residency == "device" else torch.device("cpu")
            dtype = torch.from_numpy(first[:0].copy()).dtype
            self._all = torch.empty((len(indexes), *first.shape), dtype=dtype, device=on)
            for index, place in self._place.items():
                stored = items.feature(name, index)
                self._all[place].copy_(torch.from_numpy(stored.copy()))  # stores give read-only views

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """For each batch of item indexes in turn, float32 (B, ...) on the device."""
        kept = self._all
        if kept is None or kept.device.type != self._device.type:
            yield from self._ahead(batches)
            return
        order = torch.tensor([self._place[i] for batch in batches for i in batch], device=kept.device)
        for places in order.split([len(batch) for batch in batches]):
            yield kept.index_select(0, places).float()

    def _ahead(self, batches: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Reads a few batches ahead in a thread; on CUDA through pinned memory, so that copies overlap."""
        pinned = self._device.type == "cuda"

        def load(batch: Sequence[int]) -> torch.Tensor:
            if self._all is None:
                read = np.stack([self._items.feature(self._name, index) for index in batch])
                tensor = torch.from_numpy(read)
            else:
                tensor = self._all.index_select(0, torch.tensor([self._place[index] for index in batch]))
            return tensor.pin_memory() if pinned else tensor

        with ThreadPoolExecutor(1, "casam-embeddings") as reader:
            waiting = deque(reader.submit(load, batch) for batch in batches[:READ_AHEAD])
            try:
                for batch in (*batches[READ_AHEAD:], *[None] * len(waiting)):
                    ready = waiting.popleft().result()
                    if batch is not None:
                        waiting.append(reader.submit(load, batch))
                    yield ready.to(self._device, non_blocking=pinned).float()
            finally:
                reader.shutdown(cancel_futures=True)


def place_features(
    items: Items,
    indexes: Sequence[int],
    device: torch.device,
    names: Sequence[str],
    residency: Residency = "auto",
    memory_limit: int | None = None,
) -> dict[str, Embeddings]:
    """Several feature arrays by name, the first ones first where memory does not hold all of them."""
    placed: dict[str, Embeddings] = {}
    for name in names:
        kept: Residency = "stream" if name == PIXELS else residency  # no dataset's images are all held
        placed[name] = one = Embeddings(items, indexes, device, kept, memory_limit, name)
        if memory_limit is not None and one.residency != "stream":
            memory_limit = max(0, memory_limit - one.bytes)
    return placed


def choose_residency(needed: int, device: torch.device, memory_limit: int | None) -> Residency:
    """The first of `device`, `host`, `stream` whose memory holds `needed` bytes.

    On a CPU the device is the host, and `host` never comes up.
    """
    on_cuda = device.type == "cuda"
    if on_cuda and needed <= _limit(torch.cuda.mem_get_info(device)[0], memory_limit):
        return "device"
    fits = needed <= _limit(available_memory(), memory_limit)
    return "stream" if not fits else "host" if on_cuda else "device"


def _limit(free: int, memory_limit: int | None) -> int:
    return int(free * SHARE) if memory_limit is None else min(memory_limit, free)


def available_memory() -> int:
    """Bytes of host memory that can be taken without swapping, containers' limits respected."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (ValueError, OSError, AttributeError):
            free = 4 * 2**30  # a cautious guess where the system does not say
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max" is no number: no limit
        return max(0, min(free, limit - int((group / "memory.current").read_text())))
    except (OSError, ValueError):
        return free
