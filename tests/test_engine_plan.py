"""What a plan looks at: nothing is passed over, whatever the order in which it is asked for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from casam_cache.engine.runs import Runs
from casam_cache.engine.schedule import look, run_plan
from casam_cache.engine.stage import Stage, Work
from casam_cache.errors import CasamError


class Place:
    device = torch.device("cpu")


TEXT = {"now": "first"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Step(Stage):
    kind: ClassVar[str] = "step"

    name_: str
    of: tuple[Stage, ...] = ()

    def compute(self, work: Work) -> dict[str, Any]:
        parents = [(work.runs.open(parent) / "text").read_text() for parent in self.of]
        (work.result / "text").write_text(" ".join([TEXT["now"] if not self.of else self.name_, *parents]))
        return {}


PARENT = Step(name_="parent")
FIRST, SECOND = Step(name_="one", of=(PARENT,)), Step(name_="two", of=(PARENT,))
BELOW = Step(name_="below", of=(FIRST,))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setitem(TEXT, "now", "first")
    return Runs(tmp_path / "runs")


def text(runs: Runs, stage: Stage) -> str:
    return (runs.open(stage) / "text").read_text()


@pytest.mark.parametrize("targets", [(BELOW, SECOND), (SECOND, BELOW)])
def test_a_finished_child_is_not_mixed_with_what_its_parent_becomes(
    runs: Runs, targets: tuple[Stage, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_plan([BELOW], runs, Place())
    shutil.rmtree(runs.folder(PARENT))
    monkeypatch.setitem(TEXT, "now", "second")
    todo = look(targets, runs).stages
    assert set(todo) == {stage.key for stage in (PARENT, FIRST, SECOND, BELOW)}
    assert list(todo).index(FIRST.key) < list(todo).index(BELOW.key)
    run_plan(targets, runs, Place())
    assert text(runs, SECOND) == "two second"
    assert text(runs, BELOW) == "below one second"
    assert not look(targets, runs).stages


def test_a_result_is_not_published_over_a_parent_that_was_replaced(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_plan([PARENT], runs, Place())
    with runs.claim(FIRST) as claim:
        assert claim is not None
        work = Work(runs, Place(), claim.result, claim.checkpoints, None, lambda line: None)
        FIRST.compute(work)
        shutil.rmtree(runs.folder(PARENT))
        monkeypatch.setitem(TEXT, "now", "second")
        run_plan([PARENT], runs, Place())
        with pytest.raises(CasamError, match="replaced meanwhile"):
            claim.finish({}, work)
    assert runs.find(FIRST) is None
    run_plan([FIRST], runs, Place())
    assert text(runs, FIRST) == "one second"
