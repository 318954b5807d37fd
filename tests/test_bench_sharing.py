"""What `casam bench` computes: each stage once, and nothing again for another order, grid or test image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_sets import (
    BENCH,
    METHODS,
    ORDERS,
    TRAINING,
    Reference,
    copied,
    encode_sets,
    facts,
    finished,
    kinds,
    one_thread,
    plan,
)
from PIL import Image

from casam_cache.bench.bench import Bench, distinct
from casam_cache.bench.fit import fit_task
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.tasks import SplitRef
from casam_cache.engine.stage import Stage

TRAINED = ("fit", "joint", "learn", "memory")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def keys(bench: Bench, *of: str) -> set[str]:
    """`KIND/KEY` of every stage that the results are made from."""
    return {stage.name for stage in stages(bench) if not of or stage.kind in of}


def stages(bench: Bench) -> list[Stage]:
    return distinct(bench.entries(bench.recipe.evaluate))


def splits(stage: Stage) -> list[SplitRef]:
    """What a stage reads of the stores itself."""
    items = getattr(stage, "items", ())
    return [items] if isinstance(items, SplitRef) else list(items)


def added(reference: Reference, bench: Bench) -> dict[str, int]:
    """Stages by kind that the reference has not computed."""
    return kinds(keys(bench) - set(reference.stages))


# One bench


def test_every_stage_is_computed_once_and_shared(reference: Reference) -> None:
    counts = reference.results.stages
    assert counts["computed"] == counts["distinct"] == len(reference.stages)
    assert counts["reused"] == 0
    assert counts["requested"] > 2 * counts["distinct"]
    found = kinds(reference.stages)
    assert found["fit"] == 3, "alignment, emr, ca-sam, and the first task of naive and er: one fit a task"
    assert found["joint"] == 1
    assert found["learn"] == 2 * (2 + 2), "after the first task: two methods, two orders"
    assert found["memory"] == 1, "er's after amber, which both orders begin with"
    assert found["merge"] == 1 + 2 + 1, "sets of tasks, not sequences"
    assert found["router"] == 3
    assert found["pool"] == 3 + 4, "train of each task, test of every set"
    assert found["model"] == 1


def test_the_frozen_sam_is_scored_once_a_set(reference: Reference) -> None:
    bench = plan(reference.stores, reference.runs, METHODS, **BENCH)
    frozen = [stage for stage in stages(bench) if isinstance(stage, Evaluate) and stage.head is None]
    assert sorted(stage.items.task for stage in frozen) == ["amber", "cobalt", "ghost", "moss"]


def test_a_second_run_computes_nothing_and_says_the_same(reference: Reference) -> None:
    written = list(reference.runs.glob("bench/*/results.json"))
    again = plan(reference.stores, reference.runs, METHODS, **BENCH).run()
    assert again.stages == {
        **reference.results.stages,
        "computed": 0,
        "reused": reference.results.stages["distinct"],
    }
    assert again.rows == reference.results.rows
    assert again.summary == reference.results.summary
    assert finished(reference.runs) == reference.stages
    assert list(reference.runs.glob("bench/*/results.json")) == written
    assert len(written) == 1


def test_a_shared_prefix_is_learnt_once(reference: Reference) -> None:
    longer = [*ORDERS, ("amber", "cobalt", "moss")[::-1]]
    bench = plan(reference.stores, reference.runs, ["naive"], order=longer, orders=3)
    assert added(reference, bench) == {"learn": 2, "evaluate": 6}
    two = ("amber", "cobalt")
    shorter = plan(reference.stores, reference.runs, ["er"], order=[two], tasks=list(two))
    assert added(reference, shorter) == {}, "er after amber and cobalt, whatever comes next"


def test_the_single_fit_command_shares_its_fits(reference: Reference, tmp_path: Path) -> None:
    runs = reference.copy(tmp_path / "runs")
    options = ["blocks=1", *(f"{name}={value}" for name, value in TRAINING.items())]
    report = fit_task("moss", reference.stores, runs, options=options, recipe="paper", device="cpu")
    assert not report.computed
    assert finished(runs) == reference.stages

    fresh = tmp_path / "fresh"
    assert fit_task("amber", reference.stores, fresh, options=options, recipe="paper", device="cpu").computed
    before = finished(fresh)
    bench = plan(reference.stores, fresh, ["ca-sam"], tasks=["amber"]).run()
    assert bench.stages["reused"] == len(before)
    assert {name: finished(fresh)[name] for name in before} == before
    [row] = bench.rows
    assert row["parameters"] == report.parameters


# More of the same


def test_more_random_orders_begin_with_the_same_and_fit_no_expert_again(
    bench_stores: Path, tmp_path: Path
) -> None:
    methods = ("joint", "emr", "ca-sam")
    few = plan(bench_stores, tmp_path, methods, order="random", orders=2)
    results = few.run()
    before = finished(tmp_path)
    more = plan(bench_stores, tmp_path, methods, order="random", orders=4)
    assert more.orders[:2] == few.orders
    assert len({order.tasks for order in more.orders}) == 4
    fresh = keys(more) - set(before)
    assert set(kinds(fresh)) <= {"merge", "evaluate"}
    again = more.run()
    assert again.stages["computed"] == len(fresh)
    assert finished(tmp_path).items() >= before.items()
    kept = [row for row in facts(again) if row["order"] in [list(order.tasks) for order in few.orders]]
    assert kept == facts(results)
    last = {row["last_iou"] for row in facts(again) if row["method"] == "ca-sam"}
    assert len(last) == 1


@pytest.mark.parametrize(
    ("grid", "kind"),
    [
        ("threshold=mu2s,p95,p97,p99,conformal,none", {"model"}),
        ("strict=false,true", {"model"}),
        ("fallback=true,false", {"model"}),
        ("temperature=0.1,1.0,5.0", {"pool", "router", "model"}),
        ("beta=1,4,16.5", {"router", "model"}),
        ("router=vae,centroid,knn,gmm,mahalanobis", {"router", "model"}),
        ("pooling=attention,mean,cls,flatten", {"pool", "router", "model"}),
    ],
)
def test_a_grid_about_routing_fits_learns_and_scores_nothing(
    reference: Reference, grid: str, kind: set[str]
) -> None:
    bench = plan(reference.stores, reference.runs, METHODS, [f"ca-sam.{grid}"], **BENCH)
    assert set(added(reference, bench)) == kind
    told = plan(reference.stores, reference.runs, ["emr"], [grid], **BENCH)
    assert added(reference, told) == {}, "what routes makes no other merged head"


def test_thresholds_of_one_router_are_looked_up(reference: Reference, tmp_path: Path) -> None:
    runs = reference.copy(tmp_path / "runs")
    grid = ["threshold=p95,none,conformal", "fallback=true,false"]
    rows = plan(reference.stores, runs, ["ca-sam"], grid, **BENCH).run().rows
    by = {(row["options"]["threshold"], row["options"]["fallback"]): row for row in rows}
    assert set(by["none", True]["thresholds"].values()) == {None}
    assert set(by["conformal", True]["thresholds"].values()) == {None}, "six scores do not make 97 percent"
    assert by["none", True]["ood_accuracy"] == by["p95", False]["ood_accuracy"] == 0
    for name in ("last_iou", "routing_accuracy", "ood_iou"):
        assert by["none", True][name] == by["none", False][name] == by["p95", False][name]
    assert by["p95", True]["ood_accuracy"] > 0.5


# Other data


def rewrite(path: Path, change: Any) -> None:
    pixels = np.array(Image.open(path))
    change(pixels)
    Image.fromarray(pixels).save(path)


def by_task(bench: Bench) -> dict[str, set[str]]:
    """Keys of trained stages, by the tasks they have seen."""
    found: dict[str, set[str]] = {}
    for stage in stages(bench):
        if stage.kind in TRAINED:
            seen = [ref.task for ref in (*splits(stage), *getattr(stage, "past", ()))]
            found.setdefault("+".join(sorted(seen)), set()).add(stage.key)
    return found


def sides(stores: Path, runs: Path) -> tuple[Bench, dict[str, set[str]]]:
    bench = plan(stores, runs, METHODS, **BENCH)
    return bench, by_task(bench)


def encode_again(data: Path, stores: Path, checkpoint: Path) -> None:
    encode_sets(data, stores, checkpoint, update=True)


def test_test_data_is_in_no_key_of_training(
    reference: Reference, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    data, stores = copied(reference.stores, tmp_path)
    before = keys(plan(stores, reference.runs, METHODS, **BENCH))
    assert before == set(reference.stages), "where stores lie has no part in any key"

    mask = data / "moss" / "masks" / "i005.png"
    rewrite(mask, lambda pixels: pixels.__setitem__(np.s_[:8, :8], 255))
    encode_again(data, stores, tiny_checkpoint)
    changed = keys(plan(stores, reference.runs, METHODS, **BENCH))
    gone = [stage for stage in stages(plan(reference.stores, reference.runs, METHODS, **BENCH))
            if stage.name not in changed]  # fmt: skip
    assert kinds(before - changed).keys() == {"evaluate", "pool"}
    assert {(ref.task, ref.split) for stage in gone for ref in splits(stage)} == {("moss", "test")}

    for folder in ("images", "masks"):
        (data / "moss" / folder / "new.png").write_bytes((data / "moss" / folder / "i010.png").read_bytes())
    with (data / "moss" / "split.csv").open("a") as file:
        file.write("new,test,patient of new\n")
    encode_again(data, stores, tiny_checkpoint)
    more = keys(plan(stores, reference.runs, METHODS, **BENCH))
    assert kinds(before - more).keys() == {"evaluate", "pool"}
    assert keys_of(more, TRAINED) == keys_of(before, TRAINED)
    assert keys_of(more, ("router", "model", "merge")) == keys_of(before, ("router", "model", "merge"))


def keys_of(names: set[str], of: Sequence[str]) -> set[str]:
    return {name for name in names if name.split("/")[0] in of}


def test_a_training_mask_is_in_the_keys_of_what_has_seen_its_task(
    reference: Reference, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    data, stores = copied(reference.stores, tmp_path)
    _, before = sides(stores, reference.runs)
    rewrite(data / "cobalt" / "masks" / "i000.png", lambda pixels: pixels.__setitem__(np.s_[:8, :8], 255))
    encode_again(data, stores, tiny_checkpoint)
    bench, after = sides(stores, reference.runs)
    assert before.keys() == after.keys()
    for seen in before:
        if "cobalt" in seen.split("+"):
            assert not before[seen] & after[seen], seen
        else:
            assert before[seen] == after[seen], seen
    fresh = [stage for stage in stages(bench) if stage.name not in reference.stages]
    read = {kind: {(ref.task, ref.split) for stage in fresh if stage.kind == kind for ref in splits(stage)}
            for kind in ("router", "pool")}  # fmt: skip
    assert read["router"] == read["pool"] == {("cobalt", "train")}
    assert all(stage.parents for stage in fresh if stage.kind == "evaluate"), (
        "the frozen SAM scores no training"
    )


def test_whatever_decides_a_result_is_in_its_key(reference: Reference) -> None:
    """Of each option another value, another key of the fit; of the seed as well."""
    for setting in (
        "epochs=2",
        "learning_rate=1e-3",
        "batch_size=3",
        "blocks=2",
        "focal_weight=2",
        "box_share=0.1",
    ):
        bench = plan(reference.stores, reference.runs, ["alignment"], [setting], tasks=["moss"])
        extra = added(reference, bench)
        assert (extra["fit"], extra["evaluate"]) == (1, 1), setting
    more = plan(reference.stores, reference.runs, METHODS, **{**BENCH, "seeds": 2})
    extra = added(reference, more)
    assert extra["fit"] == 3
    assert extra["router"] == 3
    assert "pool" not in extra, "pooling draws nothing"
    assert len(more.entries("test")) == 2 * len(reference.results.rows)


def test_another_reference_is_another_distance(
    reference: Reference, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Table 4: what the reference store's features were made from is in the key, image by image."""
    from casam_cache.bench.recipe import read_recipe

    data, stores = copied(reference.stores, tmp_path)
    content = {"title": "x", "tasks": ["moss"], "methods": [{"method": "alignment", "set": {"blocks": 1}}]}
    content |= {"training": TRAINING, "reference": str(stores)}

    def planned() -> Bench:
        return Bench.plan(
            read_recipe(content, "x"), reference.stores, tmp_path / "runs", model="tiny", device="cpu"
        )

    before = keys(planned())
    rewrite(data / "moss" / "images" / "i000.png", lambda pixels: pixels.__imul__(2))  # of train: not read
    encode_again(data, stores, tiny_checkpoint)
    assert keys(planned()) == before
    rewrite(data / "moss" / "images" / "i005.png", lambda pixels: pixels.__imul__(2))
    encode_again(data, stores, tiny_checkpoint)
    after = planned()
    assert kinds(keys(after) - before) == {"distance": 1}
    [row] = after.run().rows
    assert row["distances"]["moss"]["before"]["tv"] > 0
