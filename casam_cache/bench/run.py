"""Runs the missing stages of a plan: each once, parents first, in this process or through any executor.

An executor is anything with the interface of `concurrent.futures.Executor`: a pool of processes here, or a cluster's
(Ray, Dask and others offer one). What crosses it is plain JSON. Two processes that run plans on one runs folder share
the work: a stage that the other one computes now is left to it, and something else is done meanwhile.
"""

from __future__ import annotations

import heapq
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import Any

from casam_cache.bench.estimate import Rates
from casam_cache.bench.node import Node, run_nodes
from casam_cache.bench.stages import Runs
from casam_cache.errors import CasamError

TOGETHER = 128  # nodes of one group at once: bounds memory
RATES_SECONDS = 10.0  # between readings of what stages took
BUSY_SECONDS = 0.3  # before asking again for a stage that another process computes


@dataclass(frozen=True)
class PlanProgress:
    """Where a plan stands.

    Attributes:
        done, total: stages to compute, done ones included.
        finished: keys that were finished since the last report.
        running: labels of what is being computed.
        eta_seconds: until the end; None while nothing like it has been timed.
    """

    done: int
    total: int
    finished: tuple[str, ...]
    running: tuple[str, ...]
    eta_seconds: float | None


@dataclass(frozen=True)
class Counts:
    """Stages of a plan.

    Attributes:
        distinct: all that the results are made from, each once.
        keys: of those that this call computed.
    """

    distinct: int
    keys: frozenset[str]

    @property
    def computed(self) -> int:
        """Stages that this call computed; the others were finished before, or by another process meanwhile."""
        return len(self.keys)


def missing(targets: Iterable[Node], runs: Runs) -> list[Node]:
    """What must be computed so that every target is finished, parents first.

    A stage that is finished needs no parents, even if those were deleted.
    """
    found: dict[str, Node] = {}
    seen: set[str] = set()

    def visit(node: Node) -> None:
        if node.key in seen:
            return
        seen.add(node.key)
        if runs.exists(node.stage):
            return
        for parent in node.parents.values():
            visit(parent)
        found[node.key] = node

    for node in targets:
        visit(node)
    return list(found.values())


def run_plan(
    nodes: Sequence[Node],
    targets: Sequence[Node],
    runs: Runs,
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    threads: int | None = 1,
    on_progress: Callable[[PlanProgress], None] | None = None,
    on_inner: Callable[[Any], None] | None = None,
) -> Counts:
    """Computes what is missing for `targets`.

    Every stage runs with one thread of torch unless told otherwise, so that its bits do not depend on `jobs`.

    Args:
        nodes: every stage of the plan, for the counts.
        targets: those whose results are wanted.
        runs: where stages are kept.
        jobs: processes; 1 is this one.
        executor: instead of `jobs`.
        threads: of torch for a stage, wherever it runs; None leaves them as they are.
        on_progress: called whenever stages finish.
        on_inner: progress within a stage; only in this process.

    Raises:
        CasamError: a stage failed; what is finished stays.
    """
    runs.sweep()
    todo = missing(targets, runs)
    state = _Schedule(todo, runs)
    distinct = len({node.key for node in nodes})
    computed: set[str] = set()
    with _workers(jobs if len(todo) > 1 else 1, executor, threads) as pool:
        report = _Report(state, runs, pool.width, on_progress)
        report.show(())
        while not state.finished:
            while pool.free and (batch := state.take()):
                report.show(())
                pool.submit(runs, batch, on_inner)
            for batch, outcome in pool.wait(BUSY_SECONDS):
                done = [node for node, what in zip(batch, outcome, strict=True) if what != "busy"]
                computed |= {
                    node.key for node, what in zip(batch, outcome, strict=True) if what == "computed"
                }
                state.give_back([node for node, what in zip(batch, outcome, strict=True) if what == "busy"])
                state.complete(done)
                report.show(tuple(node.key for node in done))
            if not pool.busy and state.only_busy:
                time.sleep(BUSY_SECONDS)
    return Counts(distinct, frozenset(computed))


class _Schedule:
    """Which stages can start: those with the longest way behind them first."""

    def __init__(self, todo: Sequence[Node], runs: Runs) -> None:
        self.total = len(todo)
        self.left = {node.key: node for node in todo}
        self.running: dict[str, Node] = {}
        self._waits = {
            node.key: {parent.key for parent in node.parents.values()} & set(self.left) for node in todo
        }
        self._children: dict[str, list[str]] = {}
        for key, parents in self._waits.items():
            for parent in parents:
                self._children.setdefault(parent, []).append(key)
        self._height: dict[str, float] = {}
        for node in reversed(todo):  # children come after parents
            below = [self._height[child] for child in self._children.get(node.key, ())]
            self._height[node.key] = 1.0 + max(below, default=0.0)
        self._ready: list[tuple[float, int, str]] = []
        self._rank = {node.key: rank for rank, node in enumerate(todo)}
        self._later: list[tuple[float, Node]] = []
        for node in todo:
            if not self._waits[node.key]:
                self._push(node.key)

    @property
    def finished(self) -> bool:
        return not self.left

    @property
    def only_busy(self) -> bool:
        return bool(self._later) and not self._ready

    def take(self) -> list[Node]:
        """The next stage, or all startable ones of its group; empty if there is none now."""
        now = time.monotonic()
        due = [node for when, node in self._later if when <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for node in due:
            self._push(node.key)
        if not self._ready:
            return []
        first = self.left[heapq.heappop(self._ready)[2]]
        batch = [first]
        if first.together:
            same = [entry for entry in sorted(self._ready) if self.left[entry[2]].together == first.together]
            batch += [self.left[entry[2]] for entry in same[: min(first.at_most or TOGETHER, TOGETHER) - 1]]
            taken = {node.key for node in batch}
            self._ready = [entry for entry in self._ready if entry[2] not in taken]
            heapq.heapify(self._ready)
        self.running.update({node.key: node for node in batch})
        return batch

    def give_back(self, busy: Sequence[Node]) -> None:
        """Another process is at these: ask again later."""
        for node in busy:
            self.running.pop(node.key)
            self._later.append((time.monotonic() + BUSY_SECONDS, node))

    def complete(self, done: Sequence[Node]) -> None:
        """These are finished: what waited for them may start."""
        for node in done:
            self.running.pop(node.key)
            del self.left[node.key]
            for child in self._children.get(node.key, ()):
                self._waits[child].discard(node.key)
                if not self._waits[child]:
                    self._push(child)

    def _push(self, key: str) -> None:
        heapq.heappush(self._ready, (-self._height[key], self._rank[key], key))


class _Report:
    """Progress with an estimate from what similar stages took."""

    def __init__(
        self,
        state: _Schedule,
        runs: Runs,
        width: int,
        on_progress: Callable[[PlanProgress], None] | None,
    ) -> None:
        self._state, self._runs, self._width, self._tell = state, runs, width, on_progress
        self._total = state.total
        self._rates, self._read = Rates({}), -math.inf

    def show(self, finished: tuple[str, ...]) -> None:
        if self._tell is None:
            return
        if time.monotonic() - self._read > RATES_SECONDS:
            kinds = {node.kind for node in self._state.left.values()}
            self._rates, self._read = Rates.read(self._runs, kinds), time.monotonic()
        state = self._state
        seconds = self._rates.seconds(state.left.values())
        self._tell(
            PlanProgress(
                done=self._total - len(state.left),
                total=self._total,
                finished=finished,
                running=tuple(node.label for node in state.running.values()),
                eta_seconds=None if seconds is None else seconds / self._width,
            )
        )


class _Inline:
    """This process as a pool of one."""

    width = 1

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._done: list[tuple[list[Node], list[str]]] = []

    @property
    def free(self) -> bool:
        return not self._done

    @property
    def busy(self) -> bool:
        return False

    def submit(self, runs: Runs, batch: list[Node], on_inner: Callable[[Any], None] | None) -> None:
        payloads = [node.to_json() for node in batch]
        self._done.append((batch, run_nodes(str(runs.root), payloads, self._threads, on_inner)))

    def wait(self, seconds: float) -> list[tuple[list[Node], list[str]]]:
        done, self._done = self._done, []
        return done


class _Pool:
    """An executor, with at most as many batches in it as it has places."""

    def __init__(self, executor: Executor, width: int, threads: int | None) -> None:
        self._executor, self.width, self._threads = executor, width, threads
        self._running: dict[Future[list[str]], list[Node]] = {}

    @property
    def free(self) -> bool:
        return len(self._running) < self.width

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def submit(self, runs: Runs, batch: list[Node], on_inner: Callable[[Any], None] | None) -> None:
        payloads = [node.to_json() for node in batch]
        root = str(runs.root.resolve())
        with _interrupts_held():
            future = self._executor.submit(run_nodes, root, payloads, self._threads)
        self._running[future] = batch

    def wait(self, seconds: float) -> list[tuple[list[Node], list[str]]]:
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        try:
            return [(self._running.pop(future), future.result()) for future in done]
        except BrokenExecutor as error:
            raise CasamError(
                f"a worker process ended before its stage did: {error}",
                "perhaps memory was short: fewer --jobs; the same command goes on from here",
            ) from error


@contextmanager
def _workers(jobs: int, executor: Executor | None, threads: int | None) -> Iterator[_Inline | _Pool]:
    if executor is not None:
        yield _Pool(executor, jobs, threads)
        return
    if jobs == 1:
        yield _Inline(threads)
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),))
    try:
        yield _Pool(pool, jobs, threads)
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
