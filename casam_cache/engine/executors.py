"""Where stages run: this process, processes here, or any executor like those of `concurrent.futures`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.stage import Stage, Work
from casam_cache.errors import CasamError

Outcome = tuple[list[str], list[str]]  # of each stage computed, found or busy; lines for a person


def run_stages(
    root: str,
    stages: list[Stage],
    place: Any,
    changed: Changed = "keep",
    threads: int | None = 1,
    progress: Callable[[Any], None] | None = None,
) -> Outcome:
    """Computes stages of one kind, each unless it is there; what every executor is given.

    Args:
        root: the runs folder.
        stages: their parents are finished; more than one only of one group.
        place: handed to every stage; its `prepare()`, where it has one, is called first.
        changed: what to do about a stage that other code computed.
        threads: of torch meanwhile; None leaves them as they are.
        progress: handed on to the stages; only within one process.

    Returns:
        For each `computed`, `found`, or `busy` when another process is computing it now; and lines to show.
    """
    if hasattr(place, "prepare"):
        place.prepare()
    runs, lines, states = Runs(Path(root)), list[str](), list[str]()
    with ExitStack() as stack, _torch_threads(threads) as count:
        claimed = []
        for stage in stages:
            claim = stack.enter_context(runs.claim(stage, changed=changed, wait=False, say=lines.append))
            if claim is None:
                states.append("found" if runs.valid(stage, changed) else "busy")
                continue
            states.append("computed")
            work = Work(runs, place, claim.result, claim.checkpoints, progress, lines.append)
            claimed.append((stage, claim, work))
        if claimed:
            began = time.monotonic()
            works = [work for _, _, work in claimed]
            facts = type(claimed[0][0]).compute_together([stage for stage, _, _ in claimed], works)
            share = round((time.monotonic() - began) / len(works), 3)  # many may have run as one
            for (stage, claim, work), own in zip(claimed, facts, strict=True):
                about = {
                    "cost": stage.cost,
                    "pace": stage.pace,
                    "threads": count,
                    "seconds": share,
                    "device": str(place.device),
                }
                claim.finish({**own, **about}, work)
    return states, lines


@contextmanager
def _torch_threads(count: int | None) -> Iterator[int]:
    """In any executor's process or thread, not only in those that the bench starts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


class _Inline:
    """This process as a pool of one."""

    width = 1

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._done: list[tuple[list[Stage], list[str], list[str]]] = []

    @property
    def free(self) -> bool:
        return not self._done

    @property
    def busy(self) -> bool:
        return False

    def submit(
        self,
        runs: Runs,
        batch: list[Stage],
        place: Any,
        changed: Changed,
        on_inner: Callable[[Any], None] | None,
    ) -> None:
        states, lines = run_stages(str(runs.root), batch, place, changed, self._threads, on_inner)
        self._done.append((batch, states, lines))

    def wait(self, seconds: float) -> list[tuple[list[Stage], list[str], list[str]]]:
        done, self._done = self._done, []
        return done


class _Pool:
    """An executor, never given more than it has places for, so that what is urgent is chosen late."""

    def __init__(self, executor: Executor, width: int, threads: int | None) -> None:
        self._executor, self.width, self._threads = executor, width, threads
        self._running: dict[Future[Outcome], list[Stage]] = {}

    @property
    def free(self) -> bool:
        return len(self._running) < self.width

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def submit(
        self,
        runs: Runs,
        batch: list[Stage],
        place: Any,
        changed: Changed,
        on_inner: Callable[[Any], None] | None,
    ) -> None:
        root = str(runs.root.resolve())
        with _broken_said(), _interrupts_held():
            future = self._executor.submit(run_stages, root, batch, place, changed, self._threads)
        self._running[future] = batch

    def wait(self, seconds: float) -> list[tuple[list[Stage], list[str], list[str]]]:
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        with _broken_said():
            return [(self._running.pop(future), *future.result()) for future in done]


@contextmanager
def _broken_said() -> Iterator[None]:
    """A worker may die while a stage waits, or before the next one is handed over."""
    try:
        yield
    except BrokenExecutor as error:
        raise CasamError(
            f"a worker process ended before its stage did: {error}",
            "perhaps memory was short: fewer --jobs; the same command goes on from here",
        ) from error


@contextmanager
def workers(jobs: int, executor: Executor | None, threads: int | None) -> Iterator[_Inline | _Pool]:
    """The executor given, or `jobs` processes here, or this one; where work is cut short, processes end at once."""
    if executor is not None:
        yield _Pool(executor, jobs, threads)
        return
    if jobs == 1:
        yield _Inline(threads)
        return
    with own_processes(jobs) as pool:
        yield _Pool(pool, jobs, threads)


@contextmanager
def own_processes(jobs: int) -> Iterator[Executor]:
    """Processes here, for one plan or for many; where work is cut short, they end at once."""
    others = set(active_children())
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        # What they were at is repeated from its last checkpoint; waiting for it could take hours.
        for child in set(active_children()) - others:
            child.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in this block never see Ctrl-C, not even before their first line runs; ours comes after it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int) -> None:
    """Ctrl-C is the parent's business, and no worker outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="casam-parent-watch").start()


def default_jobs(device: str) -> int:
    """Processes that use a machine well: one a core on a CPU, one on a GPU."""
    if not device.startswith("cpu"):
        return 1
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
