"""What stages whose result is a head have in common, and methods as stages name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.backbones.base import Backbone
from casam_cache.bench.tasks import Place
from casam_cache.config import validated
from casam_cache.encode.kept_backbones import keep_backbone
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work
from casam_cache.heads.base import Head
from casam_cache.heads.files import WEIGHTS, load_head
from casam_cache.methods.base import Method
from casam_cache.methods.registry import METHODS
from casam_cache.registry import revision_of


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
        return cls(method.name, revision_of(type(method)), method.options.model_dump(mode="json"))

    def key_data(self) -> dict[str, Any]:
        return vars(self)

    def make(self, work: Work) -> Method:
        """The method, whose code is recorded with the result.

        Raises:
            CasamError: it has changed since the plan was made.
        """
        made = METHODS.planned(self.name, self.revision)
        work.use(made)
        return made(validated(made.options_model(), self.options))


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadStage(Stage):
    """A stage that ends with a head, or with one for each of several tasks.

    Attributes:
        method: what is fitted.
        seed: of the run.
    """

    method: MethodRef
    seed: int

    @property
    def pace(self) -> str:
        return self.method.name

    def backbone(self, place: Place, task: str) -> Backbone:
        """The backbone of a task's store, with the encoder where the method trains through it."""
        method = METHODS.get(self.method.name)
        return place.backbone(task, method.needs, encoder=method.runs_encoder)

    def head(self, runs: Runs, backbone: Backbone, member: str = "") -> Head:
        """The finished head, or the one of several that `member` names, on the CPU and in evaluation mode."""
        return load_head(runs.open(self) / member, backbone)

    def bytes_kept(self, runs: Runs) -> int:
        return (runs.open(self) / WEIGHTS).stat().st_size


def about(work: Work, task: str) -> dict[str, Any]:
    """What `casam predict` needs to know of the store that a head was fitted on; its backbone is kept with the runs."""
    place: Place = work.place
    store, fingerprint = place.store(task), place.weights(task)
    kept = keep_backbone(Path(place.stores), fingerprint, work.runs.root)
    return {
        "backbone": {**kept, "fingerprint": fingerprint},
        "task": task,
        "store": str(store.path.resolve()),
        "identity": store.identity,
        "mask_mode": store.annotations.attributes["mask_mode"],
    }
