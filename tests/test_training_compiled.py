"""Compiled steps: the same function under another name, and the same again; without a compiler a clear end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import QUICK, TINY, fit, same_weights, toy_view

from casam_cache.backbones.sam import Backbone, seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.heads.files import build_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.pack import PackRequest, fit_pack

PLAIN = QUICK.model_copy(
    update={"epochs": 2, "masks_per_image": 1}
)  # six images, two a step: one size of batch
COMPILED = PLAIN.model_copy(update={"compiled": True})


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return seeded_backbone(TINY, 0)


def test_an_option_not_used_leaves_names_as_they_were() -> None:
    assert "compiled" not in TrainingOptions().model_dump(mode="json")
    assert TrainingOptions(compiled=True).model_dump(mode="json")["compiled"] is True


def test_without_a_compiler_the_fit_ends_before_its_first_step(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda run, **_: broken)
    with pytest.raises(CasamError, match=r"does not work here: RuntimeError: no compiler\n"):
        fit(backbone, options=COMPILED)
    fit(backbone, options=PLAIN)  # which does not ask for one


def test_a_compiled_fit_is_not_resumed_by_another(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    fit(backbone, options=COMPILED, checkpoint_dir=tmp_path)
    with pytest.raises(CasamError):
        fit(backbone, options=PLAIN, checkpoint_dir=tmp_path)


def test_members_of_a_pack_are_compiled_together_or_not_at_all(backbone: Backbone) -> None:
    heads = [build_head("alignment", None, backbone, seed) for seed in (0, 1)]
    requests = [PackRequest(heads[0], PLAIN, 0), PackRequest(heads[1], COMPILED, 1)]
    with pytest.raises(CasamError, match="different compiled"):
        fit_pack(requests, backbone, toy_view())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_a_compiled_fit_computes_the_same(backbone: Backbone) -> None:
    exact, found = fit(backbone, options=PLAIN), fit(backbone, options=COMPILED)
    assert found.history[0].loss == pytest.approx(exact.history[0].loss, rel=1e-4)
    for name, value in exact.head.state_dict().items():
        torch.testing.assert_close(found.head.state_dict()[name], value, atol=2e-3, rtol=1e-3)
    assert same_weights(found, fit(backbone, options=COMPILED))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_pack_computes_the_same(backbone: Backbone) -> None:
    def pack(options: TrainingOptions) -> list[float]:
        heads = [build_head("alignment", None, backbone, seed) for seed in (0, 1)]
        requests = [PackRequest(head, options, seed) for seed, head in enumerate(heads)]
        return [result.history[-1].loss for result in fit_pack(requests, backbone, toy_view())]

    assert pack(COMPILED) == pytest.approx(pack(PLAIN), rel=1e-3)
