"""The scheduler on random graphs: every stage once, parents first, and finished stages need no parents."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_cache.engine.runs import RECORD, Record, Runs
from casam_cache.engine.schedule import TOGETHER, ChangedCodeError, PlanProgress, _Schedule, look, run_plan
from casam_cache.engine.stage import Stage, Work, beside, closure
from casam_cache.errors import CasamError

SUM = "sum.json"


@dataclass(frozen=True)
class Here:
    """As little of a place as the engine asks for."""

    device: str = "cpu"


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Stage):
    """Its result is its number and the results of its parents; stages of one group are computed together."""

    kind: ClassVar[str] = "sum"

    number: int
    terms: tuple[Add, ...] = ()
    together: str | None = beside(None)

    @property
    def group(self) -> str | None:
        return self.together

    @property
    def label(self) -> str:
        return f"sum {self.number}"

    def compute(self, work: Work) -> dict[str, Any]:
        total = self.number + sum(term.read(work.runs) for term in self.terms)
        (work.result / SUM).write_text(json.dumps(total))
        return {}

    @classmethod
    def compute_together(cls, stages: Sequence[Add], works: Sequence[Work]) -> list[dict[str, Any]]:
        assert len(stages) <= TOGETHER
        assert len({stage.group for stage in stages}) == 1
        assert len(stages) == 1 or stages[0].group
        return super().compute_together(stages, works)

    def read(self, runs: Runs) -> int:
        return int(json.loads((runs.open(self) / SUM).read_text()))


@st.composite
def graphs(draw: st.DrawFn) -> list[Add]:
    """Up to 14 stages, each with any of the earlier ones as parents; some in groups that run together."""
    stages: list[Add] = []
    for number in range(draw(st.integers(1, 14))):
        chosen = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        group = draw(st.sampled_from([None, None, "a", "b"]))
        terms = tuple(stages[place] for place in sorted(chosen))
        stages.append(Add(number=number, terms=terms, together=group, cost=draw(st.floats(0, 9))))
    return stages


@contextmanager
def folder() -> Iterator[Runs]:
    """Hypothesis runs many examples in one test: each has runs of its own."""
    root = Path(tempfile.mkdtemp())
    try:
        yield Runs(root)
    finally:
        shutil.rmtree(root)


def commit(runs: Runs, stage: Add, value: int | None = None) -> None:
    """As if the stage were finished, with its number, or with what other code made of it; its parents likewise."""
    parents = {parent.name: _record(parent, {}).content for parent in stage.terms}
    runs.folder(stage).mkdir(parents=True)
    (runs.folder(stage) / SUM).write_text(str(stage.number if value is None else value))
    (runs.folder(stage) / RECORD).write_text(json.dumps(_record(stage, parents, value).to_json()))


def _record(stage: Add, parents: dict[str, str], value: int | None = None) -> Record:
    text = str(stage.number if value is None else value)
    files = {SUM: hashlib.sha256(text.encode()).hexdigest()}
    return Record(stage.kind, stage.key, stage.revision, stage.inputs, parents, {}, files, {})


def ancestors(stage: Stage) -> set[str]:
    return {found.key for found in closure([stage])} - {stage.key}


def expected(targets: Sequence[Stage], finished: set[str]) -> set[str]:
    """What is missing and needed; and every finished stage in use with an ancestor among these."""
    todo: set[str] = set()
    while True:
        before = set(todo)
        waiting, needed = [(stage, True) for stage in targets], set[tuple[str, bool]]()
        while waiting:
            stage, wanted = waiting.pop()
            if (stage.key, wanted) in needed:
                continue
            needed.add((stage.key, wanted))
            there = stage.key in finished
            if there and any(parent.key in todo for parent in stage.parents):
                todo.add(stage.key)
            if not there and wanted:
                todo.add(stage.key)
            if there or wanted:
                waiting += [(parent, stage.key in todo) for parent in stage.parents]
        if todo == before:
            return todo


@settings(deadline=None, max_examples=200)
@given(stages=graphs(), data=st.data())
def test_what_is_to_do_is_what_the_targets_need(stages: list[Add], data: st.DataObject) -> None:
    """A finished stage needs no parents; but if one is computed again, the stage is looked at once more."""
    done = data.draw(st.sets(st.sampled_from(range(len(stages)))))
    wanted = data.draw(st.sets(st.sampled_from(range(len(stages))), min_size=1))
    targets = [stages[place] for place in sorted(wanted)]
    with folder() as runs:
        for place in done:
            commit(runs, stages[place])
        todo = list(look(targets, runs).stages.values())
    keys = [stage.key for stage in todo]
    finished = {stages[place].key for place in done}
    assert set(keys) == expected(targets, finished)
    assert len(keys) == len(set(keys))
    for place, stage in enumerate(todo):
        assert {parent.key for parent in stage.parents} <= finished | set(keys[:place])
        assert not {parent.key for parent in stage.parents} & set(keys[place:]), "parents first"
    if all(stage.key in finished for stage in targets):
        assert not keys, "whatever of its ancestors is gone"


@settings(deadline=None, max_examples=60)
@given(stages=graphs(), data=st.data())
def test_every_stage_starts_once_and_after_its_parents(stages: list[Add], data: st.DataObject) -> None:
    """Whatever finishes first, and with stages that another process is at coming back later."""
    with folder() as runs:
        state = _Schedule(list(look(stages, runs).stages.values()))
    running: list[list[Stage]] = []
    started: list[str] = []
    finished: set[str] = set()
    while not state.finished:
        batch = state.take()
        if batch:
            assert len({stage.group for stage in batch}) == 1
            assert len(batch) == 1 or batch[0].group
            for stage in batch:
                assert ancestors(stage) <= finished
            started += [stage.key for stage in batch]
            running.append(batch)
        if running and (not batch or data.draw(st.booleans())):
            ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
            busy = [stage for stage in ended if data.draw(st.integers(0, 9)) == 9]
            for stage in busy:
                started.remove(stage.key)
            state.give_back(busy)
            state._later = [(0.0, stage) for _, stage in state._later]  # due now
            state.complete([stage for stage in ended if stage not in busy])
            finished |= {stage.key for stage in ended if stage not in busy}
    assert sorted(started) == sorted({stage.key for stage in stages})
    assert not state.take()


@settings(deadline=None, max_examples=15)
@given(stages=graphs(), data=st.data())
def test_a_plan_ends_with_the_sums_and_runs_again_for_nothing(stages: list[Add], data: st.DataObject) -> None:
    target = stages[-1]
    reports: list[PlanProgress] = []
    with folder() as runs:
        everything = closure([target])
        computed = run_plan([target], runs, Here(), on_progress=reports.append)
        assert computed == {stage.key for stage in everything}
        for stage in everything:
            assert isinstance(stage, Add)
            assert stage.read(runs) == stage.number + sum(term.read(runs) for term in stage.terms)
        told = [key for report in reports for key in report.finished]
        assert sorted(told) == sorted(stage.key for stage in everything)
        assert (reports[-1].done, reports[-1].total) == (len(everything),) * 2
        assert any(report.running for report in reports), "also where stages run in this process"
        gone = [stage for stage in everything[:-1] if data.draw(st.booleans())]
        for stage in gone:
            shutil.rmtree(runs.folder(stage))
        assert run_plan([target], runs, Here()) == frozenset()
        assert not any(runs.folder(stage).exists() for stage in gone)


def test_what_a_kill_leaves_of_a_finished_stage_is_swept(tmp_path: Path) -> None:
    """And nothing of a stage that is to go on."""
    runs = Runs(tmp_path)
    done, open_ = (Add(number=number) for number in range(2))
    run_plan([done], runs, Here())
    for stage in (done, open_):
        (tmp_path / "partial" / f"sum-{stage.key}" / "checkpoints").mkdir(parents=True)
    run_plan([done], runs, Here())
    assert [path.name for path in (tmp_path / "partial").iterdir()] == [f"sum-{open_.key}"]


def test_a_group_larger_than_the_bound_is_taken_in_parts(tmp_path: Path) -> None:
    state = _Schedule([Add(number=number, together="all") for number in range(TOGETHER + 5)])
    assert [len(state.take()) for _ in range(3)] == [TOGETHER, 5, 0]


def test_the_longest_way_comes_first(tmp_path: Path) -> None:
    lone, root = Add(number=1), Add(number=2)
    last = Add(number=4, terms=(Add(number=3, terms=(root,)), root))
    todo = look([lone, last], Runs(tmp_path)).stages
    assert _Schedule(list(todo.values())).take() == [root]


class Broken(Executor):
    """A pool whose worker has died before it is given the next stage."""

    def submit(self, *_: Any, **__: Any) -> Any:
        raise BrokenExecutor("a child process terminated abruptly")


def test_an_executor_that_is_broken_already_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CasamError, match="a worker process ended") as caught:
        run_plan([Add(number=1)], Runs(tmp_path), Here(), executor=Broken())
    assert "goes on" in caught.value.hint


# Stages of other code, and of other parents


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Runs, list[Add]]:
    """Three finished stages, each made from the one before."""
    first = Add(number=1)
    second = Add(number=2, terms=(first,))
    stages = [first, second, Add(number=3, terms=(second,))]
    runs = Runs(tmp_path / "runs")
    run_plan(stages, runs, Here())
    return runs, stages


def other_code(runs: Runs, stage: Stage) -> None:
    """As if a module that the stage was computed by had been edited since."""
    path = runs.folder(stage) / RECORD
    data = json.loads(path.read_text())
    del data["digest"]
    data["code"][__name__] = "0" * 16
    path.write_text(json.dumps(Record(**data).to_json()))


def test_stages_of_other_code_are_refused_kept_or_computed_again(chain: tuple[Runs, list[Add]]) -> None:
    runs, stages = chain
    other_code(runs, stages[1])
    with pytest.raises(
        ChangedCodeError, match=rf"1 finished stages .*\(1 sum\); changed: {__name__}"
    ) as caught:
        run_plan(stages, runs, Here())
    assert "--recompute" in caught.value.hint
    assert "--keep" in caught.value.hint
    with pytest.raises(ChangedCodeError):
        run_plan(stages[2:], runs, Here())
    assert run_plan(stages[:1], runs, Here()) == frozenset(), "not among its ancestors"
    assert run_plan(stages, runs, Here(), changed="keep") == frozenset()
    assert run_plan(stages, runs, Here(), changed="recompute") == {stages[1].key}, (
        "the same bits: no child again"
    )
    assert run_plan(stages, runs, Here()) == frozenset()


def test_a_parent_with_another_result_makes_its_children_again(chain: tuple[Runs, list[Add]]) -> None:
    runs, stages = chain
    shutil.rmtree(runs.folder(stages[0]))
    commit(runs, stages[0], 41)
    assert run_plan(stages[2:], runs, Here()) == {stages[1].key, stages[2].key}
    assert stages[2].read(runs) == 41 + 2 + 3


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_child_is_made_again_whichever_target_asks_for_its_parent_first(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    """The parent is gone, its finished child needs it not, but another target does; and now it ends with other bits."""
    runs = Runs(tmp_path)
    parent = Add(number=1)
    child, sibling = Add(number=2, terms=(parent,)), Add(number=3, terms=(parent,))
    commit(runs, parent, 41)
    run_plan([child], runs, Here())
    assert child.read(runs) == 43
    shutil.rmtree(runs.folder(parent))
    targets = [child, sibling]
    run_plan([targets[place] for place in order], runs, Here())
    assert (child.read(runs), sibling.read(runs)) == (3, 4)
