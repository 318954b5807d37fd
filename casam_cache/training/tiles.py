"""Which images of a store are tiles of larger ones, and where in them they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from casam_cache.datasets.portion import split_portion
from casam_cache.datasets.tiles import Box, Grid, Tile
from casam_cache.store import Annotations, EmbeddingStore


@dataclass(frozen=True)
class TilePlace:
    """Where an image lies in the larger one that it is a tile of.

    Attributes:
        image: id of the whole image, unique in its task.
        x, y: first column and row of the tile.
        core: first column and row, width and height of what it answers for, in pixels of the whole image; the cores of
            an image's tiles are the image, each pixel once.
        joined: pieces of one object in several tiles are known by their number in the class; False: by the pixels that
            they share, since each tile numbers its connected regions anew.
    """

    image: str
    x: int
    y: int
    core: Box
    joined: bool

    @property
    def core_inside(self) -> tuple[slice, slice]:
        """Rows and columns of the core in the tile itself."""
        return Tile(self.x, self.y, 0, 0, self.core).core_inside


class Tiles:
    """The tiles of a store, by what its annotations say of the images that were cut.

    Args:
        store: whose images may be tiles.
        annotations: of the store; `attributes["tiled"]` are records as of `Dataset.tiled`.
    """

    def __init__(self, store: EmbeddingStore, annotations: Annotations) -> None:
        attributes: Mapping[str, Any] = annotations.attributes
        self._store = store
        self._joined = attributes.get("mask_mode") != "components"
        stated = store.identity.get("tiles")
        grid = None if stated is None else Grid(int(stated["side"]), int(stated["overlap"]))
        self._names: dict[str, str] = {}
        self._tiles: dict[str, dict[Box, Tile]] = {}
        for record in attributes.get("tiled", ()) if grid is not None else ():
            assert grid is not None
            size = (int(record["height"]), int(record["width"]))
            self._names[record["source"]] = str(record["name"])
            self._tiles[record["source"]] = {tile.box: tile for tile in grid.tiles(size)}

    def place(self, item: int) -> TilePlace | None:
        """Where an image lies in a larger one; None where it is no tile.

        Args:
            item: its number in the store.
        """
        if not self._tiles:
            return None
        file, portion = split_portion(self._store.paths[item])
        source = file + str(replace(portion, tile=None))
        if portion.tile is None or source not in self._tiles:
            return None
        tile = self._tiles[source].get(portion.tile)
        if tile is None:
            return None
        return TilePlace(self._names[source], tile.x, tile.y, tile.core, self._joined)

    def facts(self, item: int) -> tuple[dict[str, Any], ...]:
        """What decides scores of whole images, as plain JSON; empty of an image that is no tile."""
        place = self.place(item)
        return () if place is None else (asdict(place),)
