"""The arithmetic of a training step through `torch.compile`, for fits that ask for it (`compiled=true`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from casam_cache.backbones.compiling import compile_fixed
from casam_cache.errors import CasamError


class CompiledStep:
    """What a step computes up to its loss, compiled once for each size of batch.

    On a CPU element-wise chains become single loops. On CUDA forward and backward are replayed as CUDA graphs, so that
    a step of small tensors does not wait for the host to launch some hundred kernels. The function is the same, sums
    are taken in another order; on one machine the same batches give the same bits.

    Args:
        run: takes tensors (and what stays the same over a fit) and gives tensors.
        device: where it runs.
    """

    def __init__(self, run: Callable[..., Any], device: torch.device) -> None:
        self._graphs = device.type == "cuda"
        self._run = compile_fixed(run, graphs=self._graphs)
        self._worked = False

    def __call__(self, *tensors: Any) -> Any:
        """`run`, its outputs valid until the next call.

        Raises:
            CasamError: there is no compiler, or it cannot take this head.
        """
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        if self._worked:
            return self._run(*tensors)
        try:
            found = self._run(*tensors)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler says
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CasamError(
                f"torch.compile does not work here: {what}", "fit without compiled=true"
            ) from error
        self._worked = True
        return found


def arithmetic(run: Callable[..., Any], compiled: bool, device: torch.device) -> Callable[..., Any]:
    """`run` as it is, or compiled."""
    return CompiledStep(run, device) if compiled else run
