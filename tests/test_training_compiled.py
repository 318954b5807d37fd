"""Compiled steps: the same function under another name, and the same again; without a compiler a clear end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import QUICK, TINY, fit, same_weights, toy_view

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.compiling import CompiledStep
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.heads.files import build_head
from casam_cache.methods.lwf import LwF, LwFOptions
from casam_cache.methods.memory import Memory
from casam_cache.methods.sequential import Past, Setting
from casam_cache.training import loop
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Penalty

PLAIN = QUICK.model_copy(
    update={"epochs": 2, "masks_per_image": 1, "batch_size": 4}
)  # six images: batches of 4 and 2
COMPILED = PLAIN.model_copy(update={"compiled": True})
compile_for_real = torch.compile


@pytest.fixture
def backbone() -> Backbone:
    return seeded_backbone(TINY, 0)


def test_an_option_not_used_leaves_names_as_they_were() -> None:
    assert "compiled" not in TrainingOptions().model_dump(mode="json")
    assert TrainingOptions(compiled=True).model_dump(mode="json")["compiled"] is True


def test_batches_of_ever_new_sizes_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="needs masks_per_image=1"):
        TrainingOptions(compiled=True, masks_per_image=2)


def compiler_that_fails(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no g++\nand a long trace")


@pytest.mark.slow
def test_without_a_compiler_the_fit_says_so(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: compile_for_real(run, backend=compiler_that_fails))
    with pytest.raises(CasamError, match=r"torch.compile does not work here: RuntimeError: no g\+\+\n"):
        fit(backbone, options=COMPILED)
    fit(backbone, options=PLAIN)  # which does not ask for one


def test_an_error_of_the_head_is_not_the_compilers(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    head = build_head("alignment", None, backbone, 0)

    def broken(features: Any) -> Any:
        raise CasamError("the head's own trouble", "mend the head")

    monkeypatch.setattr(head, "align", broken)
    with pytest.raises(CasamError, match=r"^the head's own trouble"):
        loop.fit_head(head, backbone, toy_view(), COMPILED)


def test_a_compiled_fit_is_not_resumed_by_another(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    fit(backbone, options=COMPILED, checkpoint_dir=tmp_path)
    with pytest.raises(CasamError, match="belongs to a fit with other options"):
        fit(backbone, options=PLAIN, checkpoint_dir=tmp_path)


def test_a_finished_fit_keeps_nothing(backbone: Backbone) -> None:
    penalty = Penalty()
    gone = weakref.ref(penalty)
    gc.disable()
    try:
        fit(backbone, options=PLAIN, penalty=penalty)
        del penalty
        assert gone() is None
    finally:
        gc.enable()


@pytest.fixture
def short_lived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for CUDA graphs: whatever a graph gave is overwritten as soon as the next step begins.

    Graphs are differentiated and run as they are captured, without code being generated. Returns a list with one entry,
    the number of graphs.
    """
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    given: list[torch.Tensor] = []
    graphs = [0]

    def place(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def replayed(graph: Any, inputs: Any) -> Callable[..., Any]:
        graphs[0] += 1
        run = make_boxed_func(graph.forward)

        def call(arguments: list[Any]) -> Any:
            theirs = {place(one) for one in arguments if isinstance(one, torch.Tensor)}
            outputs = run(arguments)
            for one in outputs:
                if isinstance(one, torch.Tensor) and one.is_floating_point() and place(one) not in theirs:
                    given.append(one.detach())
            return outputs

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    backend = aot_autograd(fw_compiler=replayed, bw_compiler=replayed)
    monkeypatch.setattr(
        torch, "compile", lambda run, **_: compile_for_real(run, backend=backend, dynamic=False)
    )
    honest = CompiledStep.__call__

    def call(self: CompiledStep, *tensors: Any) -> Any:
        for one in given:
            one.fill_(float("nan"))
        given.clear()
        return honest(self, *tensors)

    monkeypatch.setattr(CompiledStep, "__call__", call)
    torch._dynamo.reset()
    return graphs


@pytest.mark.slow
def test_a_step_reads_nothing_of_the_graph_before(backbone: Backbone, short_lived: list[int]) -> None:
    plain = fit(backbone, options=PLAIN)
    assert same_weights(plain, fit(seeded_backbone(TINY, 0), options=COMPILED))
    assert short_lived[0] == 4  # forward and backward of two sizes of batch


@pytest.mark.slow
def test_a_penalty_reads_outputs_while_they_are_there(backbone: Backbone, short_lived: list[int]) -> None:
    def distilled(options: TrainingOptions) -> Any:
        past = Past(
            build_head("alignment", None, backbone, 7).requires_grad_(False), Memory(), None, ("toy",)
        )
        setting = Setting(backbone, options, 0, "toy")
        return fit(backbone, options=options, penalty=LwF(LwFOptions()).penalty(toy_view(), past, setting))

    plain = distilled(PLAIN)
    assert plain.history[0].penalty > 0
    assert same_weights(plain, distilled(COMPILED))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # most of it the compiler's
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_a_compiled_fit_computes_the_same(backbone: Backbone, tmp_path: Path) -> None:
    plain, compiled = (
        one.model_copy(update={"batch_size": 3}) for one in (PLAIN, COMPILED)
    )  # one size of batch
    exact, found = fit(backbone, options=plain), fit(backbone, options=compiled)
    assert found.history[0].loss == pytest.approx(exact.history[0].loss, rel=1e-4)
    for name, value in exact.head.state_dict().items():
        torch.testing.assert_close(found.head.state_dict()[name], value, atol=2e-3, rtol=1e-3)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(backbone, options=compiled, checkpoint_dir=tmp_path, on_epoch=stop)
    resumed = fit(backbone, options=compiled, checkpoint_dir=tmp_path)
    assert resumed.resumed_from == 1
    assert same_weights(found, resumed)
