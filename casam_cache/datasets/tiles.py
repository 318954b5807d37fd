"""The fixed grid of tiles that a large image is cut into, and which pixels of the image each tile answers for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from casam_cache.errors import OptionError

SMALLEST = 16  # side of a tile, pixels

Box = tuple[int, int, int, int]  # first column, first row, width, height


@dataclass(frozen=True)
class Tile:
    """One tile of an image, in pixels of the image.

    Attributes:
        x, y: its first column and row.
        width, height: its size.
        core: first column and row, width and height of what it answers for: overlaps are cut in the middle, so that the
            cores of an image's tiles are the image, each pixel once.
    """

    x: int
    y: int
    width: int
    height: int
    core: Box

    @property
    def box(self) -> Box:
        return self.x, self.y, self.width, self.height

    @property
    def core_inside(self) -> tuple[slice, slice]:
        """Rows and columns of the core in the tile itself."""
        x, y, width, height = self.core
        return slice(y - self.y, y - self.y + height), slice(x - self.x, x - self.x + width)

    def id_in(self, image: str, size: tuple[int, int]) -> str:
        """Its id, `slide#y0000_x0896`, which sorts as the tiles lie.

        Args:
            image: id of the image.
            size: height and width of that.
        """
        digits = len(str(max(size)))
        return f"{image}#y{self.y:0{digits}d}_x{self.x:0{digits}d}"


@dataclass(frozen=True)
class Grid:
    """Tiles of one side with an overlap; the last ones end with the image, so their overlap is larger.

    Attributes:
        side: of a tile, pixels.
        overlap: of neighbours, pixels: at most half a side.
    """

    side: int
    overlap: int

    @classmethod
    def of(cls, tile: int | None, overlap: int | None) -> Grid | None:
        """The grid that options ask for: an overlap of an eighth unless said otherwise; None without a side.

        Raises:
            OptionError: an overlap without a side, or sizes that make no grid.
        """
        if tile is None:
            if overlap is not None:
                raise OptionError(
                    f"--overlap {overlap} without --tile", "for example --tile 1024 --overlap 128"
                )
            return None
        return cls(tile, tile // 8 if overlap is None else overlap).checked()

    def checked(self) -> Grid:
        """Itself.

        Raises:
            OptionError: the side is too small, or the overlap more than half of it.
        """
        if self.side < SMALLEST:
            raise OptionError(
                f"tiles of {self.side} pixels", f"--tile takes {SMALLEST} or more, such as 1024"
            )
        if not 0 <= self.overlap <= self.side // 2:
            raise OptionError(
                f"an overlap of {self.overlap} pixels of tiles of {self.side}",
                "--overlap takes 0 to half of --tile, for example --tile 1024 --overlap 128",
            )
        return self

    def cuts(self, size: tuple[int, int]) -> bool:
        """Whether an image of that height and width is larger than a tile; others stay whole."""
        return max(size) > self.side

    def tiles(self, size: tuple[int, int]) -> Iterator[Tile]:
        """The tiles of an image of that height and width, row by row; of a small one, itself."""
        height, width = size
        rows, columns = self.spans(height), self.spans(width)
        for y, tall, first_row, core_rows in rows:
            for x, wide, first_column, core_columns in columns:
                yield Tile(x, y, wide, tall, (first_column, first_row, core_columns, core_rows))

    def spans(self, length: int) -> list[tuple[int, int, int, int]]:
        """Along one axis: first pixel and length of each tile, and of its core."""
        if length <= self.side:
            return [(0, length, 0, length)]
        step, last = self.side - self.overlap, length - self.side
        starts = [*range(0, last, step), last]
        cuts = [0, *((before + self.side + after) // 2 for before, after in pairwise(starts)), length]
        return [
            (start, self.side, low, high - low)
            for start, (low, high) in zip(starts, pairwise(cuts), strict=True)
        ]
