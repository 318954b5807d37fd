"""Masks of a bench in the report: every tested mask of every configuration, under the head that answers its image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bench_sets import TASKS, UNSEEN, Reference
from html_pages import check_safe
from test_html_masks import masks_data

from casam_cache.bench.results import FOLDER
from casam_cache.bench.tables import Tables
from casam_cache.engine.runs import Runs
from casam_cache.report.answers import FILE, BenchAnswers, read_answers, write_answers
from casam_cache.report.html.masks import ScoredMasks, overlap
from casam_cache.report.html.scored import scored_in_bench
from casam_cache.report.html.writing import write_report


@pytest.fixture
def noted(reference: Reference, tmp_path: Path) -> tuple[Runs, Path, BenchAnswers]:
    """A copy of the runs, the folder of the bench's results in it, and what was noted there."""
    runs = Runs(reference.copy(tmp_path / "runs"))
    found = write_answers(reference.results, reference.results.entries[0].tasks.place, runs)
    return runs, runs.root / FOLDER / reference.results.key, found


def test_every_configuration_has_the_outcomes_of_its_table(
    reference: Reference, noted: tuple[Runs, Path, BenchAnswers]
) -> None:
    runs, folder, answers = noted
    assert read_answers(folder) == answers
    tables = Tables(runs)
    first = {entry.config.label: entry for entry in reversed(reference.results.entries)}
    scored = scored_in_bench(runs.root, "a bench", answers)
    assert {each.label for each in scored} == {
        label for label, entry in first.items() if entry.config.method.name != "frozen"
    }
    seen = set()
    for each in scored:
        entry = first[each.label]
        seen.add((each.label, each.task))
        if each.task in TASKS:
            expected = entry.matrix(tables)[-1][entry.course.order.index(each.task)]
        else:
            expected = entry.on_unseen(tables)[each.task]
        for name, values in expected.scores.items():
            np.testing.assert_array_equal(each.fitted.scores[name], values)
        assert each.frozen.item == each.fitted.item == list(expected.item)
        assert set(each.fitted.item) <= set(each.heads)
    for label, entry in first.items():
        if entry.config.method.name != "frozen":
            answered = {*TASKS, *entry.on_unseen(tables)}
            assert {task for own, task in seen if own == label} == answered
    assert ("ca-sam", UNSEEN) in seen


def test_masks_are_predicted_again_by_the_head_that_answers_their_image(
    noted: tuple[Runs, Path, BenchAnswers],
) -> None:
    runs, _, answers = noted
    for each in scored_in_bench(runs.root, "a bench", answers):
        shared = {}
        cases = list(ScoredMasks(each, "cpu", shared).cases(at_once=3))
        assert [case.row for case in cases] == list(range(len(each.fitted)))
        for case in cases:
            for side, mask in ((each.frozen, case.frozen), (each.fitted, case.fitted)):
                assert overlap(mask, case.truth) == pytest.approx(side.scores["iou"][case.row], abs=1e-5)
        again = list(ScoredMasks(each, "cpu", shared).cases())
        assert all(
            (one.frozen.bitmap == two.frozen.bitmap).all() for one, two in zip(cases, again, strict=True)
        )


def test_the_page_of_a_bench_and_what_it_says_where_nothing_was_noted(
    noted: tuple[Runs, Path, BenchAnswers], tmp_path: Path
) -> None:
    _, folder, answers = noted
    written = write_report(folder, tmp_path / "report")
    found = masks_data(tmp_path / "report")
    assert [(each["method"], each["task"]) for each in found["fits"]] == [
        (each.label, each.set) for each in sorted(answers.sets, key=lambda each: each.set)
    ]
    assert written.masks == sum(each["count"] for each in found["fits"]) > 0
    [title] = {each["from"] for each in found["fits"]}
    assert title in check_safe(tmp_path / "report" / "index.html").text
    check_safe(tmp_path / "report" / "masks.html")
    assert not [line for _, line in written.warnings if "predicted again differ" in line]

    data = json.loads((folder / FILE).read_text())
    data["sets"][0]["answers"][0]["head"] = "fit/another"
    (folder / FILE).write_text(json.dumps(data))
    for name in ("damaged", "gone"):
        said: list[str] = []
        written = write_report(folder, tmp_path / name, say=said.append)
        assert written.masks == 0
        assert any("its masks are not shown" in line for line in said)
        (folder / FILE).unlink(missing_ok=True)
