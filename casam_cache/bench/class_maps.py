"""Maps of classes without prompts: a run of `casam fit --head`, on new images and on those of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from casam_cache.bench.run_kinds import finds_objects, takes_no_prompts
from casam_cache.bench.without_prompts import WithoutPrompts
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.segmenters.base import Segmenter, class_map
from casam_cache.segmenters.files import load_segmenter


@dataclass(frozen=True)
class ClassMap:
    """The classes of one image.

    Attributes:
        labels: uint16 (H, W), at the image's size: 0 background, else the id of the class.
        classes: ids of the classes that there are, whether or not they are in the image.
        class_names: of those that have one.
        head, task: by what.
        image: uint8 (H, W, 3), as the encoder's preprocessing read it; None for an item of a store.
    """

    labels: np.ndarray
    classes: tuple[int, ...]
    class_names: Mapping[int, str]
    head: str
    task: str
    image: np.ndarray | None = None


class ClassMapPredictor(WithoutPrompts[ClassMap]):
    """A fitted head that gives a map of classes; arguments and errors as of `WithoutPrompts`.

    found = ClassMapPredictor("casam_runs/segmenter/KEY").predict("new.png")
    found.labels == 1
    """

    @staticmethod
    def _check(folder: Path) -> None:
        if not takes_no_prompts(folder):
            raise OptionError(
                f"{folder} is no run of a head without prompts", "casam fit --head fcn makes one"
            )
        if finds_objects(folder):
            raise OptionError(
                f"{folder} finds objects, it gives no map of classes", "open it with InstancePredictor"
            )

    def _load(self, folder: Path, trust: bool) -> Segmenter:
        return load_segmenter(folder, self._backbone, trust=trust)

    def _answer(self, embedding: np.ndarray, geometry: Geometry, image: np.ndarray | None) -> ClassMap:
        found = class_map(self._head, self._backbone, torch.from_numpy(np.array(embedding)), geometry)
        labels = np.array([0, *self.classes], np.uint16)[found.cpu().numpy()]
        return ClassMap(labels, self.classes, self.class_names, self.head, self.task, image)
