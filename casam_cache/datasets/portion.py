"""Which portion of a file an image or a mask is: a page, some channels, its pixels as stored, a tile; behind its name.

`stack.tif#3` is the third page, `a.tif#channels=1,2,3` three channels of several, `a.jpg#exif=ignore` the pixels as
they are stored, `stack.tif#3&channels=2` both, `slide.tif#tile=896,0,1024,1024` a tile by its first column and row,
width and height. A name that ends in a suffix is always a whole file, so that no file
that has a `#` in its own name is taken for a portion of another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from casam_cache.errors import OptionError

_NAMED = r"channels=[\d,]+|exif=ignore|tile=\d+,\d+,\d+,\d+"
_WRITTEN = re.compile(rf"(?P<file>.*\.[^./#]+)#(?P<portion>(\d+|{_NAMED})(&({_NAMED}))*)")


@dataclass(frozen=True)
class Portion:
    """What is taken of a file.

    Attributes:
        page: its number, from 1; None where the file has one page.
        channels: their numbers, from 1; None takes the file's grey or RGB. Of a file with several grey pages they are
            pages, where `page` is None.
        as_stored: its EXIF orientation is not applied.
        tile: first column, first row, width and height, in pixels of the image that the rest makes.
    """

    page: int | None = None
    channels: tuple[int, ...] | None = None
    as_stored: bool = False
    tile: tuple[int, int, int, int] | None = None

    def __str__(self) -> str:
        """As it is written behind a file's name; empty for the whole file."""
        parts = [str(self.page)] if self.page is not None else []
        if self.channels is not None:
            parts.append("channels=" + ",".join(map(str, self.channels)))
        if self.as_stored:
            parts.append("exif=ignore")
        if self.tile is not None:
            parts.append("tile=" + ",".join(map(str, self.tile)))
        return "#" + "&".join(parts) if parts else ""

    def describe(self) -> str:
        """For people, as the subject of a sentence."""
        parts = [f"page {self.page}"] if self.page is not None else []
        if self.channels is not None:
            parts.append("channel " + ", ".join(map(str, self.channels)))
        if self.as_stored:
            parts.append("the pixels without their EXIF orientation")
        if self.tile is not None:
            x, y, width, height = self.tile
            parts.append(f"the tile of {width} x {height} pixels at {x}, {y}")
        return " and ".join(parts) or "the whole file"


WHOLE = Portion()


def split_portion(name: str) -> tuple[str, Portion]:
    """The file that a name of an image or mask means, and the portion of it."""
    match = _WRITTEN.fullmatch(name)
    if match is None:
        return name, WHOLE
    page, channels, as_stored, tile = None, None, False, None
    for piece in match["portion"].split("&"):
        if piece.isdecimal():
            page = int(piece)
        elif piece == "exif=ignore":
            as_stored = True
        elif piece.startswith("tile="):
            x, y, width, height = (int(number) for number in piece.removeprefix("tile=").split(","))
            tile = (x, y, width, height)
        else:
            channels = tuple(int(number) for number in piece.removeprefix("channels=").split(",") if number)
    return match["file"], Portion(page, channels, as_stored, tile)


def file_and_portion(path: Path) -> tuple[Path, Portion]:
    """As `split_portion`, for a path."""
    if "#" not in path.name:
        return path, WHOLE
    name, portion = split_portion(path.name)
    return path.with_name(name), portion


def check_pages(text: str) -> None:
    """Whether `text` says what to do with several pages: `first`, `all`, `objects` or the number of one.

    Raises:
        OptionError: it does not.
    """
    if text in ("first", "all", "objects") or (text.isdecimal() and int(text) > 0):
        return
    raise OptionError(
        f"'{text}' does not say which pages count",
        "--pages first, --pages N (from 1), --pages all (each is an image) or --pages objects (of masks)",
    )


def parse_channels(text: str) -> tuple[int, ...]:
    """The numbers, from 1, of one channel or of the three that are red, green and blue.

    Raises:
        OptionError: `text` holds something else.
    """
    pieces = [piece.strip() for piece in text.split(",")]
    numbers = tuple(int(piece) for piece in pieces if piece.isdecimal())
    if len(numbers) != len(pieces) or len(numbers) not in (1, 3) or min(numbers) < 1:
        raise OptionError(
            f"the channels '{text}' are neither one number nor three",
            "for example --channels 1,2,3 (the first is 1), or --channels 2 for a grey image",
        )
    return numbers
