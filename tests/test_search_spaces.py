"""What a search is made of: its space, the fronts it finds, the rungs a fit climbs, the time it may take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casam_cache.bench.search.builtin import BUILTIN
from casam_cache.bench.search.halving import goes_on, rungs_of
from casam_cache.bench.search.objectives import dominated_by, front, read_objectives
from casam_cache.bench.search.space import read_space
from casam_cache.errors import OptionError
from casam_cache.methods.registry import METHODS
from casam_cache.training.options import TrainingOptions
from casam_cli.search import read_time

WRONG = {
    "blokcs: [1, 2]": "no option 'blokcs'",
    "kind: [full, fulll]": "wrong value for kind",
    "blocks: [1, 0]": "wrong value for blocks",
    "blocks: {low: 1, high: 65}": "wrong value for blocks",
    "blocks: {low: 1, high: 2.5}": "valid integer",
    "blocks: {low: 3, high: 1}": "low=3 is not below high=1",
    "blocks: {low: 1}": "needs low and high",
    "blocks: {low: 1, high: 3, many: 2}": "'many' is no part of it",
    "blocks: {low: one, high: 3}": "low is no number",
    "learning_rate: {low: 0, high: 1, log: true}": "above 0",
    "learning_rate: {low: 0.1, high: 0.2, step: 0.03}": "do not lead",
    "compiled: {low: 0, high: 1}": "true or false",
    "blocks: []": "no list of values",
    "blocks: [1, 1]": "a value twice",
    "blocks: 2": "nothing varies",
    "blocks: [2]": "nothing varies",
    "[1, 2]": "not a mapping",
    "blocks: [1": "not YAML",
    "blocks: {values: [1, 2], when: {kind: full}}": "depends on 'kind'",
    "kind: [full, affine]\nblocks: {values: [1, 2], when: {kind: bottleneck}}": "which is not tried",
    "kind: [full, affine]\nblocks: {values: [1, 2], when: full}": "no mapping",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_space_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(OptionError) as error:
        read_space(str(path), METHODS.get("alignment"), {})
    assert WRONG[text] in error.value.message
    assert str(path) in error.value.message
    assert error.value.hint
    assert "\n" not in error.value.message or "YAML" in error.value.message


@pytest.mark.parametrize("head", sorted(BUILTIN))
def test_built_in_spaces_are_valid_throughout(head: str) -> None:
    made = METHODS.get(head)
    space = read_space("builtin", made, {"learning_rate": 1e-3})
    points = space.points(10_000)
    assert points is not None
    refused = 0
    for point in points:
        try:
            made.options_model().model_validate(point)
        except ValueError:
            refused += 1
    assert refused <= len(points) // 20
    assert "learning_rate" in read_space("builtin", made, {}).names


TABLES = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=12)


@given(TABLES)
def test_the_front_is_what_nothing_dominates(values: list[tuple[float, ...]]) -> None:
    objectives = read_objectives("iou,flops,parameters")

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        as_good = one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]
        return as_good and one != other

    counts = [sum(beats(one, other) for one in values) for other in values]
    assert list(dominated_by(values, objectives)) == counts
    found = front(dict(enumerate(values)), objectives)
    assert sorted(found) == [place for place, count in enumerate(counts) if count == 0]
    assert [values[place][0] for place in found] == sorted(
        (values[place][0] for place in found), reverse=True
    )


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 1.0]), min_size=1, max_size=30))
def test_the_best_third_goes_on(scores: list[float]) -> None:
    better = sum(score > scores[-1] for score in scores) + scores[:-1].count(scores[-1])
    assert goes_on([(score,) for score in scores], ("iou",)) == (better < np.ceil(len(scores) / 3))


@given(st.integers(1, 400), st.integers(1, 30), st.integers(1, 8), st.integers(1, 10))
def test_rungs_grow_to_the_full_fit(visits: int, epochs: int, batch: int, tasks: int) -> None:
    full = TrainingOptions(epochs=epochs, batch_size=batch, min_steps=5)
    rungs = rungs_of([f"t{place}" for place in range(tasks)], pruning=True)
    steps = [rung.training(full, visits).steps(visits) for rung in rungs]
    assert steps == sorted(steps)
    assert (steps[-1], len(rungs[-1].tasks)) == (full.steps(visits), tasks)
    work = [len(rung.tasks) * rung.part / tasks for rung in rungs]
    assert work == pytest.approx([1 / 9, 1 / 3, 1])
    assert [len(rung.tasks) for rung in rungs] == sorted(len(rung.tasks) for rung in rungs)


def test_times() -> None:
    assert [read_time(text) for text in ("90s", "30m", "1.5h", "45", "2 h")] == [90, 1800, 5400, 45, 7200]
    for text in ("", "soon", "0h", "-1h", "2 weeks"):
        with pytest.raises(OptionError, match="no time"):
            read_time(text)
