"""The time that is said to be left, of plans whose stages differ a hundredfold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from casam_cache.engine import rates
from casam_cache.engine.rates import SAMPLED, Rates
from casam_cache.engine.runs import Runs
from casam_cache.engine.schedule import _Schedule
from casam_cache.engine.stage import Stage, Work

UNITS = {"cheap": 0.05, "usual": 0.4, "dear": 9.0, "dearest": 40.0}  # seconds a unit of cost
SHARE = {"made": 1.0, "scored": 0.2}


@dataclass(frozen=True, eq=False, kw_only=True)
class Made(Stage):
    kind: ClassVar[str] = "made"
    method: str
    task: int

    @property
    def pace(self) -> str:
        return self.method

    def compute(self, work: Work) -> dict[str, Any]:
        raise AssertionError("nothing is computed here")


@dataclass(frozen=True, eq=False, kw_only=True)
class Scored(Made):
    kind: ClassVar[str] = "scored"
    made: Made


@pytest.mark.parametrize("seed", range(5))
def test_the_time_left_is_within_a_factor_of_two_from_the_first_third_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Of a bench of four methods on nine tasks, the dearest of them last; scores take what they take."""
    draw = np.random.default_rng(seed)
    stages: list[Made] = []
    for method in UNITS:
        for task in range(9):
            made = Made(method=method, task=task, cost=float(draw.uniform(5, 60)))
            stages += [made, Scored(method=method, task=task, made=made, cost=float(draw.uniform(5, 60)))]
    seconds = {
        stage.key: stage.cost
        * UNITS[stage.method]
        * (1 if stage.kind == "made" else 0.2)
        * float(draw.lognormal(0, 0.3))
        for stage in stages
    }
    records: dict[str, list[Mapping[str, Any]]] = {"made": [], "scored": []}
    monkeypatch.setattr(rates, "_newest", lambda folder: records[folder.name][::-1][:SAMPLED])
    state, runs = _Schedule(stages), Runs(tmp_path)
    assert Rates.read(runs, records).seconds(stages) is None, "nothing is said while nothing is known"
    while not state.finished:
        (stage,) = state.take()
        assert isinstance(stage, Made)
        records[stage.kind].append({"seconds": seconds[stage.key], "cost": stage.cost, "pace": stage.pace})
        state.complete([stage])
        if len(state.left) <= 2 * len(stages) / 3 and state.left:
            said = Rates.read(runs, records).seconds(state.left.values())
            left = sum(seconds[key] for key in state.left)
            assert said is not None
            assert left / 2 <= said <= 2 * left, f"{len(state.left)} left: {said:.0f} s said, {left:.0f} s"


def test_records_without_a_pace_and_damaged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        {"seconds": 6.0, "cost": 3.0},
        {"seconds": "long"},
        {"cost": 1.0},
        {"seconds": 1.0, "cost": 0.0, "pace": "no"},
    ]
    monkeypatch.setattr(rates, "_newest", lambda folder: records)
    found = Rates.read(Runs(tmp_path), ["made"])
    assert found.by_kind == {"made": 2.0}
    assert found.seconds([Made(method="cheap", task=0, cost=4.0)]) == 8.0
