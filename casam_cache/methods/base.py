"""What a method is: options, what it reads, and the head it trains. The training loop alone steps the optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import BaseModel

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head


class Method(ABC):
    """A way of fitting one task from its cached features; evaluated on the task it was fitted to.

    A method never steps the optimiser and never sees data but the items it is handed: it builds the head, and
    the one training loop fits it to the training split of one task. Families that go over several tasks:
    `Sequential` (one head, task after task), `Joint` (one head on the union) and `Routed` (a head a task, and
    a router that chooses).

    Attributes:
        name: in tables, run folders and `--method`.
        Options: model of its options; `--set key=value` is checked against it by name and type.
        revision: raised when the same options would give another result; for a method from a user's file, the
            SHA-256 of that file.
        needs: feature arrays of the store that it reads; an option may add to them.
        runs_encoder: whether what it reads as pixels goes through the backbone's encoder, which is loaded then.
        family: what the bench does with it: `frozen`, `single`, `sequential`, `joint` or `routed`; set by base classes.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]]
    revision: ClassVar[int | str] = 1
    needs: tuple[str, ...] = ("embedding",)
    runs_encoder: ClassVar[bool] = True
    family: ClassVar[str] = "single"

    def __init__(self, options: BaseModel) -> None:
        self.options = options

    @classmethod
    def options_model(cls) -> type[BaseModel]:
        """What `--set` is checked against: `Options`, unless what can be chosen brings options of its own."""
        return cls.Options

    @abstractmethod
    def build(self, backbone: Backbone, seed: int) -> Head:
        """A new head; initial weights depend on the seed, the options and the backbone's dimensions alone."""
