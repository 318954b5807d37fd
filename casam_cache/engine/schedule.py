"""Runs the missing stages of a plan: each once, parents first, in this process or through any executor.

Two processes that run plans on one runs folder share the work: a stage that the other one computes now is left to it,
and something else is done meanwhile.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from casam_cache.engine.code import other_modules
from casam_cache.engine.executors import workers
from casam_cache.engine.rates import Rates
from casam_cache.engine.runs import Changed, DamagedError, Record, Runs
from casam_cache.engine.stage import Stage, closure
from casam_cache.errors import CasamError

TOGETHER = 128  # stages of one group at once: bounds memory
RATES_SECONDS = 10.0  # between readings of what stages took
BUSY_SECONDS = 0.3  # before asking again for a stage that another process computes


class ChangedCodeError(CasamError):
    """A plan would reuse stages that other code computed, and nobody has said what to do about it."""


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


@dataclass
class Todo:
    """What a plan has to do.

    Attributes:
        stages: to compute, or to look at again once their parents were computed; parents first.
        damaged: what is wrong with stages that are there, one line each.
        outdated: stages that are there and were computed by other code, and the modules that differ.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    outdated: dict[str, tuple[Stage, list[str]]] = field(default_factory=dict)

    def refuse_outdated(self) -> None:
        """Raises the one message about stages that other code computed, if there are any.

        Raises:
            ChangedCodeError: there are.
        """
        if not self.outdated:
            return
        kinds = Counter(stage.kind for stage, _ in self.outdated.values())
        modules = sorted({name for _, names in self.outdated.values() for name in names})
        shown = ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
        raise ChangedCodeError(
            f"{sum(kinds.values())} finished stages were computed by other code than this"
            f" ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}); changed: {shown}",
            "--recompute computes them again; --keep uses them as they are, and the results say so",
        )


def look(targets: Sequence[Stage], runs: Runs, changed: Changed = "keep") -> Todo:
    """What must be computed so that every target is finished.

    A finished stage needs no parents, even if those were deleted. But where one of its ancestors is computed again, or
    has been since, the stage is looked at again: it is computed anew if the ancestor's files are other ones.
    """
    found = Todo()
    find = _Finder(runs)
    while True:  # until nothing more is found: what is computed again may have been passed by a child that was finished
        before = len(found.stages)
        _look_once(targets, find, changed, found)
        if len(found.stages) == before:
            break
    found.stages = {stage.key: stage for stage in closure(found.stages.values()) if stage.key in found.stages}
    return found


class _Finder:
    """`Runs.find`, asked once for each stage: a plan looks at one state of the folder, at each parent many times."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._known: dict[str, Record | DamagedError | None] = {}

    def __call__(self, stage: Stage) -> Record | None:
        if stage.key not in self._known:
            try:
                self._known[stage.key] = self.runs.find(stage)
            except DamagedError as error:
                self._known[stage.key] = error
        known = self._known[stage.key]
        if isinstance(known, DamagedError):
            raise known
        return known


def _look_once(targets: Sequence[Stage], find: _Finder, changed: Changed, found: Todo) -> None:
    seen: dict[tuple[str, bool], bool] = {}

    def visit(stage: Stage, needed: bool) -> bool:
        """Whether the stage is to be done."""
        known = seen.get((stage.key, needed))
        if known is not None:
            return known
        seen[stage.key, needed] = stage.key in found.stages
        if stage.key in found.stages:
            for parent in stage.parents:  # what of theirs was passed before may be to do by now
                visit(parent, True)
            return True
        try:
            record = find(stage)
        except DamagedError as error:
            record, needed = None, True  # its children may be finished: its facts are read again
            if (line := f"{error.message}; computed again") not in found.damaged:
                found.damaged.append(line)
        again = False
        if record is not None:
            looked = [visit(parent, False) for parent in stage.parents]  # each of them
            again = any(looked) or find.runs.parents_changed(stage, record, find)
            if other := other_modules(record.code):
                found.outdated[stage.key] = (stage, other)
                again = again or changed == "recompute"
        if again or (record is None and needed):
            for parent in stage.parents:
                visit(parent, True)
            found.stages[stage.key] = stage
        seen[stage.key, needed] = stage.key in found.stages
        return seen[stage.key, needed]

    for stage in targets:
        visit(stage, True)


def run_plan(
    targets: Sequence[Stage],
    runs: Runs,
    place: Any,
    *,
    changed: Changed = "stop",
    jobs: int = 1,
    executor: Executor | None = None,
    threads: int | None = 1,
    on_progress: Callable[[PlanProgress], None] | None = None,
    on_inner: Callable[[Any], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> frozenset[str]:
    """Computes what is missing for `targets`.

    Every stage runs with one thread of torch unless told otherwise, so that its bits do not depend on `jobs`.

    Args:
        targets: stages whose results are wanted.
        runs: where stages are kept.
        place: handed to every stage; says where inputs lie and where to compute.
        changed: what to do about stages that other code computed: `stop` refuses them, `recompute`, or `keep`.
        jobs: processes; 1 is this one.
        executor: anything with the interface of `concurrent.futures.Executor`, instead of `jobs`.
        threads: of torch for a stage, wherever it runs; None leaves them as they are.
        on_progress: called whenever stages finish.
        on_inner: progress within a stage; only in this process.
        say: takes lines for a person: stages that were damaged, checkpoints that were dropped.

    Returns:
        The keys of the stages that this call computed.

    Raises:
        ChangedCodeError: stages of other code would be reused, with `stop`.
        CasamError: a stage failed; what is finished stays.
    """
    runs.sweep()
    todo = look(targets, runs, changed)
    if changed == "stop":
        todo.refuse_outdated()
    told = say or (lambda line: None)
    for line in todo.damaged:
        told(line)
    state = _Schedule(list(todo.stages.values()))
    computed: set[str] = set()
    with workers(jobs if len(todo.stages) > 1 else 1, executor, threads) as pool:
        report = _Report(state, runs, pool.width, on_progress)
        report.show(())
        while not state.finished:
            while pool.free and (batch := state.take()):
                report.show(())
                pool.submit(runs, batch, place, changed, on_inner)
            for batch, states, lines in pool.wait(BUSY_SECONDS):
                for line in lines:
                    told(line)
                outcome = list(zip(batch, states, strict=True))
                computed |= {stage.key for stage, what in outcome if what == "computed"}
                done = [stage for stage, what in outcome if what != "busy"]
                state.give_back([stage for stage, what in outcome if what == "busy"])
                state.complete(done)
                report.show(tuple(stage.key for stage in done))
            if not pool.busy and state.only_busy:
                time.sleep(BUSY_SECONDS)
    return frozenset(computed)


class _Schedule:
    """Which stages can start: one of each kind and pace, so that how long all take is known early and what fails
    fails early; then those with the longest way behind them first.
    """

    def __init__(self, todo: Sequence[Stage]) -> None:
        self.total = len(todo)
        self.left = {stage.key: stage for stage in todo}
        self.running: dict[str, Stage] = {}
        self._waits = {
            stage.key: {parent.key for parent in stage.parents if parent.key in self.left} for stage in todo
        }
        self._children: dict[str, list[str]] = {}
        for key, parents in self._waits.items():
            for parent in parents:
                self._children.setdefault(parent, []).append(key)
        self._height: dict[str, float] = {}
        for stage in reversed(todo):  # children come after parents
            below = [self._height[child] for child in self._children.get(stage.key, ())]
            self._height[stage.key] = 1.0 + max(below, default=0.0)
        self._ready: list[tuple[float, int, str]] = []
        self._probes: list[tuple[float, int, str]] = []
        self._paces: set[tuple[str, str]] = set()
        self._rank = {stage.key: rank for rank, stage in enumerate(todo)}
        self._later: list[tuple[float, Stage]] = []
        for stage in sorted(todo, key=lambda stage: -self._height[stage.key]):
            if not self._waits[stage.key]:
                self._push(stage.key)

    @property
    def finished(self) -> bool:
        return not self.left

    @property
    def only_busy(self) -> bool:
        return bool(self._later) and not (self._ready or self._probes)

    def take(self) -> list[Stage]:
        """The next stage, or all startable ones of its group; empty if there is none now."""
        now = time.monotonic()
        due = [stage for when, stage in self._later if when <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for stage in due:
            self._push(stage.key)
        if not (self._ready or self._probes):
            return []
        first = self.left[heapq.heappop(self._probes or self._ready)[2]]
        batch = [first]
        if first.group:
            same = [entry for entry in sorted(self._ready) if self.left[entry[2]].group == first.group]
            batch += [self.left[entry[2]] for entry in same[: TOGETHER - 1]]
            taken = {stage.key for stage in batch}
            self._ready = [entry for entry in self._ready if entry[2] not in taken]
            heapq.heapify(self._ready)
        self.running.update({stage.key: stage for stage in batch})
        return batch

    def give_back(self, busy: Sequence[Stage]) -> None:
        """Another process is at these: ask again later."""
        for stage in busy:
            self.running.pop(stage.key)
            self._later.append((time.monotonic() + BUSY_SECONDS, stage))

    def complete(self, done: Sequence[Stage]) -> None:
        """These are finished: what waited for them may start."""
        for stage in done:
            self.running.pop(stage.key)
            del self.left[stage.key]
            for child in self._children.get(stage.key, ()):
                self._waits[child].discard(stage.key)
                if not self._waits[child]:
                    self._push(child)

    def _push(self, key: str) -> None:
        stage = self.left[key]
        known = (stage.kind, stage.pace) in self._paces
        self._paces.add((stage.kind, stage.pace))
        heapq.heappush(self._ready if known else self._probes, (-self._height[key], self._rank[key], key))


class _Report:
    """Progress with an estimate from what similar stages took."""

    def __init__(
        self, state: _Schedule, runs: Runs, width: int, on_progress: Callable[[PlanProgress], None] | None
    ) -> None:
        self._state, self._runs, self._width, self._tell = state, runs, width, on_progress
        self._rates, self._read = Rates({}), -math.inf
        self._seconds: float | None = None
        self._estimated = -math.inf

    def show(self, finished: tuple[str, ...]) -> None:
        if self._tell is None:
            return
        state, now = self._state, time.monotonic()
        if now - self._estimated > BUSY_SECONDS or state.finished:  # it is a sum over everything that is left
            if now - self._read > RATES_SECONDS:
                kinds = {stage.kind for stage in state.left.values()}
                self._rates, self._read = Rates.read(self._runs, kinds), now
            self._seconds, self._estimated = self._rates.seconds(state.left.values()), now
        seconds = self._seconds
        self._tell(
            PlanProgress(
                state.total - len(state.left),
                state.total,
                finished,
                tuple(stage.label for stage in state.running.values()),
                None if seconds is None else seconds / self._width,
            )
        )
