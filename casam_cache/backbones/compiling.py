"""`torch.compile` for code whose bits are part of what it makes: one compilation a shape, and no quiet way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
