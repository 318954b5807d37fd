"""The shards of a planned store on many workers: each shard is one task, and the bytes are those of one process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from casam_cache.encode.choices import Choices, choose_there
from casam_cache.encode.decode import Preprocessing
from casam_cache.encode.looks import join_looks
from casam_cache.encode.one_shard import SEEN_WITHIN, ShardDone, ShardWork, encode_shard, metadata_of
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.passes import images_in, passes_of
from casam_cache.encode.pipeline import ImageProgress, PipelineResult
from casam_cache.errors import HeldError, StoreError
from casam_cache.references import absolute_reference, is_file_reference
from casam_cache.store import StoreWriter

LOOK_AGAIN = 1.0  # seconds between looks at what the workers have committed
Say = Callable[[str], None]


@dataclass(frozen=True)
class Workers:
    """Processes, here or elsewhere, that see datasets, stores and checkpoints under the paths of this one.

    Attributes:
        executor: hands out work like those of `concurrent.futures`; what it starts again after a worker's death goes
            on from the shard's last commit.
        width: how many there are.
    """

    executor: Executor
    width: int

    def choose(self, path: Path, options: EncodeOptions) -> Choices:
        """How a store is computed, as a worker's machine has it."""
        return self.executor.submit(choose_there, path.resolve(), _anywhere(options)).result()


def encode_shards(
    writer: StoreWriter,
    workers: Workers,
    root: Path,
    names: Sequence[str | None],
    preprocessing: Preprocessing,
    options: EncodeOptions,
    device: str,
    *,
    progress: ImageProgress | None = None,
    say: Say | None = None,
) -> PipelineResult:
    """Encodes what a planned store lacks, every shard by one worker at a time.

    Args:
        writer: of the store, whose lock keeps others away; the workers lock their shards.
        workers: who encode.
        root: dataset folder.
        names: image of each item of the store, relative to it; None where the dataset no longer has it.
        preprocessing: from file to the encoder's input.
        options: of the run.
        device: kind of device that every worker must have.
        progress: called with (images committed, images in all, note, images/s).
        say: called with a line for a person where something unusual is found.

    Returns:
        Failures by item; seconds of all workers together, but `total`, which is this run's.

    Raises:
        CasamError: the first that a worker met; what is committed stays, and other workers stop at their next batch.
    """
    run = _Run(writer, workers, options, say or (lambda line: None))
    metadata = metadata_of(writer.path)
    for shard in range(writer.meta.shards):
        if images := images_in(passes_of(writer, options, shard)):
            first, stop = writer.meta.shard_range(shard)
            run.left[shard] = images
            run.waiting.append(
                ShardWork(
                    writer.path.resolve(), metadata, shard, root.resolve(), tuple(names[first:stop]), preprocessing,
                    _anywhere(options), device,
                )
            )  # fmt: skip
    return run.all(progress)


def _anywhere(options: EncodeOptions) -> EncodeOptions:
    """The options with whole paths."""
    changed: dict[str, object] = {}
    if is_file_reference(options.model):
        changed["model"] = absolute_reference(options.model)
    if options.checkpoint is not None:
        changed["checkpoint"] = options.checkpoint.expanduser().resolve()
    return options.model_copy(update=changed)


class _Run:
    """What is waiting, what runs, and what is left to commit of each shard."""

    def __init__(self, writer: StoreWriter, workers: Workers, options: EncodeOptions, say: Say) -> None:
        self._writer, self._workers, self._options, self._say = writer, workers, options, say
        self.waiting: deque[ShardWork] = deque()
        self.left: dict[int, int] = {}
        self._running: dict[Future[ShardDone], ShardWork] = {}
        self._held: list[ShardWork] = []
        self._devices: set[str] = set()
        self._note = ""

    def all(self, progress: ImageProgress | None) -> PipelineResult:
        """Until nothing is left."""
        total, found = sum(self.left.values()), PipelineResult()
        began = time.monotonic()
        try:
            while self.waiting or self._running or self._held:
                self._hand_out()
                done, _ = wait(self._running, LOOK_AGAIN, return_when=FIRST_COMPLETED)
                for future in done:
                    self._take(future, found)
                if progress is not None:
                    for work in self._running.values():
                        self.left[work.shard] = self._missing(work.shard)
                    ready = total - sum(self.left.values())
                    note = self._note or f"{self._workers.width} workers"
                    progress(ready, total, note, ready / (time.monotonic() - began))
        except BaseException:
            for future in self._running:
                future.cancel()
            raise
        found.timing.total = time.monotonic() - began
        return found

    def _hand_out(self) -> None:
        """No more than keeps every worker busy: a run that ends early leaves little behind."""
        if not self.waiting and not self._running:  # nothing but what others hold
            time.sleep(LOOK_AGAIN)
            self.waiting.extend(self._held)
            self._held.clear()
        while self.waiting and len(self._running) < 2 * self._workers.width:
            work = self.waiting.popleft()
            self._running[self._workers.executor.submit(encode_shard, work)] = work

    def _take(self, future: Future[ShardDone], found: PipelineResult) -> None:
        work = self._running.pop(future)
        try:
            done = future.result()
        except HeldError as error:  # a worker that the scheduler lost, and that goes on
            self._note = error.message
            self._held.append(work)
            return
        self._note = ""
        found.add(done.result)
        self._await_commits(work.shard)
        join_looks(self._writer.path, work.shard)
        if self._devices and done.device not in self._devices:
            self._say(
                f"workers compute on {', '.join(sorted({*self._devices, done.device}))}: last bits may differ"
            )
        self._devices.add(done.device)

    def _missing(self, shard: int) -> int:
        self._writer.look_again(shard)
        return images_in(passes_of(self._writer, self._options, shard))

    def _await_commits(self, shard: int) -> None:
        until = time.monotonic() + SEEN_WITHIN
        while missing := self._missing(shard):
            if time.monotonic() > until:
                raise StoreError(
                    f"{self._writer.path}: {missing} images of shard {shard}, which a worker encoded, do not show here",
                    "--store must be on a disk that all machines share; the same command goes on from here",
                )
            time.sleep(LOOK_AGAIN / 4)
        self.left[shard] = 0
