"""What `casam bench` reports, against the same figures worked out here from the stages and by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_sets import (
    BENCH,
    METHODS,
    ORDERS,
    TASKS,
    UNSEEN,
    Reference,
    facts,
    finished,
    kinds,
    one_thread,
    plan,
    row_of,
)

from casam_cache.bench.bench import distinct
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.stages.fit import Fit
from casam_cache.bench.stages.routing import FitRouter, Pool
from casam_cache.encode.sources import decoder_of
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.alignment import build_alignment
from casam_cache.routers.files import load_router
from casam_cache.store import EmbeddingStore
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import ALL, open_split
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.outcomes import read_outcomes

ROUTED = ("ca-sam", "emr")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def stages(reference: Reference) -> list[Stage]:
    """What the reference's results are made from."""
    return planned(reference.stores, reference.runs)


@lru_cache(maxsize=1)
def planned(stores: Path, runs: Path) -> list[Stage]:
    return distinct(plan(stores, runs, METHODS, **BENCH).entries("test"))


def alignment_fit(reference: Reference, task: str) -> Fit:
    [found] = [
        stage
        for stage in stages(reference)
        if isinstance(stage, Fit) and (stage.method.name, stage.task, stage.seed) == ("alignment", task, 0)
    ]
    return found


def scored(task: str) -> str:
    """The split that is scored: of the unseen set all there is."""
    return ALL if task == UNSEEN else "test"


def outcomes(reference: Reference, head: Fit | None, task: str) -> dict[str, list[tuple[float, float]]]:
    """(IoU, BIoU) of the masks of each test image under a head, or the frozen SAM, from its file."""
    [stage] = [
        stage
        for stage in stages(reference)
        if isinstance(stage, Evaluate)
        and (stage.items.task, stage.items.split) == (task, scored(task))
        and (stage.head.key if stage.head else None) == (head.key if head else None)
    ]
    table = read_outcomes(reference.runs / "evaluate" / stage.key)
    found: dict[str, list[tuple[float, float]]] = {}
    for item, iou, biou in zip(table.item, table.scores["iou"], table.scores["biou"], strict=True):
        found.setdefault(item, []).append((iou, biou))
    return found


def view(reference: Reference, task: str, split: str = "") -> Any:
    store = EmbeddingStore.open(reference.stores / task / "tiny.zarr")
    return open_split(store, split or scored(task), task)


def routed(reference: Reference, seen: list[str], task: str) -> dict[str, str | None]:
    """Where each image of a test set goes, by equations 5 to 7 and Algorithm 7, one image after the other."""
    scores: dict[str, np.ndarray] = {}
    taus: dict[str, float] = {}
    [pool] = [
        stage
        for stage in stages(reference)
        if isinstance(stage, Pool) and (stage.items.task, stage.items.split) == (task, scored(task))
    ]
    features = pool.read(Runs(reference.runs))
    routers = {stage.items.task: stage for stage in stages(reference) if isinstance(stage, FitRouter)}
    for name in seen:
        router = load_router(reference.runs / "router" / routers[name].key)
        scores[name] = router.score(features)
        taus[name] = float(np.quantile(router.held_out, 0.97))
    images = view(reference, task)
    found: dict[str, str | None] = {}
    for index in range(len(images)):
        best = min(sorted(seen), key=lambda name: scores[name][index])
        found[images.item(index).id] = best if scores[best][index] <= taus[best] else None
    return found


def mean(values: list[tuple[float, float]], which: int) -> float:
    column = np.array([value[which] for value in values])
    return float(column[np.isfinite(column)].mean())


def looked_up(reference: Reference, seen: list[str], task: str) -> list[tuple[float, float]]:
    frozen = outcomes(reference, None, task)
    under = {name: outcomes(reference, alignment_fit(reference, name), task) for name in seen}
    goes = routed(reference, seen, task)
    return [value for item in frozen for value in (under[goes[item]] if goes[item] else frozen)[item]]


@pytest.mark.parametrize("order", ORDERS)
def test_ca_sam_is_a_look_up_in_the_outcomes(reference: Reference, order: tuple[str, ...]) -> None:
    row = row_of(reference.results, "ca-sam", order)
    for step in range(3):
        seen = list(order[: step + 1])
        for column, task in enumerate(order):
            values = looked_up(reference, seen, task)
            assert row["matrix"]["iou"][step][column] == mean(values, 0)
            assert row["matrix"]["biou"][step][column] == mean(values, 1)
    assert row["unseen"][UNSEEN]["iou"] == mean(looked_up(reference, list(order), UNSEEN), 0)
    goes = {task: routed(reference, list(order), task) for task in (*order, UNSEEN)}
    right = [place == task for task in order for place in goes[task].values()]
    assert row["routing_accuracy"] == sum(right) / len(right)
    assert row["ood_accuracy"] == np.mean([place is None for place in goes[UNSEEN].values()])
    for task in (*order, UNSEEN):
        counted = {str(place or "frozen"): 0 for place in goes[task].values()}
        for place in goes[task].values():
            counted[place or "frozen"] += 1
        assert row["confusion"][task] == counted


def test_the_sets_can_be_told_apart_and_some_images_have_no_mask(reference: Reference) -> None:
    """Otherwise the tests of this file would show little."""
    row = row_of(reference.results, "ca-sam", ORDERS[0])
    assert row["routing_accuracy"] > 0.8
    assert row["ood_accuracy"] > 0.5
    images = view(reference, "amber")
    assert [images.item(index).masks for index in range(len(images))].count(0) == 1
    assert row["matrix"]["images"] == row["matrix"]["masks"] == [3, 3, 3]


def test_ca_sam_ends_the_same_in_every_order_and_forgets_nothing_under_an_oracle(
    reference: Reference,
) -> None:
    rows = [row_of(reference.results, "ca-sam", order) for order in ORDERS]
    for name in ("iou", "biou"):
        assert len({row[f"last_{name}"] for row in rows}) == 1
        assert {row[f"oracle_ff_{name}"] for row in rows} == {0.0}
        ends = [dict(zip(row["order"], row["matrix"][name][-1], strict=True)) for row in rows]
        assert ends[0] == ends[1]
    assert rows[0]["thresholds"] == rows[1]["thresholds"]
    assert len({row["routing_accuracy"] for row in rows}) == len({row["ood_iou"] for row in rows}) == 1


def test_emr_is_told_the_task_and_says_so(reference: Reference) -> None:
    rows = [row_of(reference.results, "emr", order) for order in ORDERS]
    assert {row["router"] for row in rows} == {"oracle"}
    assert {row["routing_accuracy"] for row in rows} == {row["ood_accuracy"] for row in rows} == {None}
    assert rows[0]["last_iou"] == rows[1]["last_iou"]
    for row in rows:
        above = [(t, k) for t in range(3) for k in range(3) if k > t]
        assert all(row["matrix"]["iou"][t][k] == row["matrix"]["frozen_iou"][k] for t, k in above)
        assert row["ood_iou"] is None, "images of no task have none to be told"
        assert not row["unseen"]
        assert set(row["confusion"]) == set(row["order"])


def test_naive_is_one_head_taken_through_the_tasks(reference: Reference) -> None:
    """R, upper triangle included, from a loop that knows nothing of stages."""
    store = EmbeddingStore.open(reference.stores / "amber" / "tiny.zarr")
    backbone = decoder_of(reference.stores, store.identity["backbone"]["weights"])
    training = TrainingOptions(epochs=1, batch_size=2, learning_rate=3e-4)
    for order in ORDERS:
        head = build_alignment(AlignmentOptions(blocks=1), backbone, 0)
        matrix = []
        for task in order:
            head = copy.deepcopy(head)
            fit_head(head, backbone, view(reference, task, "train"), training, seed=0)
            cells = []
            for other in order:
                scored = evaluate(head, backbone, view(reference, other))
                cells.append(mean(list(zip(scored.scores["iou"], scored.scores["biou"], strict=True)), 0))
            matrix.append(cells)
        row = row_of(reference.results, "naive", order)
        assert row["matrix"]["iou"] == matrix
        assert np.linalg.matrix_rank(np.array(matrix)) > 1, "training changed nothing"


def test_figures_follow_from_the_matrix(reference: Reference) -> None:
    for label in ("naive", "er", "ca-sam", "emr"):
        for order in ORDERS:
            row = row_of(reference.results, label, order)
            table, frozen = np.array(row["matrix"]["iou"]), row["matrix"]["frozen_iou"]
            weights = np.array(row["matrix"]["images"])
            running = [np.average(table[t, : t + 1], weights=weights[: t + 1]) for t in range(3)]
            assert row["last_iou"] == pytest.approx(running[-1], abs=1e-15)
            assert row["avg_iou"] == pytest.approx(np.mean(running), abs=1e-15)
            fell = [table[k:2, k].max() - table[2, k] for k in range(2)]
            assert row["ff_iou"] == pytest.approx(np.mean(fell), abs=1e-15)
            assert row["bwt"] == pytest.approx(np.mean([table[2, k] - table[k, k] for k in range(2)]))
            assert row["fwt"] == pytest.approx(np.mean([table[k - 1, k] - frozen[k] for k in (1, 2)]))


def test_methods_without_a_path_have_a_last_alone(reference: Reference) -> None:
    for label in ("frozen", "joint", "alignment"):
        rows = [row_of(reference.results, label, order) for order in ORDERS]
        for row in rows:
            assert len(row["matrix"]["iou"]) == 1
            assert row["avg_iou"] is row["ff_iou"] is row["bwt"] is row["fwt"] is None
            assert row["routing_accuracy"] is row["ood_accuracy"] is None
        assert rows[0]["last_iou"] == rows[1]["last_iou"]
    row = row_of(reference.results, "alignment", ORDERS[0])
    for column, task in enumerate(ORDERS[0]):
        own = outcomes(reference, alignment_fit(reference, task), task)
        values = [value for masks in own.values() for value in masks]
        assert row["matrix"]["iou"][0][column] == mean(values, 0)
    assert row["ood_iou"] is None
    frozen = row_of(reference.results, "frozen", ORDERS[0])
    assert frozen["matrix"]["iou"] == [frozen["matrix"]["frozen_iou"]]


def test_sizes_are_those_of_the_files(reference: Reference) -> None:
    from safetensors.torch import load_file

    folder = reference.runs / "fit" / alignment_fit(reference, "moss").key
    weights = load_file(folder / "head.safetensors")
    parameters = sum(tensor.numel() for tensor in weights.values())
    kept = {}
    for label in ("alignment", "joint", "naive", "er", "emr", "ca-sam"):
        row = row_of(reference.results, label, ORDERS[0])
        assert row["parameters"] == parameters, label
        kept[label] = row["bytes_kept"]
    assert row_of(reference.results, "frozen", ORDERS[0])["bytes_kept"] == 0
    head = (folder / "head.safetensors").stat().st_size
    assert kept["joint"] == kept["naive"] == head
    assert kept["alignment"] == 3 * head
    assert kept["er"] > head
    assert kept["ca-sam"] > 3 * head
    assert kept["emr"] == 4 * parameters + 3 * (-(-parameters // 8) + 4)


def test_the_summary_compares_configurations_on_the_same_masks(reference: Reference) -> None:
    summary = reference.results.summary
    assert set(summary["estimates"]) == {row["label"] for row in reference.results.rows}
    naive = summary["estimates"]["naive"]["last_iou"]
    values = [row["last_iou"] for row in reference.results.rows if row["label"] == "naive"]
    assert naive["mean"] == pytest.approx(np.mean(values))
    assert (naive["runs"], naive["orders"], naive["seeds"]) == (2, 2, 1)
    casam = summary["estimates"]["ca-sam"]["last_iou"]
    assert casam["half"] is None, "of two orders"
    assert casam["values"] == (casam["mean"],) * 2 or casam["values"] == [casam["mean"]] * 2
    pairs = {(test["metric"], test["first"], test["second"]) for test in summary["tests"]}
    assert len(pairs) == len(summary["tests"]) == 3 * 7 * 6 // 2
    for test in summary["tests"]:
        means = []
        for label in (test["first"], test["second"]):
            rows = [row for row in reference.results.rows if row["label"] == label]
            means.append(np.mean([row[f"last_{test['metric']}"] for row in rows]))
        assert test["difference"] == pytest.approx(means[0] - means[1], abs=1e-12), "the table's difference"
        assert (test["low"] is None) == (test["p"] is None) == (test["p_holm"] is None)
        if test["low"] is not None:
            assert test["low"] <= test["difference"] <= test["high"]
            assert test["p"] <= test["p_holm"] <= 1
    assert any(test["p"] is not None for test in summary["tests"])


def test_rows_are_plain_json_in_range(reference: Reference) -> None:
    for row in facts(reference.results):
        assert row["order"] in [list(order) for order in ORDERS]
        assert set(row["order"]) == set(TASKS)
        for name in ("last_iou", "last_biou", "ood_iou", "routing_accuracy", "ood_accuracy"):
            assert row[name] is None or 0 <= row[name] <= 1
        for name in ("ff_iou", "bwt", "fwt"):
            assert row[name] is None or -1 <= row[name] <= 1


def test_moda_refits_its_classifier_for_each_set_of_tasks_and_never_falls_back(
    reference: Reference, tmp_path: Path
) -> None:
    runs = reference.copy(tmp_path / "runs")
    results = plan(reference.stores, runs, ["moda"], ["classifier=query"], **BENCH).run()
    added = kinds(set(finished(runs)) - set(reference.stages))
    assert added["classifier"] == 1 + 2 + 1, "sets of tasks, not sequences"
    assert not {"fit", "learn", "joint", "router"} & set(added)
    assert "evaluate" not in added, "the heads are CA-SAM's, and so are their outcomes"
    rows = [row_of(results, "moda", order) for order in ORDERS]
    assert rows[0]["last_iou"] == rows[1]["last_iou"]
    assert rows[0]["confusion"] == rows[1]["confusion"]
    for row, order in zip(rows, ORDERS, strict=True):
        assert row["ood_accuracy"] == 0
        assert not any("frozen" in counts for counts in row["confusion"].values())
        first = [outcomes(reference, alignment_fit(reference, order[0]), task) for task in order]
        alone = [mean([value for masks in table.values() for value in masks], 0) for table in first]
        assert row["matrix"]["iou"][0] == alone, "of one task all images go to it"
