"""The lighter kinds of the Alignment Layer, the cosine schedule, and the recipe that a backbone brings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Casam

from casam_cache.backbones.registry import BACKBONES
from casam_cache.backbones.sam import Small
from casam_cache.backbones.tiny_sam import LiteMedSam, MobileSam
from casam_cache.bench.configs import fitting
from casam_cache.config import validated
from casam_cache.errors import OptionError
from casam_cache.heads.alignment import AlignmentLayer
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.registry import METHODS
from casam_cache.training.options import TrainingOptions

Encode = Callable[..., Any]
KINDS = {"full": 3_542_031, "depthwise": 206_607, "bottleneck": 211_599, "affine": 512}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_at_sams_width(kind: str) -> None:
    assert AlignmentLayer(256, AlignmentOptions(kind=kind)).trained_parameters() == KINDS[kind]


@pytest.mark.parametrize("norm", ["none", "branch"])
@pytest.mark.parametrize("kind", KINDS)
def test_begins_as_the_identity_and_every_part_can_learn(kind: str, norm: str) -> None:
    layer = AlignmentLayer(16, AlignmentOptions(kind=kind, norm=norm, blocks=3))
    x = torch.randn(2, 16, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), x)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    for _ in range(4):  # a silent convolution passes gradients on only once it is no longer silent
        optimiser.zero_grad()
        (layer(x) - 2 * x - 1).square().mean().backward()
        optimiser.step()
    still = [name for name, parameter in layer.named_parameters() if torch.equal(parameter, before[name])]
    assert not still


@pytest.mark.parametrize("kind", ["depthwise", "bottleneck"])
def test_pointwise_is_torchs_convolution(kind: str) -> None:
    layer = AlignmentLayer(16, AlignmentOptions(kind=kind, init="random"))
    point = next(m for m in layer.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1))
    x = torch.randn(2, point.in_channels, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(x, point.weight, point.bias)
    torch.testing.assert_close(point(x), expected, rtol=1e-5, atol=1e-6)


def test_the_papers_layer_keeps_its_name_and_affine_has_no_blocks() -> None:
    assert "kind" not in AlignmentOptions().model_dump()
    assert AlignmentOptions(kind="affine").model_dump()["kind"] == "affine"
    assert validated(AlignmentOptions, AlignmentOptions(kind="affine").model_dump()) == AlignmentOptions(
        kind="affine"
    )
    with pytest.raises(OptionError, match="blocks=2"):
        validated(AlignmentOptions, {"kind": "affine", "blocks": 2})


def test_a_recipe_fits_the_options_of_its_methods() -> None:
    """Every value is one that an option takes; who names epochs means all of them."""
    assert BACKBONES.get("vit_b").recipe == {"held_out": 0.2}
    for model in (Small, LiteMedSam, MobileSam):
        for name in ("alignment", "ca-sam", "naive"):
            made = METHODS.get(name)
            usual = fitting(model.recipe, made, {})
            own = {key: usual[key] for key in made.options_model().model_fields if key in usual}
            validated(made.options_model(), own)
            validated(TrainingOptions, {key: value for key, value in usual.items() if key not in own})
            assert own.keys() | (usual.keys() & TrainingOptions.model_fields.keys()) == usual.keys()
        assert set(fitting(model.recipe, METHODS.get("alignment"), {})) == set(model.recipe)
        left = fitting(model.recipe, METHODS.get("alignment"), {"epochs": 3})
        assert not {"min_steps", "max_steps"} & set(left)


def test_no_limit_of_steps_leaves_the_recipes_least() -> None:
    usual = {"min_steps": 240, "max_steps": 240}
    made = METHODS.get("alignment")
    assert fitting(usual, made, {"max_steps": None}) == {"min_steps": 240}
    assert fitting(usual, made, {"max_steps": 8}) == {"min_steps": 8}


@pytest.mark.parametrize("name", ["fcn", "proposals", "ca-sam-fcn", "ca-sam-proposals", "hq-sam"])
def test_what_a_recipe_says_of_the_layer_is_for_methods_that_have_one(name: str) -> None:
    usual = {"blocks": 1, "norm": "none", "init": "zero", "learning_rate": 3e-4}
    assert fitting(usual, METHODS.get(name), {}) == {"learning_rate": 3e-4}
    assert fitting(usual, METHODS.get("ca-sam"), {}) == usual


def test_points_between_states_are_for_fits_that_begin_as_the_frozen_sam() -> None:
    usual = {"held_out": 0.2, "interpolations": 3}
    for name in ("alignment", "decoder", "hq-sam", "ca-sam"):
        assert fitting(usual, METHODS.get(name), {}) == usual
        assert fitting(usual, METHODS.get(name), {"held_out": 0}) == {"held_out": 0.2}
    for name in ("naive", "lwf", "er", "joint"):
        assert fitting(usual, METHODS.get(name), {}) == {"held_out": 0.2}


def test_fit_takes_the_backbones_recipe_and_paper_is_one_flag_away(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(discs)
    monkeypatch.setattr(
        Small, "recipe", {"kind": "depthwise", "blocks": 1, "max_steps": 3, "schedule": "cosine"}
    )
    own = casam.json("fit", "--task", "discs")
    assert own["parameters"] < 1000
    assert own["flops"] > 0
    again = casam.json("fit", "--task", "discs", "--set", "kind=full", "--epochs", 1)
    assert again["parameters"] > 4000  # what is said comes before the recipe
    paper = casam.json("fit", "--task", "discs", "--recipe", "paper", "--epochs", 1)
    assert paper["parameters"] == 3 * again["parameters"]
    casam("fit", "--task", "discs", "--recipe", "mine")
    assert casam.code == 1
    assert "default, paper" in casam.err


def test_patience_needs_nothing_but_the_groups_that_the_recipe_holds_out(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    encode(discs)
    short = ("--set", "max_steps=4")
    told = casam.json("fit", "--task", "discs", "--patience", 2, *short)
    assert told["run"] == casam.json("fit", "--task", "discs", "--set", "patience=2", *short)["run"]
    casam("bench", "--tasks", "discs", "--methods", "alignment", "--set", "patience=2", *short)
    assert casam.code == 0
    casam("fit", "--task", "discs", "--patience", 2, "--set", "held_out=0")
    assert casam.code == 1
    assert "patience needs images to look at" in casam.err


def test_a_cosine_over_one_step_is_the_whole_rate_and_over_more_another(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    assert "schedule" not in TrainingOptions().model_dump()
    encode(discs)

    def weights(steps: int, schedule: str) -> bytes:
        options = ("--set", "blocks=1", "--set", f"max_steps={steps}", "--set", f"schedule={schedule}")
        run = casam.json("fit", "--task", "discs", *options)["run"]
        return (casam.folder / run / "head.safetensors").read_bytes()

    assert weights(1, "cosine") == weights(1, "constant")
    assert weights(3, "cosine") != weights(3, "constant")


@pytest.mark.parametrize("name", ["small", "lite_medsam"])
def test_an_affine_layer_is_asked_for_by_its_kind_alone(name: str) -> None:
    """Whatever number of blocks the backbone's own recipe has."""
    made = METHODS.get("alignment")
    usual = fitting(BACKBONES.get(name).recipe, made, {"kind": "affine"})
    own = {key: usual[key] for key in made.options_model().model_fields if key in usual}
    validated(made.options_model(), {**own, "kind": "affine"})
