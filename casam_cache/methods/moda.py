"""MoDA (Algorithm 6): an Alignment Layer a task, and a classifier over the tasks seen that chooses one."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.routed import Routed, Routing
from casam_cache.routers.classifier import ClassifierOptions


class MoDAOptions(AlignmentOptions, ClassifierOptions):
    """The Alignment Layer and the classifier."""


class MoDA(Routed):
    """Routes by a task classifier; see `casam_cache/routers/classifier.py` for what it sees and how it is fitted.

    It is no exemplar-free method: ten training images a task are kept for the refits. Every image goes to a task
    that was seen; there is no fallback to the frozen SAM.
    """

    name = "moda"
    Options: ClassVar[type[BaseModel]] = MoDAOptions

    def __init__(self, options: BaseModel) -> None:
        super().__init__(options)
        if getattr(options, "classifier", None) == "tokens":
            self.needs = (*type(self).needs, "tokens")

    @property
    def routing(self) -> Routing:
        return "classifier"
