"""`torch.compile` for code whose bits are part of what it makes: one compilation a shape, and no quiet way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.errors import CasamError


def compile_fixed(
    run: Callable[..., Any], *, fullgraph: bool = False, graphs: bool = False
) -> Callable[..., Any]:
    """`run` compiled once for each shape it meets, and never silently uncompiled, which would be other bits.

    Args:
        run: takes and gives tensors.
        fullgraph: refuse what the compiler cannot take in one piece.
        graphs: on CUDA replay what was compiled as CUDA graphs, one launch instead of hundreds. Outputs then live until
            the next call, and `torch.compiler.cudagraph_mark_step_begin` has to say where that begins.
    """
    import torch._dynamo.config as limits

    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(limits, name):
            setattr(limits, name, 4096)
    for name in ("fail_on_recompile_limit_hit", "fail_on_cache_limit_hit"):
        if hasattr(limits, name):
            setattr(limits, name, True)
    mode = "reduce-overhead" if graphs else None
    compiled: Callable[..., Any] = torch.compile(run, dynamic=False, fullgraph=fullgraph, mode=mode)
    return compiled


def compiler_error(error: BaseException) -> str | None:
    """What a compiler's complaint says, in one line; None for an error of the program that was to be compiled."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    cause = getattr(error, "inner_exception", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return ": ".join([type(cause).__name__, *lines[:1]])


class CompiledStep:
    """What a step of training computes up to its loss, compiled once for each size of batch.

    On a CPU element-wise chains become single loops. On CUDA forward and backward are replayed as CUDA graphs, so that
    a step of small tensors does not wait for the host to launch some hundred kernels. The function is the same, sums
    are taken in another order; on one machine the same batches give the same bits. One compiled fit at a time in a
    process: graphs mark their steps for the whole process.

    Args:
        run: takes tensors (and what stays the same over a fit) and gives tensors.
        backbone: what of it is computed once is computed now, or the compiler would make it part of the first step's
            graph, whose outputs do not outlive that step.
    """

    def __init__(self, run: Callable[..., Any], backbone: Backbone) -> None:
        backbone.prepare_decoding()
        self._graphs = backbone.device.type == "cuda"
        self._run = compile_fixed(run, graphs=self._graphs)

    def __call__(self, *tensors: Any) -> Any:
        """`run`, its outputs valid until the next call.

        Raises:
            CasamError: there is no compiler, or it cannot take this head.
        """
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return self._run(*tensors)
        except Exception as error:
            what = compiler_error(error)
            if what is None:
                raise
            message = f"torch.compile does not work here: {what}"
            raise CasamError(message, "fit without compiled=true") from error
