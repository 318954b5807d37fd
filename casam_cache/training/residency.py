"""Where embeddings wait between steps: on the device, in host memory, or in the store; same numbers.

An epoch reads every embedding once, 2 MiB each at ViT size; a GPU trains on thousands a second, faster than
disks read. So they stay on the device when they fit, else in host memory, and are streamed last, with a
thread that reads ahead while the device computes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from casam_cache.training.items import EMBEDDING, Items

Residency = Literal["auto", "device", "host", "stream"]
SHARE = 0.5  # of the free memory that embeddings may take; activations and the system need the rest
READ_AHEAD = 2  # batches


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
        self._items = items
        self._name = name
        self._device = device
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
        if kept is None:
            yield from self._ahead(batches, self._read)
        elif kept.device.type == self._device.type:
            order = torch.tensor([self._place[i] for batch in batches for i in batch], device=kept.device)
            for places in order.split([len(batch) for batch in batches]):
                yield kept.index_select(0, places).float()
        else:
            yield from self._ahead(batches, self._gather)

    def _read(self, batch: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self._items.feature(self._name, index) for index in batch]))

    def _gather(self, batch: Sequence[int]) -> torch.Tensor:
        assert self._all is not None
        return self._all.index_select(0, torch.tensor([self._place[index] for index in batch]))

    def _ahead(
        self, batches: Sequence[Sequence[int]], read: Callable[[Sequence[int]], torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Reads a few batches ahead in a thread; on CUDA through pinned memory, so that copies overlap."""
        pinned = self._device.type == "cuda"
        ready: queue.Queue[torch.Tensor | BaseException] = queue.Queue(maxsize=READ_AHEAD)
        stopped = threading.Event()

        def put(entry: torch.Tensor | BaseException) -> None:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(entry, timeout=0.1)
                    return

        def work() -> None:
            try:
                for batch in batches:
                    if stopped.is_set():
                        return
                    tensor = read(batch)
                    put(tensor.pin_memory() if pinned else tensor)
            except BaseException as error:  # whatever it is belongs to the thread that asked
                put(error)

        reader = threading.Thread(target=work, name="casam-embeddings", daemon=True)
        reader.start()
        try:
            for _ in batches:
                entry = ready.get()
                if isinstance(entry, BaseException):
                    raise entry
                yield entry.to(self._device, non_blocking=pinned).float()
        finally:
            stopped.set()
            reader.join()


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
        placed[name] = one = Embeddings(items, indexes, device, residency, memory_limit, name)
        if memory_limit is not None and one.residency != "stream":
            memory_limit = max(0, memory_limit - one.bytes)
    return placed


def choose_residency(needed: int, device: torch.device, memory_limit: int | None) -> Residency:
    """The first of `device`, `host`, `stream` whose memory holds `needed` bytes.

    On a CPU the device is the host, and `host` never comes up.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if needed <= _limit(free, memory_limit):
            return "device"
        return "host" if needed <= _limit(available_memory(), memory_limit) else "stream"
    return "device" if needed <= _limit(available_memory(), memory_limit) else "stream"


def _limit(free: int, memory_limit: int | None) -> int:
    return int(free * SHARE) if memory_limit is None else min(memory_limit, free)


def available_memory() -> int:
    """Bytes of host memory that can be taken without swapping, containers' limits respected."""
    free = _meminfo_available()
    if free is None:
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (ValueError, OSError, AttributeError):
            free = 4 * 2**30  # a cautious guess where the system does not say
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def _meminfo_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
