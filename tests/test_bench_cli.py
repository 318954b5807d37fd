"""`casam bench` as a command: options, the JSON it prints, what `--dry-run` promises, and every error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_sets import (
    BENCH,
    CIRCUMSTANCES,
    METHODS,
    ORDERS,
    TASKS,
    TRAINING,
    Reference,
    copied,
    facts,
    finished,
    small,
)
from conftest import Casam, draw_dataset

from casam_cache.bench.recipe import read_recipe
from casam_cache.training import outcomes

Bench = Callable[..., Any]
FIGURES = {
    "last_iou", "avg_iou", "ff_iou", "last_biou", "avg_biou", "ff_biou", "routing_accuracy", "ood_accuracy", "ood_iou",
    "ood_biou", "bwt", "fwt",
}  # fmt: skip
KEYS = FIGURES | {
    "key", "method", "model", "router", "options", "weight", "forgetting", "evaluate", "order", "seed", "parameters"
}  # fmt: skip
STAGES = {"requested", "distinct", "computed", "reused"}


@pytest.fixture
def bench(casam: Casam, reference: Reference, tmp_path: Path) -> Bench:
    """`casam bench --json` on the reference's stores and a copy of its runs, with the options it ran with."""
    runs = reference.copy(tmp_path / "runs")

    def run(methods: str, *options: object, json: bool = True) -> Any:
        names = [name for name in METHODS if name in methods.split(",")] if methods else []
        own = {str(option).partition("=")[0] for option in options}
        common = {key: value for key, value in {**TRAINING, **_settings(names)}.items() if key not in own}
        settings = [f"--set={key}={value}" for key, value in common.items()]
        where = ("--store", reference.stores, "--runs", runs, "--device", "cpu", "--jobs", 1)
        where = (*where, *(() if "--recipe" in options else ("--recipe", "paper")))
        given = ("--methods", methods) if methods else ()
        call = casam.json if json else casam
        return call("bench", *given, *settings, *where, "--tasks", ",".join(TASKS), *options)

    return run


def _settings(methods: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in methods:
        found |= small(name)
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The reference as a recipe."""
    entries = [{"method": name, "set": small(name)} for name in METHODS]
    content = {"title": "Tiny", "tasks": list(TASKS), "methods": entries, "training": TRAINING}
    content |= {"order": [list(order) for order in ORDERS], "orders": 2, "unseen": BENCH["unseen"]}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def in_range(value: Any, low: float) -> bool:
    return value is None or (isinstance(value, int | float) and low <= value <= 1)


# What it prints


def test_a_recipe_prints_every_key_of_the_contract(
    casam: Casam, reference: Reference, recipe: Path, tmp_path: Path
) -> None:
    runs = reference.copy(tmp_path / "runs")
    where = ("--store", reference.stores, "--runs", runs, "--device", "cpu", "--jobs", 1)
    report = casam.json("bench", "--recipe", recipe, *where)
    assert casam.code == 0
    assert report["stages"].keys() == STAGES
    assert report["stages"]["computed"] == 0
    assert report["stages"]["reused"] == report["stages"]["distinct"] == len(reference.stages)
    assert len(report["results"]) == len(METHODS) * len(ORDERS)
    for row in report["results"]:
        assert row.keys() >= KEYS
        assert isinstance(row["options"], dict)
        for name in FIGURES:
            assert in_range(row[name], -1 if name[:2] in ("ff", "bw", "fw") else 0), name
    assert {row["method"] for row in report["results"]} == set(METHODS)
    assert len({row["key"] for row in report["results"]}) == len(report["results"])
    rows = [{k: v for k, v in row.items() if k not in CIRCUMSTANCES} for row in report["results"]]
    assert rows == facts(reference.results)
    [written] = [path for path in runs.glob("bench/*/results.json") if path.stat().st_mtime_ns > 0]
    assert {k: v for k, v in json.loads(written.read_text()).items() if k != "digest"} == {
        k: v for k, v in report.items() if k not in ("pictures", "report")
    }

    text = casam("bench", "--recipe", recipe, *where)
    assert casam.code == 0
    for words in (
        "method",
        "BIoU",
        "Last ↑",
        "FF ↓",
        "OOD acc",
        "3 tasks",
        "1 seed and 2 orders",
        "orders: amber > cobalt > moss; amber > moss > cobalt",
        "oracle box",
        "images",
    ):
        assert words in text
    assert all(any(line.startswith(name) for line in text.splitlines()) for name in METHODS)
    assert "0 computed" in casam.err


def test_a_dry_run_says_what_the_run_then_does(bench: Bench, casam: Casam, reference: Reference) -> None:
    """Also of one that shares with what is there."""
    options = ("--order", "moss,cobalt,amber", "--unseen", "ghost")
    promised = bench("naive,ca-sam", *options, "--dry-run")
    assert promised["stages"].keys() == {"requested", "distinct", "existing", "missing"}
    assert promised["stages"]["missing"] == 2 + 2 * 3 + 1, (
        "naive: two learnt, on three test sets, and at the end on the unseen one"
    )
    for name, total in promised["stages"].items():
        assert sum(kind[name] for kind in promised["kinds"].values()) == total
    for kind in promised["kinds"].values():
        assert kind["existing"] + kind["missing"] == kind["distinct"] <= kind["requested"]
    assert promised["seconds"] > 0

    text = bench("naive,ca-sam", *options, "--dry-run", json=False)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    columns = ("requested", "distinct", "existing", "missing")
    for kind, counts in promised["kinds"].items():
        assert [int(value) for value in lines[kind]] == [counts[name] for name in columns]
    assert [int(value) for value in lines["all"]] == [promised["stages"][name] for name in columns]
    assert "time: about" in text

    done = bench("naive,ca-sam", *options)
    assert done["stages"]["computed"] == promised["stages"]["missing"]
    assert done["stages"]["requested"] == promised["stages"]["requested"]
    assert done["stages"]["distinct"] == promised["stages"]["distinct"]
    again = bench("naive,ca-sam", *options, "--dry-run")
    assert (again["stages"]["missing"], again["seconds"]) == (0, 0)


def test_a_dry_run_writes_nothing_and_knows_no_time_yet(
    casam: Casam, reference: Reference, tmp_path: Path
) -> None:
    where = ("--store", reference.stores, "--runs", tmp_path / "none", "--device", "cpu")
    text = casam("bench", "--methods", "frozen", *where, "--dry-run")
    assert "time: unknown" in text
    assert not (tmp_path / "none").exists()


# Options


def test_orders_from_the_command_line_and_from_files(bench: Bench, tmp_path: Path) -> None:
    lines, lists = tmp_path / "order.txt", tmp_path / "orders.yaml"
    lines.write_text("# the first\namber\nmoss\ncobalt\n")
    lists.write_text(yaml.safe_dump([list(order) for order in ORDERS]))
    assert [row["order"] for row in bench("joint", "--order", lines)["results"]] == [list(ORDERS[1])]
    assert [row["order"] for row in bench("joint", "--order", lists)["results"]] == [*map(list, ORDERS)]
    assert [row["order"] for row in bench("joint", "--order", ",".join(ORDERS[1]))["results"]] == [
        list(ORDERS[1])
    ]
    assert [row["order"] for row in bench("joint")["results"]] == [list(TASKS)], (
        "sorted: not the paper's sets"
    )
    some = bench("frozen", "--order", "random", "--orders", 3)["results"]
    more = bench("frozen", "--order", "random", "--orders", 5)["results"]
    assert [row["order"] for row in more[:3]] == [row["order"] for row in some]
    other = bench("frozen", "--order", "random", "--orders", 3, "--order-seed", 1)["results"]
    assert [row["order"] for row in other] != [row["order"] for row in some]


def test_options_reach_the_results(bench: Bench) -> None:
    order = ("--order", ",".join(ORDERS[0]))
    plain = bench("naive", *order)["results"][0]
    assert (plain["weight"], plain["forgetting"], plain["evaluate"]) == ("images", "paper", "test")
    other = bench("naive", *order, "--weight", "tasks", "--forgetting", "mammoth")["results"][0]
    assert (other["weight"], other["forgetting"]) == ("tasks", "mammoth")
    table = other["matrix"]["iou"]
    fell = [max(table[t][k] for t in range(k, 3)) - table[2][k] for k in range(2)]
    assert other["ff_iou"] == pytest.approx(sum(fell) / 2)
    assert other["last_iou"] == pytest.approx(sum(table[2]) / 3)
    assert plain["ood_iou"] is None
    assert in_range(bench("naive", *order, "--unseen", "ghost")["results"][0]["ood_iou"], 0)


def test_methods_add_up_and_grids_have_labels(bench: Bench) -> None:
    both = bench("frozen", "--method", "joint", "--set", "joint.blocks=1")["results"]
    assert [row["method"] for row in both] == ["frozen", "joint"]
    alone = bench("", "--method", "frozen")["results"]
    assert [row["method"] for row in alone] == ["frozen"]
    grid = bench("ca-sam", "--set", "threshold=p95,none", "--set", "fallback=true,false")["results"]
    assert [row["label"] for row in grid] == [
        f"ca-sam, threshold={rule}, fallback={fallback}"
        for rule in ("p95", "none")
        for fallback in ("true", "false")
    ]
    assert [row["options"]["fallback"] for row in grid] == [True, False, True, False]


def test_options_come_before_the_recipe(
    casam: Casam, reference: Reference, recipe: Path, tmp_path: Path
) -> None:
    runs = reference.copy(tmp_path / "runs")
    where = ("--store", reference.stores, "--runs", runs, "--device", "cpu", "--jobs", 1)
    more = (
        "--methods",
        "frozen",
        "--order",
        "random",
        "--orders",
        1,
        "--unseen",
        "none",
        "--weight",
        "masks",
    )
    report = casam.json("bench", "--recipe", recipe, *more, *where)
    [row] = report["results"]
    assert (row["method"], row["weight"], report["unseen"]) == ("frozen", "masks", [])
    assert list(report["orders"]) == ["random-0"]


def test_methods_beside_a_recipe_are_its_rows_with_their_settings(
    casam: Casam, reference: Reference, recipe: Path, tmp_path: Path
) -> None:
    runs = reference.copy(tmp_path / "runs")
    where = ("--store", reference.stores, "--runs", runs, "--device", "cpu", "--jobs", 1)
    report = casam.json("bench", "--recipe", recipe, "--methods", "ca-sam,er", *where)
    assert report["stages"]["computed"] == 0, "the same options, so the same stages"
    assert report["recipe"]["methods"] == [
        {"method": name, "label": "", "set": small(name)} for name in ("ca-sam", "er")
    ]
    assert "no row" not in casam.err
    casam("bench", "--recipe", recipe, "--methods", "er,lwf", "--dry-run", *where)
    assert casam.code == 0
    assert f"no row of {recipe}, so without settings of it: lwf" in casam.err


def test_a_name_is_that_of_a_row_before_that_of_a_method() -> None:
    rows: list[Any] = [{"method": "emr", "label": label} for label in ("told", "emr", "router")]
    recipe = read_recipe({"title": "x", "methods": ["frozen", *rows, {"method": "er", "label": "few"}]}, "x")
    labels = {name: [row["label"] for row in recipe.rows_of(name)] for name in ("emr", "router", "er", "lwf")}
    assert labels == {"emr": ["emr"], "router": ["router"], "er": ["few"], "lwf": []}


@pytest.mark.slow
def test_seeds_and_selection_from_the_command_line(bench: Bench) -> None:
    rows = bench("alignment", "--seeds", 2)["results"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["last_iou"] != rows[1]["last_iou"]
    chosen = bench("alignment", "--set", "learning_rate=1e-5,3e-4", "--select", "biou")
    [row] = chosen["results"]
    assert chosen["selection"]["metric"] == "last_biou"
    assert row["label"] == chosen["selection"]["groups"]["alignment"]["chosen"]
    on_val = bench("alignment", "--evaluate", "val")["results"][0]
    assert on_val["evaluate"] == "val"


# Errors


def wrong(casam: Casam, *words: str) -> None:
    """One message and one hint, and exit code 1."""
    assert casam.code == 1, casam.err
    assert casam.err.count("error:") == 1
    assert "Traceback" not in casam.err
    for word in words:
        assert word in casam.err
    if casam.out:
        told = json.loads(casam.out)
        assert told.keys() == {"error"}
        assert told["error"]["hint"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--methods", "naiv"), ("unknown method 'naiv'", "naive", "ca-sam")),
        (("--methods", "frozen", "--tasks", "amber,mos"), ("unknown task 'mos'", "moss")),
        (("--methods", "frozen", "--unseen", "goat"), ("unknown task 'goat'", "ghost")),
        (("--methods", "frozen", "--tasks", "ghost,moss", "--unseen", "ghost"), ("'ghost' is both",)),
        (("--methods", "naive", "--set", "beta=1"), ("no method here has an option 'beta'", "blocks,")),
        (("--methods", "naive", "--set", "lwf.epochs=1"), ("no method here has an option 'lwf.epochs'",)),
        (("--methods", "naive", "--set", "epochs"), ("expected key=value",)),
        (("--methods", "naive", "--set", "epochs=many"), ("epochs", "'many'")),
        (("--methods", "ca-sam", "--set", "threshold=p50"), ("threshold", "p97", "'p50'")),
        (("--methods", "ca-sam", "--set", "temperature=1,0"), ("temperature", "greater than 0")),
        (("--methods", "frozen", "--order", "nowhere.txt"), ("order 'nowhere.txt' is neither", "random")),
        (("--methods", "frozen", "--order", "amber,moss"), ("lacks cobalt", "--tasks")),
        (("--methods", "frozen", "--order", "amber,moss,moss,cobalt"), ("has 'moss' twice",)),
        (("--methods", "frozen", "--order", "amber,moss,cobalt,zebra"), ("unknown task 'zebra'",)),
        (("--methods", "frozen", "--order", "random", "--orders", 7), ("there are only 6",)),
        (("--methods", "frozen,frozen"), ("both labelled 'frozen'",)),
        (("--methods", "frozen", "--weight", "pixels"), ("weight", "images", "masks", "tasks")),
        (("--methods", "frozen", "--forgetting", "mine"), ("forgetting", "mammoth", "avalanche")),
        (("--methods", "frozen", "--evaluate", "train"), ("evaluate", "test", "val")),
        (("--methods", "frozen", "--select", "dice"), ("select", "iou", "biou")),
        (("--recipe", "nowhere.yaml"), ("nowhere.yaml cannot be read", "--recipe")),
        (("--methods", "frozen", "--model", "vit_h"), ("unknown model 'vit_h'", "available: tiny")),
        (("--method", "mine.py:Mine"), ("mine.py",)),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    casam: Casam, reference: Reference, tmp_path: Path, options: tuple[Any, ...], words: tuple[str, ...]
) -> None:
    tasks = () if "--tasks" in options else ("--tasks", ",".join(TASKS))
    runs = tmp_path / "runs"
    casam.json("bench", *options, *tasks, "--store", reference.stores, "--runs", runs, "--device", "cpu")
    wrong(casam, *words)
    assert not runs.exists()


def test_a_recipe_with_an_unknown_key(casam: Casam, reference: Reference, recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "taks: [moss]\n")
    casam("bench", "--recipe", recipe, "--store", reference.stores)
    wrong(casam, "unknown key 'taks'", "tasks")


def test_an_empty_folder_of_stores(casam: Casam, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    casam("bench", "--store", tmp_path / "empty")
    wrong(casam, "no store in", "casam encode DATASET --store")


def test_a_set_without_validation_or_test_images(casam: Casam, encode: Any, discs: Path) -> None:
    encode(discs)
    casam("bench", "--methods", "frozen", "--select", "iou", "--device", "cpu")
    wrong(casam, "no val images", "--val-fraction")
    other = draw_dataset(discs.parent / "trains", images=4)
    encode(other)
    casam("bench", "--methods", "frozen", "--tasks", "trains", "--device", "cpu")
    wrong(casam, "no test images", "--test-fraction")
    assert not (casam.folder / "casam_runs").exists()


def test_what_a_store_lacks(casam: Casam, reference: Reference, tmp_path: Path) -> None:
    """Asked for by name it is an error with the command that adds it; of `all` it is left out, and said."""
    where = ("--store", reference.stores, "--runs", tmp_path / "runs", "--device", "cpu")
    tasks = ("--tasks", "moss")
    casam("bench", "--methods", "frozen,moda-hq", *tasks, *where)
    wrong(casam, "early", "casam encode", "--with")
    plan = casam.json("bench", "--methods", "all", *tasks, *where, "--dry-run")
    assert casam.code == 0
    assert plan["stages"]["missing"] > 0
    for name in ("moda-hq", "moda"):
        assert f"left out: {name}:" in casam.err
    assert "left out: naive" not in casam.err
    assert "casam encode" in casam.err


def test_stores_of_two_backbones(
    casam: Casam, reference: Reference, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    data, stores = copied(reference.stores, tmp_path)
    extra = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "other", "--resize", "stretch")
    casam("encode", data / "moss", *extra, "--store", stores)
    where = ("--store", stores, "--runs", tmp_path / "runs", "--device", "cpu", "--jobs", 1)
    casam("bench", "--methods", "frozen", *where)
    wrong(casam, "several backbones", "--model: other, tiny")
    report = casam.json("bench", "--methods", "frozen", *where, "--model", "other")
    assert [(row["model"], row["order"]) for row in report["results"]] == [("other", ["moss"])]


def test_stores_of_other_weights_under_one_name(
    casam: Casam, reference: Reference, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    data, stores = copied(reference.stores, tmp_path)
    with safe_open(tiny_checkpoint, "pt") as file:
        described = file.metadata()
    weights = {name: tensor * 1.5 for name, tensor in load_file(tiny_checkpoint).items()}
    save_file(weights, tmp_path / "other.safetensors", metadata=described)
    apart = tmp_path / "apart"
    casam(
        "encode",
        data / "moss",
        "--model",
        "small",
        "--checkpoint",
        tmp_path / "other.safetensors",
        "--name",
        "tiny",
        "--store",
        apart,
    )
    assert casam.code == 0, casam.err
    os.rename(stores / "moss", tmp_path / "moss")
    os.rename(apart / "moss", stores / "moss")
    casam("bench", "--methods", "frozen", "--store", stores, "--runs", tmp_path / "runs", "--device", "cpu")
    wrong(casam, "'amber' and 'moss' come from different weights", "casam encode")


def test_damaged_outcomes_are_said_and_computed_again(bench: Bench, casam: Casam, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    before, sound = finished(runs), bench("frozen")
    damaged = sorted(runs.glob(f"evaluate/*/{outcomes.FILE}"))
    for path in damaged:
        path.write_bytes(b"")
    again = bench("frozen")
    assert again["stages"]["computed"] == len(TASKS)
    assert casam.err.count("is damaged") == len(TASKS)
    assert again["results"][0]["matrix"] == sound["results"][0]["matrix"]
    assert finished(runs).keys() == before.keys()
    assert sum(path.stat().st_size == 0 for path in damaged) == len(damaged) - len(TASKS)
    assert bench("frozen")["stages"]["computed"] == 0
