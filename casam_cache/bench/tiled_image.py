"""A large image, tile by tile: read from its file as a store of tiles was made from such, or taken from that store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casam_cache.datasets.images import ANY_SIZE, by_region, image_size, load_array, to_rgb
from casam_cache.datasets.intensity import FULL, parse_intensity
from casam_cache.datasets.portion import file_and_portion
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS
from casam_cache.datasets.tile_window import tile_window
from casam_cache.datasets.tiles import Grid, Tile
from casam_cache.engine.runs import RECORD, read_record
from casam_cache.errors import ImageError, StoreError
from casam_cache.store import EmbeddingStore

if TYPE_CHECKING:
    from casam_cache.bench.class_maps import ClassMap, ClassMapPredictor
    from casam_cache.bench.predict import Predictor


class LargeImage(ABC):
    """An image that is larger than a tile.

    Attributes:
        name: for people.
        names: what prompts may call it.
        size: height and width.
        grid: how it is cut.
    """

    name: str
    names: set[str]
    size: tuple[int, int]
    grid: Grid

    @property
    def tiles(self) -> list[Tile]:
        """Row by row."""
        return list(self.grid.tiles(self.size))

    @abstractmethod
    def check(self, tile: Tile) -> None:
        """Whether a tile is there.

        Raises:
            StoreError: it is not.
        """

    @abstractmethod
    def show(self, predictor: Predictor, tile: Tile) -> None:
        """Makes a tile what prompts are about.

        Raises:
            CasamError: it cannot be read.
        """

    @abstractmethod
    def classes(self, predictor: ClassMapPredictor, tile: Tile) -> ClassMap:
        """The map of classes of a tile.

        Raises:
            CasamError: it cannot be read.
        """


class TiledImage(LargeImage):
    """An image file.

    Args:
        path: the file, perhaps with a portion.
        grid: how it is cut.

    Raises:
        ImageError: it cannot be read, or is too large for a file that is only read whole.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        self.path, self.grid, self.name = path, grid, str(path)
        self.names = {"", path.name, str(path), path.stem}
        self.size = size_of(path)

    def check(self, tile: Tile) -> None:
        pass

    def show(self, predictor: Predictor, tile: Tile) -> None:
        predictor.set_image(self.read(tile, predictor.intensity))

    def classes(self, predictor: ClassMapPredictor, tile: Tile) -> ClassMap:
        return predictor.predict(self.read(tile, predictor.intensity))

    def read(self, tile: Tile, intensity: str) -> np.ndarray:
        """One tile as uint8 RGB (h, w, 3), deep values by the window of the whole image.

        Args:
            tile: of `tiles`.
            intensity: as of `casam_cache.datasets.load_image`.

        Raises:
            ImageError: it cannot be read.
        """
        file, portion = file_and_portion(self.path)
        path = file.with_name(file.name + str(replace(portion, tile=tile.box)))
        window = parse_intensity(intensity)
        if window is None or window == FULL:
            window = tile_window(path, full=window == FULL)
        return to_rgb(load_array(path), path, window)


class StoredImage(LargeImage):
    """An image of whose tiles a store holds the features: no encoder is loaded or run.

    Args:
        store: made with --tile.
        name: the image's id.
        size: its height and width.
        grid: of the store.
    """

    def __init__(self, store: EmbeddingStore, name: str, size: tuple[int, int], grid: Grid) -> None:
        self._store, self.name, self.names, self.size, self.grid = store, name, {"", name}, size, grid
        self._there = set(store.ids)

    @classmethod
    def find(cls, store: EmbeddingStore, name: str) -> StoredImage | None:
        """The image of that id among those that were cut; None where there is none."""
        grid = grid_of(store.identity.get("tiles"))
        if grid is None or not store.has_annotations:
            return None
        for record in store.annotations.attributes.get("tiled", ()):
            if record["name"] == name:
                return cls(store, name, (int(record["height"]), int(record["width"])), grid)
        return None

    def check(self, tile: Tile) -> None:
        item = tile.id_in(self.name, self.size)
        if item not in self._there:
            raise StoreError(
                f"{self._store.path} lacks the tile {item}, since it holds nothing of a mask",
                "casam encode with --tiles all adds such tiles; or name the image file, which is encoded then",
            )

    def show(self, predictor: Predictor, tile: Tile) -> None:
        predictor.set_item(self._store, tile.id_in(self.name, self.size))

    def classes(self, predictor: ClassMapPredictor, tile: Tile) -> ClassMap:
        return predictor.predict_item(self._store, tile.id_in(self.name, self.size))


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image that may be larger than what is decoded at once, if it is read by region.

    Raises:
        ImageError: it cannot be read, or is too large.
    """
    file, _ = file_and_portion(path)
    try:
        limit = ANY_SIZE if by_region(file) else DEFAULT_MAX_PIXELS
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None
    return image_size(path, limit)


def recorded_grid(run: Path | None) -> Grid | None:
    """How the images were cut that a run was fitted on; None where they were not, or nothing says it.

    Raises:
        CasamError: its record is damaged.
    """
    if run is None or not (run / RECORD).is_file():
        return None
    identity = read_record(run).recorded.get("identity")
    stated = identity.get("tiles") if isinstance(identity, Mapping) else None
    return grid_of(stated)


def grid_of(stated: Any) -> Grid | None:
    """The grid in the identity of a store; None where there is none."""
    if not isinstance(stated, Mapping):
        return None
    return Grid(int(stated["side"]), int(stated["overlap"])).checked()
