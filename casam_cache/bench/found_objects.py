"""Objects without prompts: a run of `casam fit --head proposals`, on new images and on those of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from casam_cache.bench.run_kinds import finds_objects
from casam_cache.bench.without_prompts import WithoutPrompts
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.segmenters.files import load_proposals
from casam_cache.segmenters.instances import Instance, find_instances, label_map
from casam_cache.segmenters.proposals import Proposals


@dataclass(frozen=True)
class FoundObjects:
    """The objects of one image.

    Attributes:
        instances: highest score first; none is less sure than the run's threshold.
        height, width: of the image.
        classes: ids of the classes that there are, whether or not they are in the image.
        class_names: of those that have one.
        threshold: the least score.
        head, task: by what.
        image: uint8 (H, W, 3), as the encoder's preprocessing read it; None for an item of a store.
    """

    instances: list[Instance]
    height: int
    width: int
    classes: tuple[int, ...]
    class_names: Mapping[int, str]
    threshold: float
    head: str
    task: str
    image: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """uint16 (H, W): 0 background, 1 + i where `instances[i]` is; where two overlap, the surer one's."""
        return label_map(self.instances, self.height, self.width)


class InstancePredictor(WithoutPrompts[FoundObjects]):
    """A fitted head of proposals; arguments and errors as of `WithoutPrompts`.

    found = InstancePredictor("casam_runs/proposals/KEY").predict("new.png")
    [one.score for one in found.instances], found.labels
    """

    @staticmethod
    def _check(folder: Path) -> None:
        if not finds_objects(folder):
            raise OptionError(
                f"{folder} is no run of a head that finds objects", "casam fit --head proposals makes one"
            )

    def _load(self, folder: Path, trust: bool) -> Proposals:
        return load_proposals(folder, self._backbone, trust=trust)

    def _answer(self, embedding: np.ndarray, geometry: Geometry, image: np.ndarray | None) -> FoundObjects:
        least = float(self._head.threshold)
        found = find_instances(
            self._head, self._backbone, torch.from_numpy(np.array(embedding)), geometry, least
        )
        return FoundObjects(
            found, geometry.height, geometry.width, self.classes, self.class_names, round(least, 4), self.head,
            self.task, image,
        )  # fmt: skip
