"""Reading recipes: grids, defaults, and errors that name file, key and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from casam_cache.bench.recipe import Recipe, load_recipe
from casam_cache.errors import OptionError

SMALL = "title: Small\nmethods: [naive]\n"


def read(folder: Path, text: str) -> Recipe:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_defaults_and_short_forms(tmp_path: Path):
    recipe = read(tmp_path, SMALL)
    assert (recipe.table, recipe.tasks, recipe.order, recipe.orders, recipe.seeds) == (
        "table1",
        "all",
        "paper",
        1,
        1,
    )
    assert (recipe.unseen, recipe.weight, recipe.forgetting, recipe.select) == (
        "none",
        "images",
        "paper",
        None,
    )
    assert recipe.methods[0].configurations() == [("naive", {})]
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_lists_are_grids_and_labels_name_what_varies(tmp_path: Path):
    recipe = read(
        tmp_path,
        "title: Grid\nmethods:\n"
        "  - {method: ca-sam, label: ours, set: {temperature: 0.1, beta: [1, 16.5], router: [vae, knn]}}\n"
        "  - {method: ewc, set: {ewc_weight: [1e-4], fisher_images: null}}\n",
    )
    assert recipe.methods[0].configurations() == [
        ("ours, beta=1, router=vae", {"temperature": 0.1, "beta": 1, "router": "vae"}),
        ("ours, beta=1, router=knn", {"temperature": 0.1, "beta": 1, "router": "knn"}),
        ("ours, beta=16.5, router=vae", {"temperature": 0.1, "beta": 16.5, "router": "vae"}),
        ("ours, beta=16.5, router=knn", {"temperature": 0.1, "beta": 16.5, "router": "knn"}),
    ]
    assert recipe.methods[1].configurations() == [("ewc", {"ewc_weight": 1e-4, "fisher_images": None})]


def test_numbers_without_a_dot_are_numbers_and_names_stay_names(tmp_path: Path):
    recipe = read(tmp_path, SMALL + "training: {learning_rate: 1e-4, precision: fp32, max_steps: null}\n")
    assert recipe.training == {"learning_rate": 1e-4, "precision": "fp32", "max_steps": None}
    assert isinstance(recipe.training["learning_rate"], float)


def test_orders_tasks_and_unseen_sets_may_be_listed(tmp_path: Path):
    recipe = read(tmp_path, SMALL + "tasks: [a, b]\norder: [[a, b], [b, a]]\nunseen: [c]\n")
    assert (recipe.tasks, recipe.order, recipe.unseen) == (["a", "b"], [["a", "b"], ["b", "a"]], ["c"])


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (SMALL + "ordr: paper\n", ["unknown key 'ordr'", "keys: title, table"]),
        ("methods: [naive]\n", ["'title' is missing"]),
        ("title: x\nmethods: []\n", ["methods"]),
        ("title: x\nmethods: naive\n", ["wrong value for 'methods': 'naive'", "a list of names"]),
        (
            "title: x\nmethods: [{method: naive, sets: {}}]\n",
            ["unknown key 'method 1: sets'", "keys: method, label"],
        ),
        ("title: x\nmethods: [naive, {label: y}]\n", ["'method 2: method' is missing"]),
        ("title: x\nmethods: [{method: er, set: {a: []}}]\n", ["method 1: set", "'a' has an empty list"]),
        (
            "title: x\nmethods: [{method: er, set: {a: {b: 1}}}]\n",
            ["method 1: set.a", "a list of values for a grid"],
        ),
        (SMALL + "orders: 0\n", ["orders: Input should be greater than or equal to 1, not 0"]),
        (SMALL + "table: table12\n", ["table", "'table12'"]),
        (SMALL + "order: 3\n", ["wrong value for 'order': 3", "'order' takes paper, table8, random"]),
        (SMALL + "unseen: some\n", ["wrong value for 'unseen': 'some'", "none, paper, or a list"]),
        (SMALL + "weight: pixels\n", ["weight", "'images', 'masks' or 'tasks'"]),
        (SMALL + "training: {epochs: [1, 2]}\n", ["training.epochs", "options with one value each"]),
        ("- naive\n", ["not a mapping"]),
        ("title: [\n", ["not YAML"]),
    ],
)
def test_errors_name_file_key_and_fix(tmp_path: Path, text: str, messages: list[str]):
    with pytest.raises(OptionError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "mine.yaml") in caught.value.message
    assert caught.value.hint
    for message in messages:
        assert message in str(caught.value)


def test_every_wrong_key_is_named_at_once(tmp_path: Path):
    with pytest.raises(OptionError) as caught:
        read(tmp_path, SMALL + "seeds: 0\nordr: 1\nevaluate: train\n")
    for key in ("seeds", "ordr", "evaluate"):
        assert key in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(OptionError, match=r"nowhere\.yaml cannot be read"):
        load_recipe(tmp_path / "nowhere.yaml")
