"""Decode, encode and write at the same time: each stage a bounded queue ahead of the next, the first error wins."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.encode.decode import Decoded, Preprocessing, decode, decoding_pool
from casam_cache.encode.looks import LooksFile, looks_path
from casam_cache.encode.team import EncoderTeam, Pending
from casam_cache.errors import CasamError, ImageError
from casam_cache.store import Batch
from casam_cache.store.shard_writer import ShardWriter

BATCHES_AHEAD = 3
_ADDING = threading.Lock()
ImageProgress = Callable[[int, int, str, float | None], None]
"""Called with (items done, items in all, note, items/s)."""


@dataclass
class Timing:
    """Seconds of a run by part; the largest shows which part limits.

    Attributes:
        decode: that the encoding thread waited for decoded images.
        encode: in the encoder, and waiting for what it launched on a GPU.
        write: in the writer, which works while the next batches are encoded.
        total: of it all.
    """

    decode: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    total: float = 0.0

    def to_json(self) -> dict[str, float]:
        """Seconds by name, rounded to 0.1 ms."""
        return {name: round(value, 4) for name, value in vars(self).items()}


@dataclass
class PipelineResult:
    """Items encoded by a run, one line for each that failed by its index, and where the time went."""

    encoded: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)

    def add(self, other: PipelineResult) -> None:
        """Puts what another pass did to it."""
        self.encoded += other.encoded
        self.failures.update(other.failures)
        for name, seconds in vars(other.timing).items():
            setattr(self.timing, name, getattr(self.timing, name) + seconds)


def run_pipeline(
    writer: ShardWriter,
    encoders: Sequence[FrozenEncoder],
    batches: Sequence[Batch],
    root: Path,
    names: Sequence[str | None] | Mapping[int, str | None],
    arrays: Sequence[str],
    preprocessing: Preprocessing,
    *,
    looks: LooksFile | None = None,
    workers: int = 0,
    strict: bool = False,
    progress: ImageProgress | None = None,
) -> PipelineResult:
    """Encodes `batches` and commits them.

    Args:
        writer: of the store; its batches are encoded whole, so that no item's bits depend on what was left to do.
        encoders: the same frozen encoder on each device that takes part.
        batches: from `writer.pending(arrays)`, in order.
        root: dataset folder.
        names: image of each item, relative to it, by the item's index; None where the dataset no longer has it.
        arrays: features to compute.
        preprocessing: from file to the encoder's input.
        looks: takes those of the images; by default the store's own file.
        workers: processes that decode; 0 is one background thread.
        strict: raise at the first bad image.
        progress: called with (items done, items in all, note, items/s).

    Raises:
        ImageError: with `strict`, for the first bad image.
        StoreError: from the writer, e.g. a full disk; what was committed stays.
    """
    result = PipelineResult()
    total = sum(len(batch) for batch in batches)
    start = time.monotonic()
    team = EncoderTeam(encoders)
    sink = _Sink(writer, arrays, result.timing, ahead=max(4, 2 * len(encoders)))
    pool = decoding_pool(workers)
    looks = looks or LooksFile(looks_path(writer.path))
    try:
        looks.open()
        done = 0
        for batch, decoded in _decoded(pool, batches, root, names, preprocessing, result.timing):
            for index, item in enumerate(decoded):
                if item.failure:
                    result.failures[batch.start + index] = item.failure
                    if strict:
                        raise ImageError(
                            item.failure, "without --strict it is recorded and the rest is encoded"
                        )
            with _clock(result.timing, "encode"):
                pending = _started(team, decoded, arrays, preprocessing.image_size)
            looks.add(batch.start, [item.sha256 for item in decoded], [item.look for item in decoded])
            sink.put(batch, pending)
            done += len(batch)
            result.encoded += sum(not item.failure for item in decoded)
            if progress is not None:
                progress(done, total, _limits(result.timing), done / (time.monotonic() - start))
        sink.finish()
    finally:
        looks.close()
        sink.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        result.timing.total = time.monotonic() - start
    return result


def _started(
    team: EncoderTeam, decoded: Sequence[Decoded], arrays: Sequence[str], image_size: int
) -> Pending:
    try:
        return team.start(decoded, arrays, image_size)
    except torch.cuda.OutOfMemoryError as error:
        raise CasamError(
            f"a planned batch of {len(decoded)} images does not fit into the GPU's memory",
            "free memory there, choose another --device, or begin another store with --name and a smaller --batch-size",
        ) from error


def _decoded(
    pool: Executor,
    batches: Sequence[Batch],
    root: Path,
    names: Sequence[str | None] | Mapping[int, str | None],
    preprocessing: Preprocessing,
    timing: Timing,
) -> Iterator[tuple[Batch, list[Decoded]]]:
    """Each batch with its decoded images, decoding `BATCHES_AHEAD` of them in the background."""
    waiting: deque[tuple[Batch, list[Future[Decoded]]]] = deque()
    coming = iter(batches)
    while True:
        while len(waiting) <= BATCHES_AHEAD and (batch := next(coming, None)) is not None:
            futures = [
                _submit(pool, root, names[item], preprocessing) for item in range(batch.start, batch.stop)
            ]
            waiting.append((batch, futures))
        if not waiting:
            return
        batch, futures = waiting.popleft()
        with _clock(timing, "decode"):
            decoded = [future.result() for future in futures]
        yield batch, decoded


def _submit(pool: Executor, root: Path, name: str | None, preprocessing: Preprocessing) -> Future[Decoded]:
    if name is not None:
        return pool.submit(decode, root, name, preprocessing)
    gone: Future[Decoded] = Future()
    gone.set_result(Decoded(bytes(32), failure="the dataset no longer has this image"))
    return gone


class _Sink:
    """Hands results to the writer in one background thread; its first error is raised where results are put."""

    def __init__(self, writer: ShardWriter, arrays: Sequence[str], timing: Timing, ahead: int) -> None:
        self._writer = writer
        self._arrays = tuple(arrays)
        self._timing = timing
        self._queue: queue.Queue[tuple[Batch, Pending] | None] = queue.Queue(maxsize=ahead)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def put(self, batch: Batch, pending: Pending) -> None:
        """Waits while the queue is full; raises the error that writing failed with."""
        self._raise()
        self._queue.put((batch, pending))

    def finish(self) -> None:
        """Waits until everything queued is written and committed."""
        self.stop()
        self._raise()
        with _clock(self._timing, "write"):
            self._writer.flush()

    def stop(self) -> None:
        """Ends the thread after what is queued; unlike `finish` it raises no error of it."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            if self._error is None:
                try:
                    batch, pending = entry
                    with _clock(self._timing, "encode"):
                        results = pending.results()
                    with _clock(self._timing, "write"):
                        self._writer.append(batch, results, self._arrays)
                except BaseException as error:  # handed to the thread that puts results
                    self._error = error


class _clock:
    """Adds the time inside a with block to one of a Timing's parts."""

    def __init__(self, timing: Timing, part: str) -> None:
        self._timing, self._part = timing, part

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: Any) -> None:
        elapsed = time.monotonic() - self._start
        with _ADDING:  # the encoding and the writing thread both count what they wait for the encoder
            setattr(self._timing, self._part, getattr(self._timing, self._part) + elapsed)


def _limits(timing: Timing) -> str:
    parts = {"decode": timing.decode, "encode": timing.encode, "write": timing.write}
    slowest = max(parts, key=lambda name: parts[name])
    return f"{slowest} limits"
