"""Maps of classes without prompts: a run of `casam fit --head`, on new images and on those of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.bench.encoded_image import check_backbone, check_preprocessing, encode_pixels, pixels_of
from casam_cache.bench.opened_run import recorded_place
from casam_cache.bench.run_kinds import takes_no_prompts
from casam_cache.encode.preprocessing import as_in_store
from casam_cache.engine.runs import read_record
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.segmenters.base import class_map
from casam_cache.segmenters.files import load_segmenter
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import EMBEDDING


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


class ClassMapPredictor:
    """A fitted head that needs no prompt.

        found = ClassMapPredictor("casam_runs/segmenter/KEY").predict("new.png")
        found.labels == 1

    Args:
        run: folder of the fit, as `casam fit --head` printed it.
        checkpoint: where the backbone's checkpoint is now, if not where it was.
        store: a store or the folder of stores: where the run's is now.
        device: `auto`, `cpu`, `cuda`, ...
        trust: run the Python files that the run brings; else only those that this user has run before.

    Raises:
        OptionError: the run is none without prompts.
        CasamError: the run, its backbone or the device cannot be used.
    """

    def __init__(
        self,
        run: Path | str,
        *,
        checkpoint: Path | None = None,
        store: Path | str | None = None,
        device: str = "auto",
        trust: bool = False,
    ) -> None:
        folder, where = Path(run).absolute(), choose_device(device)
        if not takes_no_prompts(folder):
            raise OptionError(
                f"{folder} is no run of a head without prompts", "casam fit --head fcn makes one"
            )
        record = read_record(folder)
        self.identity, self.task, source = recorded_place(
            folder, record, None if store is None else Path(store)
        )
        self._source = replace(source, checkpoint=checkpoint, trust=trust)
        self._backbone = as_in_store(self._source.decoder(where), self.identity)
        self._segmenter = load_segmenter(folder, self._backbone, trust=trust).to(where)
        names = record.recorded.get("class_names", {})
        self.class_names = {int(number): str(name) for number, name in names.items()}
        self._encoder: FrozenEncoder | None = None

    @property
    def head(self) -> str:
        """Its name."""
        return self._segmenter.name

    @property
    def classes(self) -> tuple[int, ...]:
        """Ids of the classes it knows, ascending."""
        return self._segmenter.classes

    @property
    def stand_in(self) -> str:
        """What is said of a model that is not one to publish with; else empty."""
        return self._backbone.stand_in

    @property
    def intensity(self) -> str:
        """How files of other bit depths become 8 bit, see `casam_cache.datasets.load_image`."""
        return str(self.identity["preprocessing"]["intensity"])

    def predict(self, image: Path | str | np.ndarray) -> ClassMap:
        """Encodes an image and gives its map.

        Args:
            image: a file, or uint8 (H, W, 3).

        Raises:
            ImageError: the file cannot be read.
            OptionError: an array of another shape or dtype.
            CheckpointError: the encoder cannot be had.
        """
        pixels = pixels_of(image, self.intensity)
        if self._encoder is None:
            whole = as_in_store(self._source.whole(self._backbone.device), self.identity)
            self._backbone, self._encoder = whole, FrozenEncoder.of(whole, self.identity)
        dtype = str(self.identity["embedding"]["dtype"])
        features, geometry = encode_pixels(
            pixels, self._backbone, self.identity, self._encoder, [EMBEDDING], dtype
        )
        return self._map(features[EMBEDDING], geometry, pixels)

    def predict_item(self, store: EmbeddingStore | Path | str, name: str) -> ClassMap:
        """The map of an image of a store, by its id; the encoder is neither loaded nor run.

        Raises:
            StoreError: the store is of another backbone or preprocessing, or lacks the item.
        """
        opened = store if isinstance(store, EmbeddingStore) else EmbeddingStore.open(store)
        check_backbone(opened, self._backbone)
        check_preprocessing(opened, self.identity)
        index = opened.index(name)
        return self._map(opened.read(index, EMBEDDING), opened.geometry(index), None)

    def _map(self, embedding: np.ndarray, geometry: Geometry, image: np.ndarray | None) -> ClassMap:
        classes = self._segmenter.classes
        found = class_map(self._segmenter, self._backbone, torch.from_numpy(np.array(embedding)), geometry)
        labels = np.array([0, *classes], np.uint16)[found.cpu().numpy()]
        return ClassMap(labels, classes, self.class_names, self._segmenter.name, self.task, image)
