"""Runs that take no prompts, opened to answer new images and those of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.bench.encoded_image import check_backbone, check_preprocessing, encode_pixels, pixels_of
from casam_cache.bench.opened_run import recorded_place
from casam_cache.encode.preprocessing import as_in_store
from casam_cache.engine.runs import read_record
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import EMBEDDING

Answer = TypeVar("Answer")


class WithoutPrompts(Generic[Answer]):
    """A fitted head that needs no prompt; a subclass loads the head and says what it makes of an embedding.

    Args:
        run: folder of the fit, as `casam fit --head` printed it.
        checkpoint: where the backbone's checkpoint is now, if not where it was.
        store: a store or the folder of stores: where the run's is now.
        device: `auto`, `cpu`, `cuda`, ...
        trust: run the Python files that the run brings; else only those that this user has run before.

    Raises:
        OptionError: the run is none of this kind.
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
        self._check(folder)
        record = read_record(folder)
        self.identity, self.task, source = recorded_place(
            folder, record, None if store is None else Path(store)
        )
        self._source = replace(source, checkpoint=checkpoint, trust=trust)
        self._backbone = as_in_store(self._source.decoder(where), self.identity)
        self._head: Any = self._load(folder, trust).to(where)
        names = record.recorded.get("class_names", {})
        self.class_names: Mapping[int, str] = {int(number): str(name) for number, name in names.items()}
        self._encoder: FrozenEncoder | None = None

    @staticmethod
    def _check(folder: Path) -> None:
        raise NotImplementedError

    def _load(self, folder: Path, trust: bool) -> Any:
        raise NotImplementedError

    def _answer(self, embedding: np.ndarray, geometry: Geometry, image: np.ndarray | None) -> Answer:
        raise NotImplementedError

    @property
    def head(self) -> str:
        """Its name."""
        return str(self._head.name)

    @property
    def classes(self) -> tuple[int, ...]:
        """Ids of the classes it knows, ascending."""
        return tuple(self._head.classes)

    @property
    def stand_in(self) -> str:
        """What is said of a model that is not one to publish with; else empty."""
        return self._backbone.stand_in

    @property
    def intensity(self) -> str:
        """How files of other bit depths become 8 bit, see `casam_cache.datasets.load_image`."""
        return str(self.identity["preprocessing"]["intensity"])

    def predict(self, image: Path | str | np.ndarray) -> Answer:
        """Encodes an image and answers it.

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
        return self._answer(features[EMBEDDING], geometry, pixels)

    def predict_item(self, store: EmbeddingStore | Path | str, name: str) -> Answer:
        """What it makes of an image of a store, by its id; the encoder is neither loaded nor run.

        Raises:
            StoreError: the store is of another backbone or preprocessing, or lacks the item.
        """
        opened = store if isinstance(store, EmbeddingStore) else EmbeddingStore.open(store)
        check_backbone(opened, self._backbone)
        check_preprocessing(opened, self.identity)
        index = opened.index(name)
        return self._answer(opened.read(index, EMBEDDING), opened.geometry(index), None)
