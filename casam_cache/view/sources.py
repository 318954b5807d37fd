"""Where the images that are shown come from: the items of a store, or a folder whose images are encoded when opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from casam_cache.bench.opened_run import folder_of_stores
from casam_cache.bench.predict import Predictor
from casam_cache.bench.tasks import find_store
from casam_cache.datasets.images import image_suffixes, load_image
from casam_cache.datasets.listing import walk
from casam_cache.encode.source_images import SourceImages
from casam_cache.engine.runs import RECORD, read_record
from casam_cache.errors import CasamError, ImageError, OptionError, StoreError
from casam_cache.store import EmbeddingStore, find_stores


class Source(ABC):
    """A list of images, each known by its place in it.

    Attributes:
        name: for people, and of the folder that masks are kept in.
        ids: of the images.
        files: their paths in their dataset or folder.
    """

    name: str
    ids: Sequence[str]
    files: Sequence[str]

    @abstractmethod
    def show(self, predictor: Predictor, place: int) -> None:
        """Makes it the image that prompts are about.

        Raises:
            CasamError: it cannot be.
        """

    @abstractmethod
    def pixels(self, predictor: Predictor, place: int) -> np.ndarray:
        """The image as uint8 (H, W, 3).

        Raises:
            CasamError: it cannot be read.
        """


class StoreSource(Source):
    """The items of a store: prompts are answered from it, and the image is read only to be looked at.

    Args:
        store: which.
        data: the dataset's folder, or the one it lies in; None: where it was when it was encoded.
    """

    def __init__(self, store: EmbeddingStore, data: Path | None = None) -> None:
        self.name, self.ids, self.files = store.path.parent.name, store.ids, store.paths
        self._store, self._data = store, data
        self._images: SourceImages | None = None

    def show(self, predictor: Predictor, place: int) -> None:
        predictor.set_item(self._store, self.ids[place])

    def pixels(self, predictor: Predictor, place: int) -> np.ndarray:
        if self._images is None:
            self._images = SourceImages(self._store, self._data)
        return self._images.read(place)


class FolderSource(Source):
    """The images below a folder, each encoded when it is opened.

    Args:
        folder: which.

    Raises:
        OptionError: it is none, or holds no image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise OptionError(f"there is no folder {folder}", "name a folder of images with --images")
        self._folder = folder.resolve()
        self.name = self._folder.name or "images"
        self.files = [name for name, _ in walk(folder) if Path(name).suffix.lower() in image_suffixes()]
        if not self.files:
            raise OptionError(f"{folder} holds no image", "name a folder of images with --images")
        self.ids = self.files

    def show(self, predictor: Predictor, place: int) -> None:
        predictor.set_image(self.pixels(predictor, place))

    def pixels(self, predictor: Predictor, place: int) -> np.ndarray:
        path = self._folder / self.files[place]
        if not path.resolve().is_relative_to(self._folder):
            raise ImageError(f"{path} leads out of the folder {self._folder}", "copy the image into it")
        return load_image(path, predictor.intensity)


def run_and_stores(what: Path, store: Path | None) -> tuple[Path | None, Path | None]:
    """What a path is: a run with the stores beside it, or stores alone.

    Args:
        what: a run, a store or a folder of stores.
        store: where the stores of a run are; None: where they were when it was fitted.

    Returns:
        The run or None, and a store, a folder of stores, or None where those of the run are gone.

    Raises:
        OptionError: `store` beside stores.
        CasamError: the run's record is damaged.
    """
    if not (what / RECORD).is_file():
        if store is not None:
            raise OptionError(f"--store beside {what}, which is no run", "leave it out")
        return None, what
    if store is not None:
        return what, store
    record = read_record(what)
    named = record.recorded.get("store")
    if not isinstance(named, str) or not Path(named).is_dir():
        return what, None
    return what, Path(named).parent.parent if record.kind == "model" else Path(named)


def store_sources(
    stores: Path, task: str | None, model: str | None, data: Path | None, predictor: Predictor
) -> list[Source]:
    """The stores that a predictor takes images from, of one backbone.

    Args:
        stores: a store, or a folder of stores.
        task: the only one of the folder; None: all.
        model: the backbone's name, where there are several.
        data: of the images, see `StoreSource`.
        predictor: whose backbone.

    Raises:
        OptionError: an unknown task, or several backbones.
        StoreError: there is no store, or the only one is of another backbone.
    """
    if folder_of_stores(stores) != stores.absolute():
        paths = [stores]
    else:
        paths = find_stores(stores, task or "*", find_store(stores, task, model).stem)
    found: list[Source] = []
    refused: StoreError | None = None
    for one in map(EmbeddingStore.open, paths):
        try:
            predictor.check_store(one)
        except StoreError as error:
            refused = error
            continue
        found.append(StoreSource(one, data))
    if refused is not None and not found:
        raise refused
    return found


def reason_of(error: CasamError) -> str:
    """An error as one line."""
    return f"{error.message} ({error.hint})" if error.hint else error.message
