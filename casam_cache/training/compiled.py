"""The arithmetic of a training step through `torch.compile`, for fits that ask for it (`compiled=true`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from casam_cache.backbones.compiling import compile_fixed, compiler_error
from casam_cache.backbones.sam import Backbone
from casam_cache.errors import CasamError


class CompiledStep:
    """What a step computes up to its loss, compiled once for each size of batch.

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
        backbone.dense_pe()
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
