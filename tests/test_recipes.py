"""Every recipe is complete and right by name and type; the script runs on a tiny dataset."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import draw_dataset

from casam_cache.backbones.recipes import SMALL, TINY_VIT
from casam_cache.bench.configs import expand
from casam_cache.bench.recipe import Recipe, TableName, load_recipe
from casam_cache.report.paper import paper_figures
from casam_cache.report.paper_tables import SHAPES
from casam_cache.training.options import TrainingOptions

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.slow  # four processes that import torch
def test_frozen_vs_fitted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    draw_dataset(tmp_path / "data" / "discs", images=8)
    command = [RECIPES / "frozen_vs_fitted.sh", tmp_path / "data", tmp_path / "out"]
    options = ["--name", "tiny", "--model", "small", "--checkpoint", tiny_checkpoint, "--resize", "stretch"]
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "FIT": "--set epochs=1 --seed 3",
    }
    done = subprocess.run(
        [*map(str, command), *map(str, options)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out" / "table.json").read_text())["results"]
    assert (result["task"], result["model"], result["seed"]) == ("discs", "tiny", 3)
    assert "| discs" in (tmp_path / "out" / "table.md").read_text()


TABLES = (
    "figure6", "routers", "table1", "table10", "table11", "table2", "table3_7", "table4", "table5", "table6_9",
    "table8",
)  # fmt: skip
FILES = [f"{table}{size}.yaml" for table in TABLES for size in ("", "_cpu")]


def test_every_recipe_is_tested() -> None:
    assert sorted(path.name for path in RECIPES.iterdir()) == sorted(
        ["frozen_vs_fitted.sh", "local_cluster.sh", *FILES]
    )
    assert set(TABLES) == set(get_args(TableName)) - {"bench"} <= set(SHAPES)


def test_documentation_has_every_recipe_and_every_key() -> None:
    text = (RECIPES.parent / "docs" / "benchmarks.md").read_text()
    assert set(re.findall(r"^\| `(\w+\.yaml)` \|", text, re.MULTILINE)) == {
        f"{table}.yaml" for table in TABLES
    }
    for table in TABLES:
        assert f"casam bench --recipe recipes/{table}.yaml" in text
    keys = text.split("### Keys of a recipe")[1].split("###")[0]
    rows = re.findall(r"^\| (`.+?) \|", keys, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(Recipe.model_fields)


@pytest.mark.parametrize("name", FILES)
def test_methods_and_options_exist_with_values_of_their_type(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    groups, references = expand(recipe)
    assert recipe.table == name.removesuffix(".yaml").removesuffix("_cpu")
    assert not references
    labels = [config.label for group in groups for config in group.configs]
    assert len(labels) == len(set(labels))
    assert f"recipes/{name}\n" in (RECIPES / name).read_text()


@pytest.mark.parametrize(
    "path", sorted((RECIPES.parent / "benchmarks").glob("*.yaml")), ids=lambda path: path.name
)
def test_recipes_of_our_own_studies_are_whole(path: Path) -> None:
    recipe = load_recipe(path)
    assert expand(recipe)
    assert f"benchmarks/{path.name}" in path.read_text(), "the command that runs it"


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("_cpu.yaml")])
def test_small_recipes_train_as_the_backbone_does_but_for_points_between(name: str) -> None:
    for usual in (SMALL, TINY_VIT):
        groups, _ = expand(load_recipe(RECIPES / name), usual)
        for config in (config for group in groups for config in group.configs):
            expected = {key: value for key, value in usual.items() if key in TrainingOptions.model_fields}
            assert {key: getattr(config.training, key) for key in expected} == {
                **expected,
                "interpolations": 0,
            }


def test_a_method_has_the_same_options_in_every_table_of_a_size() -> None:
    """Else two tables show different scores of what both call by the same name."""
    for size in ("", "_cpu"):
        found: dict[str, Any] = {}
        for table in ("table1", "table2", "table3_7", "table8"):
            for entry in load_recipe(RECIPES / f"{table}{size}.yaml").methods:
                name = entry.label or entry.method
                assert found.setdefault(name, entry.set) == entry.set, f"{name} in {table}{size}"


@pytest.mark.parametrize("name", FILES)
def test_settings_are_the_papers_or_the_small_ones(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    configs = [config for group in expand(recipe)[0] for config in group.configs]
    for config in configs:
        training = config.training.model_copy(update={"epochs": 0} if name.startswith("figure6") else {})
        assert training == TrainingOptions().model_copy(update={"epochs": training.epochs})
        assert getattr(config.method.options, "vae_steps", None) is None
        assert name.startswith("figure6") or config.training.epochs == 24
    assert recipe.defaults == ("backbone" if name.endswith("_cpu.yaml") else "paper")
    assert recipe.seeds == (
        1 if recipe.table == "table4" or ("_cpu" in name and recipe.table != "table1") else 3
    )
    assert recipe.select is None
    assert (recipe.weight, recipe.forgetting, recipe.evaluate) == ("images", "paper", "test")


@pytest.mark.parametrize("size", ["", "_cpu"])
@pytest.mark.parametrize(
    ("table", "option"),
    [("5", "pooling"), ("6", "threshold"), ("10", "temperature"), ("11", "beta")],
)
def test_ablations_have_every_value_of_the_paper(table: str, option: str, size: str) -> None:
    name = {"6": "table6_9"}.get(table, f"table{table}")
    (group,), _ = expand(load_recipe(RECIPES / f"{name}{size}.yaml"))
    values = {getattr(config.method.options, option) for config in group.configs}
    paper = {row.match[option] for row in paper_figures(table).rows}
    assert values >= paper
    assert values - paper == {"6": {"conformal"}, "11": {0.5}}.get(table, set())
    if table == "11":
        assert len(values) == 37


@pytest.mark.parametrize("size", ["", "_cpu"])
@pytest.mark.parametrize("table", ["1", "2", "3", "8"])
def test_comparisons_have_every_method_of_the_paper(table: str, size: str) -> None:
    """SAM-Med2D trains inside the encoder: hours on two cores, where benchmarks/image_mode.yaml has it."""
    absent = {"sam-med2d"} if (table, size) == ("3", "_cpu") else set()
    recipe = load_recipe(RECIPES / f"{'table3_7' if table == '3' else f'table{table}'}{size}.yaml")
    paper = {row.match["method"] for row in paper_figures(table).rows}
    assert {entry.method for entry in recipe.methods} == paper - absent
    if table == "8":
        assert (recipe.order, recipe.orders) == ("table8", 3)
