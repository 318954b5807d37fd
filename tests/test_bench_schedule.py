"""The scheduler on random graphs: every stage once, parents first, and finished stages need no parents."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from casam_cache.bench.lines import closure
from casam_cache.bench.node import Node, Place, Work, takes_many
from casam_cache.bench.run import TOGETHER, PlanProgress, _Schedule, missing, run_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from casam_cache.bench.stages import Runs, Stage

PLACE = Place("stores", "tiny", "cpu")
HERE = f"{__name__}:add_up"


def add_up(work: Work) -> dict[str, Any]:
    """A stage whose result is its number and the results of its parents."""
    total = work.inputs["number"] + sum(
        json.loads((path / "sum.json").read_text()) for path in work.parents.values()
    )
    (work.result / "sum.json").write_text(json.dumps(total))
    return {}


@takes_many
def add_up_many(works: list[Work]) -> list[dict[str, Any]]:
    assert len(works) <= TOGETHER
    return [add_up(work) for work in works]


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Up to 14 nodes, each with any of the earlier ones as parents; some in groups that run together."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 14))):
        chosen = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        parents: Mapping[str, Node] = {str(place): nodes[place] for place in sorted(chosen)}
        group = draw(st.sampled_from([None, None, "a", "b"]))
        inputs = {"number": number, "parents": {role: node.key for role, node in parents.items()}}
        function = f"{HERE}_many" if group else HERE
        stage = Stage("sum", 1, inputs)
        nodes.append(Node(stage, function, PLACE, parents, draw(st.floats(0, 9)), group, f"node {number}"))
    return nodes


@contextmanager
def folder() -> Iterator[Runs]:
    """Hypothesis runs many examples in one test: each has runs of its own."""
    root = Path(tempfile.mkdtemp())
    try:
        yield Runs(root)
    finally:
        shutil.rmtree(root)


def commit(runs: Runs, node: Node) -> None:
    """As if the stage were finished."""
    runs.folder(node.stage).mkdir(parents=True)
    (runs.folder(node.stage) / "record.json").write_text("{}")


def ancestors(node: Node) -> set[str]:
    return {found.key for found in closure([node])} - {node.key}


@settings(deadline=None, max_examples=60)
@given(nodes=graphs(), data=st.data())
def test_what_is_missing_is_what_the_targets_need(nodes: list[Node], data: st.DataObject) -> None:
    done = data.draw(st.sets(st.sampled_from(range(len(nodes)))))
    wanted = data.draw(st.sets(st.sampled_from(range(len(nodes))), min_size=1))
    targets = [nodes[place] for place in sorted(wanted)]
    with folder() as runs:
        for place in done:
            commit(runs, nodes[place])
        todo = missing(targets, runs)
    keys = [node.key for node in todo]
    finished = {nodes[place].key for place in done}
    needed: set[str] = set()

    def need(node: Node) -> None:
        if node.key not in finished and node.key not in needed:
            needed.add(node.key)
            for parent in node.parents.values():
                need(parent)

    for target in targets:
        need(target)
    assert set(keys) == needed
    assert len(keys) == len(set(keys))
    for place, node in enumerate(todo):
        assert {parent.key for parent in node.parents.values()} <= finished | set(keys[:place])


@settings(deadline=None, max_examples=60)
@given(nodes=graphs(), data=st.data())
def test_every_stage_starts_once_and_after_its_parents(nodes: list[Node], data: st.DataObject) -> None:
    """Whatever finishes first, and with stages that another process is at coming back later."""
    with folder() as runs:
        state = _Schedule(missing(nodes, runs), runs)
        running: list[list[Node]] = []
        started: list[str] = []
        finished: set[str] = set()
        while not state.finished:
            batch = state.take()
            if batch:
                assert len({node.together for node in batch}) == 1
                assert len(batch) == 1 or batch[0].together
                for node in batch:
                    assert ancestors(node) <= finished
                started += [node.key for node in batch]
                running.append(batch)
            if running and (not batch or data.draw(st.booleans())):
                ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
                busy = [node for node in ended if data.draw(st.integers(0, 9)) == 9]
                for node in busy:
                    started.remove(node.key)
                state.give_back(busy)
                state._later = [(0.0, node) for _, node in state._later]  # due now
                state.complete([node for node in ended if node not in busy])
                finished |= {node.key for node in ended if node not in busy}
        assert sorted(started) == sorted({node.key for node in nodes})
        assert not state.take()


@settings(deadline=None, max_examples=15)
@given(nodes=graphs(), data=st.data())
def test_a_plan_ends_with_the_sums_and_runs_again_for_nothing(nodes: list[Node], data: st.DataObject) -> None:
    target = nodes[-1]
    reports: list[PlanProgress] = []
    with folder() as runs:
        everything = closure([target])
        counts = run_plan(everything, [target], runs, on_progress=reports.append)
        assert counts.distinct == len(everything)
        assert counts.keys == {node.key for node in everything}
        for node in everything:
            own = json.loads((runs.folder(node.stage) / "sum.json").read_text())
            below = [
                json.loads((runs.folder(parent.stage) / "sum.json").read_text())
                for parent in node.parents.values()
            ]
            assert own == node.stage.inputs["number"] + sum(below)
        told = [key for report in reports for key in report.finished]
        assert sorted(told) == sorted(node.key for node in everything)
        assert (reports[-1].done, reports[-1].total) == (len(everything),) * 2
        assert any(report.running for report in reports), "also where stages run in this process"
        gone = [node for node in everything[:-1] if data.draw(st.booleans())]
        for node in gone:
            shutil.rmtree(runs.folder(node.stage))
        assert run_plan(everything, [target], runs).computed == 0
        assert not any(runs.exists(node.stage) for node in gone)


def test_what_a_kill_leaves_of_a_finished_stage_is_swept(tmp_path: Path) -> None:
    """And nothing of a stage that is to go on."""
    runs = Runs(tmp_path)
    done, open_ = (Node(Stage("sum", 1, {"number": n, "parents": {}}), HERE, PLACE) for n in range(2))
    run_plan([done], [done], runs)
    for node in (done, open_):
        (tmp_path / "partial" / f"sum-{node.key}" / "checkpoints").mkdir(parents=True)
    run_plan([done], [done], runs)
    assert [path.name for path in (tmp_path / "partial").iterdir()] == [f"sum-{open_.key}"]


def test_a_group_larger_than_the_bound_is_taken_in_parts(tmp_path: Path) -> None:
    nodes = [
        Node(Stage("sum", 1, {"number": n, "parents": {}}), f"{HERE}_many", PLACE, {}, 1.0, "all")
        for n in range(TOGETHER + 5)
    ]
    state = _Schedule(nodes, Runs(tmp_path))
    assert [len(state.take()) for _ in range(3)] == [TOGETHER, 5, 0]


def test_the_longest_way_comes_first(tmp_path: Path) -> None:
    def node(number: int, *parents: Node) -> Node:
        roles = {str(place): parent for place, parent in enumerate(parents)}
        inputs = {"number": number, "parents": {role: parent.key for role, parent in roles.items()}}
        return Node(Stage("sum", 1, inputs), HERE, PLACE, roles)

    lone, root = node(1), node(2)
    nodes = [lone, root, node(4, node(3, root))]
    first = _Schedule(missing(nodes, Runs(tmp_path)), Runs(tmp_path)).take()
    assert first == [root]
