"""What stages whose result is a head have in common, and methods as stages name them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from casam_cache.backbones.sam import Backbone
from casam_cache.bench.tasks import Place, SplitRef
from casam_cache.config import validated
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work, beside
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.files import WEIGHTS, load_head, save_head
from casam_cache.methods.base import Method
from casam_cache.methods.registry import METHODS
from casam_cache.registry import revision_of
from casam_cache.training.items import Items
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Penalty


@dataclass(frozen=True)
class MethodRef:
    """A method with its options as a stage's key names it.

    Attributes:
        name, revision: which; the revision of one from a user's file is the SHA-256 of the file.
        options: every option, plain.
    """

    name: str
    revision: int | str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, method: Method) -> MethodRef:
        """The reference of a method."""
        return cls(method.name, revision_of(type(method)), method.options.model_dump(mode="json"))

    def key_data(self) -> dict[str, Any]:
        """What a stage's key holds of it."""
        return vars(self)

    def make(self, work: Work) -> Method:
        """The method, whose code is recorded with the result.

        Raises:
            CasamError: it has changed since the plan was made.
        """
        made = METHODS.get(self.name)
        if revision_of(made) != self.revision:
            raise CasamError(
                f"method '{self.name}' has changed since the plan was made",
                "run the command again: it plans with what is there now",
            )
        work.use(made)
        return made(validated(made.options_model(), self.options))


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadStage(Stage):
    """A stage that ends with a head, or with one for each of several tasks.

    Attributes:
        method: what is fitted.
        seed: of the run.
        size: image-mask pairs to train on, for estimates.
    """

    method: MethodRef
    seed: int
    size: float = beside(1.0)

    @property
    def cost(self) -> float:
        """Image-mask pairs."""
        return max(1.0, self.size)

    def head(self, runs: Runs, backbone: Backbone, member: str = "") -> Head:
        """The finished head, on the CPU and in evaluation mode.

        Args:
            runs: where it is.
            backbone: of its dimensions.
            member: which of several.
        """
        return load_head(runs.open(self) / member, backbone)

    def bytes_kept(self, runs: Runs) -> int:
        """Bytes of the head's weights."""
        return (runs.open(self) / WEIGHTS).stat().st_size


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedStage(HeadStage):
    """A head that the training loop fits.

    Attributes:
        training: the recipe, its precision resolved.
    """

    training: TrainingOptions

    @property
    @abstractmethod
    def task(self) -> str:
        """A task whose store says which backbone it is about."""

    def train(
        self,
        work: Work,
        head: Head,
        items: Items,
        penalty: Penalty | None = None,
        training: TrainingOptions | None = None,
    ) -> dict[str, Any]:
        """Fits `head`, keeps it as the stage's result, and returns what is recorded."""
        place: Place = work.place
        work.use(type(head))
        fitted = fit_head(
            head, place.backbone(self.task), items, training or self.training,
            seed=self.seed, device=place.torch_device, checkpoint_dir=work.resumable(), penalty=penalty,
            on_step=work.progress,
            warn=work.say,
        )  # fmt: skip
        save_head(head, work.result)
        return {**about(place, self.task), "fit": fitted.to_json(), "parameters": head.trained_parameters()}


def about(place: Place, task: str) -> dict[str, Any]:
    """What `casam predict` needs to know of the store that a head was fitted on."""
    store = place.store(task)
    return {
        "task": task,
        "store": str(store.path.resolve()),
        "identity": store.identity,
        "mask_mode": store.annotations.attributes["mask_mode"],
    }


def train_items(work: Work, refs: tuple[SplitRef, ...]) -> dict[str, Items]:
    """The training items of several tasks by name."""
    return {ref.task: work.place.items(ref) for ref in refs}
