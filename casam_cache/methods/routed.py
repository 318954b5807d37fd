"""Methods with a head for each task and a router that chooses one for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel

from casam_cache.backbones.sam import Backbone
from casam_cache.config import validated
from casam_cache.heads.base import Head
from casam_cache.methods.base import Method
from casam_cache.routers.choice import RoutingOptions, routing_model
from casam_cache.training.options import TrainingOptions

Routing = Literal["density", "classifier", "oracle"]


class Routed(Method):
    """Each task's head is an ordinary fit of `expert`, in every order and for every method that uses it.

    The bench fits the experts and the router, scores every head on every test set once, and looks up which head the
    router would have chosen for each image.

    Attributes:
        expert: the single-task method of the heads; its options are taken from the options of the same names.
        merges: whether the heads used after each task are made from those of all tasks seen, by `merge`.
    """

    family: ClassVar[str] = "routed"
    expert: ClassVar[str] = "alignment"
    merges: ClassVar[bool] = False

    @property
    def routing(self) -> Routing:
        """How a head is chosen for an image.

        `density`: a density of pooled embeddings for each task with a threshold and fallback to the frozen SAM
        (`RoutingOptions`); `classifier`: a classifier over the tasks seen, refitted after each task
        from exemplars; `oracle`: the true task is told, and images of tasks not seen go to the frozen SAM.
        """
        return "density"

    @classmethod
    def options_model(cls) -> type[BaseModel]:
        """`Options`; where they are `RoutingOptions`, with those of every router and pooling that is known by now.

        Raises:
            OptionError: two of them have an option of the same name.
        """
        if not issubclass(cls.Options, RoutingOptions):
            return cls.Options
        return routing_model(cls.Options, reserved=TrainingOptions)

    def expert_method(self) -> Method:
        """The single-task method of the heads, with those of this method's options that it has."""
        from casam_cache.methods.registry import METHODS

        made = METHODS.get(self.expert)
        own = self.options.model_dump(mode="json")
        return made(
            validated(made.Options, {key: own[key] for key in made.Options.model_fields if key in own})
        )

    def build(self, backbone: Backbone, seed: int) -> Head:
        """The head that training of every task begins with."""
        return self.expert_method().build(backbone, seed)

    def merge(self, backbone: Backbone, seed: int, heads: Mapping[str, Head]) -> dict[str, Head]:
        """Heads by task -> the heads used instead after these tasks; only called if `merges`.

        Args:
            backbone: of the heads.
            seed: of the run: `build` gives the common initial head.
            heads: fitted experts of the tasks seen, in sorted name order (sums run in that order).
        """
        raise NotImplementedError

    def bytes_kept(self, heads: Mapping[str, Head]) -> int:
        """Bytes of weights that must be kept to use the heads of these tasks; routers are counted apart.

        Args:
            heads: fitted experts by task.
        """
        return sum(
            parameter.numel() * parameter.element_size()
            for head in heads.values()
            for parameter in head.parameters()
            if parameter.requires_grad
        )
