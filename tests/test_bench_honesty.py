"""What a method gets to see in a bench, what its first weights depend on, and that nothing is chosen on test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_sets import LOOKS, ORDERS, TASKS, Reference, facts, finished, one_thread, plan, row_of

from casam_cache.bench.bench import Bench, distinct
from casam_cache.bench.stages import fit as head_stages
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest_arrays

SPY = '''
"""Writes down every image that can be reached through what a bench hands over."""

import json
from pathlib import Path

from casam_cache.methods.memory import Exemplar, Memory
from casam_cache.methods.naive import Naive

LOG = Path({log!r})


def seen(view):
    return [] if view is None else sorted([view.item(i).task, view.item(i).id] for i in range(len(view)))


def beyond(view):
    """What an index outside of the view gives."""
    found = []
    for index in (-1, len(view), len(view) + 100):
        for ask in (view.item, lambda place: view.feature("embedding", place), view.masks):
            try:
                found.append(repr(ask(index)))
            except IndexError:
                pass
    return found


class Spy(Naive):
    name = "spy"
    remembers = True

    def tell(self, call, items, past, setting):
        entry = {{"call": call, "task": setting.task, "items": seen(items), "replay": seen(past and past.replay),
                 "past": list(past.tasks) if past else [], "beyond": beyond(items)}}
        with LOG.open("a") as file:
            file.write(json.dumps(entry) + "\\n")

    def items(self, items, past, setting):
        self.tell("items", items, past, setting)
        return items

    def penalty(self, items, past, setting):
        self.tell("penalty", items, past, setting)
        return super().penalty(items, past, setting)

    def remember(self, head, items, past, penalty, setting):
        self.tell("remember", items, past, setting)
        kept = past.memory.exemplars if past else ()
        return Memory(exemplars=(*kept, Exemplar(setting.task, {steals!r} or items.item(0).id)))
'''


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def spy(folder: Path, steals: str = "") -> tuple[str, Path]:
    log = folder / "log.jsonl"
    (folder / "spy.py").write_text(SPY.format(log=str(log), steals=steals))
    return f"{folder / 'spy.py'}:Spy", log


def ids(stores: Path, task: str, split: str) -> list[list[str]]:
    rows = [
        line.split(",") for line in (stores.parent / "data" / task / "split.csv").read_text().splitlines()
    ]
    return sorted([task, name] for name, side, _ in rows[1:] if side == split)


def test_a_method_sees_its_training_images_and_its_exemplars(bench_stores: Path, tmp_path: Path) -> None:
    method, log = spy(tmp_path)
    plan(bench_stores, tmp_path / "runs", [method], order=[ORDERS[0]]).run()
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["call"] for entry in entries] == ["remember", *["penalty", "items", "remember"] * 2]
    for entry in entries:
        assert entry["items"] == ids(bench_stores, entry["task"], "train")
        assert entry["past"] == list(ORDERS[0][: ORDERS[0].index(entry["task"])])
        assert entry["replay"] == sorted(ids(bench_stores, task, "train")[0] for task in entry["past"])
        assert entry["beyond"] == []


@pytest.mark.parametrize("steals", ["i004", "i006", "nowhere"], ids=["test", "val", "none"])
def test_no_other_image_can_be_remembered(bench_stores: Path, tmp_path: Path, steals: str) -> None:
    method, _ = spy(tmp_path, steals)
    with pytest.raises(CasamError, match=f"amber/{steals} is not in the training split"):
        plan(bench_stores, tmp_path / "runs", [method], order=[ORDERS[0]]).run()


def test_first_weights_depend_on_the_seed_alone(
    bench_stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: dict[int, set[str]] = {0: set(), 1: set()}
    train = head_stages.fit_head

    def watched(head: Any, backbone: Any, items: Any, options: Any, **more: Any) -> Any:
        weights = digest_arrays((name, tensor.numpy().copy()) for name, tensor in head.state_dict().items())
        if more["checkpoint_dir"].parent.name.split("-")[0] in ("fit", "joint"):
            first[more["seed"]].add(weights)
        return train(head, backbone, items, options, **more)

    monkeypatch.setattr(head_stages, "fit_head", watched)
    two = ["amber", "moss"]
    orders = [two, two[::-1]]
    plan(bench_stores, tmp_path / "runs", ["joint", "naive"], tasks=two, order=orders, seeds=2).run()
    assert len(first[0]) == len(first[1]) == 1, "of every task, order and method with an Alignment Layer"
    assert first[0] != first[1]


# Selection


def heads_scored(bench: Bench, split: str) -> set[str]:
    """Keys of the heads that finished evaluations of a split belong to."""
    return {inputs["head"] for inputs in _of_split(bench, split)}


def test_selection_looks_at_validation_alone(bench_stores: Path, tmp_path: Path) -> None:
    grid = ["learning_rate=1e-5,3e-2"]
    options: dict[str, Any] = {"order": [ORDERS[0]], "unseen": ["ghost"]}
    methods = ["naive", "alignment"]
    bench = plan(bench_stores, tmp_path / "runs", methods, grid, **options, select="iou")
    results = bench.run()
    assert [row["method"] for row in results.rows] == methods
    assert results.selection is not None
    assert (results.selection["metric"], results.selection["split"]) == ("last_iou", "val")
    for row, (label, told) in zip(results.rows, results.selection["groups"].items(), strict=True):
        assert label == row["method"]
        assert row["label"] == told["chosen"] == max(told["validation"], key=told["validation"].get)
        assert len(set(told["validation"].values())) == 2

    chosen = [row["options"]["learning_rate"] for row in results.rows]
    alone = {row["label"] for row in results.rows}
    winners = [
        entry for entry in plan(bench_stores, tmp_path / "runs", methods, grid, **options).entries("test")
        if entry.config.label in alone
    ]  # fmt: skip
    evaluations = [stage for stage in distinct(winners) if isinstance(stage, Evaluate)]
    scored = {stage.inputs["head"] for stage in evaluations}
    assert heads_scored(bench, "test") == scored
    assert len(heads_scored(bench, "val")) > len(scored)
    tasks = {inputs["items"][0] for inputs in _of_split(bench, "val")}
    assert tasks == set(TASKS), "an unseen set has its test split alone"

    both = plan(bench_stores, tmp_path / "runs", methods, grid, **options).run()
    for row, rate in zip(facts(results), chosen, strict=True):
        [same] = [
            other for other in facts(both)
            if other["method"] == row["method"] and other["options"]["learning_rate"] == rate
        ]  # fmt: skip
        assert same == row


def _of_split(bench: Bench, split: str) -> list[dict[str, Any]]:
    """What the finished evaluations of a split are of."""
    records = (json.loads(path.read_text()) for path in (bench.runs.root / "evaluate").glob("*/record.json"))
    return [record["inputs"] for record in records if record["inputs"]["items"][1] == split]


def test_a_second_selection_computes_nothing(reference: Reference, tmp_path: Path) -> None:
    runs = reference.copy(tmp_path / "runs")
    bench = plan(reference.stores, runs, ["ca-sam"], ["threshold=p95,none"], order=[ORDERS[0]], select="biou")
    first = bench.run()
    before = finished(runs)
    assert first.stages["distinct"] == first.stages["computed"] + first.stages["reused"]
    second = bench.run()
    assert second.stages["computed"] == 0
    assert (second.rows, second.selection) == (first.rows, first.selection)
    assert finished(runs) == before


def test_two_entries_of_one_name_cannot_be_chosen_from(bench_stores: Path, tmp_path: Path) -> None:
    from casam_cache.bench.recipe import read_recipe

    entries = [{"method": "naive", "set": {"blocks": [1, 2]}}, {"method": "naive", "set": {"epochs": [1, 2]}}]
    recipe = read_recipe({"title": "x", "methods": entries, "select": "iou"}, "of a test")
    with pytest.raises(CasamError, match="two entries are both 'naive'"):
        Bench.plan(recipe, bench_stores, tmp_path, model="tiny", device="cpu")


def test_the_sets_are_as_this_file_thinks(reference: Reference) -> None:
    assert ["amber", "i004"] in ids(reference.stores, "amber", "test")
    assert ["amber", "i006"] in ids(reference.stores, "amber", "val")
    assert set(LOOKS) == {*TASKS, "ghost"}
    assert row_of(reference.results, "naive", ORDERS[0])["evaluate"] == "test"
