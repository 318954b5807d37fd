"""A large image file, read tile by tile as a store of tiles was made from such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.images import ANY_SIZE, by_region, image_size, load_array, to_rgb
from casam_cache.datasets.intensity import FULL, parse_intensity
from casam_cache.datasets.portion import file_and_portion
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS
from casam_cache.datasets.tile_window import tile_window
from casam_cache.datasets.tiles import Grid, Tile
from casam_cache.engine.runs import RECORD, read_record
from casam_cache.errors import ImageError


class TiledImage:
    """The tiles of an image.

    Args:
        path: the file, perhaps with a portion.
        grid: how it is cut.

    Raises:
        ImageError: it cannot be read, or is too large for a file that is only read whole.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        self.path, self.grid = path, grid
        self.size = size_of(path)

    @property
    def tiles(self) -> list[Tile]:
        return list(self.grid.tiles(self.size))

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
