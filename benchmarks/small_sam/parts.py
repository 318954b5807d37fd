"""A batch in parts: helper processes compute the gradients of theirs on the weights of the trainer, which they share.

Two processes of one thread do more than one process of two: a step of a small model is thousands of small operations.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn

Losses = Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]
Build = Callable[[], tuple[Losses, Sequence[nn.Module]]]


ENDED = "a helper process ended; its message is above"


class Helper:
    """A process that computes one part of every batch.

    Args:
        build: makes the function to differentiate and the modules that hold its weights; picklable.
        draw: step -> tensors of its part; picklable.
        modules: the trainer's, in the same order, in shared memory.
    """

    def __init__(
        self, build: Build, draw: Callable[[int], dict[str, Tensor]], modules: Sequence[nn.Module]
    ) -> None:
        context: Any = multiprocessing.get_context("spawn")
        weights = [module.state_dict() for module in modules]
        self.gradients = [
            torch.zeros_like(parameter).share_memory_()
            for module in modules
            for parameter in module.parameters()
        ]
        self.line, far = context.Pipe()
        self.process = context.Process(
            target=_help, args=(far, build, draw, weights, self.gradients), daemon=True
        )
        self.process.start()
        far.close()

    def begin(self, step: int) -> None:
        """Let it begin with its part of this step."""
        try:
            self.line.send(step)
        except OSError:
            raise RuntimeError(ENDED) from None

    def numbers(self) -> dict[str, float]:
        """Wait until its gradients are there; returns what it would log. Raises RuntimeError where it failed."""
        try:
            answer = self.line.recv()
        except (EOFError, OSError):
            raise RuntimeError(ENDED) from None
        found: dict[str, float] = answer
        return found

    def close(self) -> None:
        """End the process."""
        self.line.close()
        self.process.join()


def _help(
    line: Connection,
    build: Build,
    draw: Callable[[int], dict[str, Tensor]],
    weights: list[dict[str, Tensor]],
    gradients: list[Tensor],
) -> None:
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # meant for the trainer, which saves and then ends this process
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    losses, modules = build()
    for module, shared in zip(modules, weights, strict=True):
        module.load_state_dict(shared, assign=True)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    ahead: tuple[int, dict[str, Tensor]] | None = None
    while True:
        try:
            step = line.recv()
        except EOFError:
            return
        tensors = ahead[1] if ahead and ahead[0] == step else draw(step)
        loss, found = losses(tensors)
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is not None:
                gradient.copy_(parameter.grad)
        line.send({name: float(value.detach()) for name, value in {"loss": loss, **found}.items()})
        ahead = (step + 1, draw(step + 1))
