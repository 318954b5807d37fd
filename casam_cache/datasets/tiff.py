"""TIFF: which pages and channels a file holds by `tifffile`, which also decodes what Pillow would reduce or refuse.

Grey, palette and colour of 8 bits, and grey of 16 or 32 bits where Pillow gives the very values, stay with Pillow: its
libtiff knows more compressions and colour spaces.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casam_cache.datasets.pillow_files import pillow_header, read_pillow
from casam_cache.datasets.pixels import (
    Header,
    Pixels,
    check_channels,
    check_pixels,
    page_index,
    take_channels,
    turned,
    upright,
)
from casam_cache.datasets.portion import Portion
from casam_cache.datasets.tiff_pages import Planes
from casam_cache.datasets.tile_pixels import check_tile
from casam_cache.errors import ImageError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3
_OF_PILLOW = {0, 1, 2, 3, 5, 6}  # photometric interpretations, CMYK and YCbCr among them
_BY_REGION = {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, 6}  # and YCbCr, of JPEG
_PREMULTIPLIED, _ALPHA = 1, 2
# Slide scanners put the slide first, and a label and a preview beside it.
_SLIDES = {"svs", "ndpi", "scn", "philips", "bif", "avs", "ventana"}
_UNDONE = {6: 8, 8: 6}  # the orientation that undoes another; all else undo themselves


@dataclass(frozen=True)
class _Kind:
    """What the pages of a file have in common, as the first one's tags say it."""

    photometric: int
    bits: int
    letter: str  # of the NumPy type: u, i, f, b
    samples: int
    extras: tuple[int, ...]
    compressed: bool
    known_to_pillow: bool
    big_endian: bool
    orientation: int


@cache
def _quiet() -> None:
    """Oddities of headers, which tifffile logs, would be printed where nobody set up logging."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())


@contextmanager
def _open(path: Path) -> Iterator[TiffFile]:
    import tifffile

    _quiet()
    with tifffile.TiffFile(path) as tif:
        yield tif


def tiff_header(path: Path, max_pixels: int) -> Header:
    """What the header says; whatever the libraries raise is for the caller to explain.

    Raises:
        ImageError: a page has more than `max_pixels`.
    """
    try:
        with _open(path) as tif:
            return _Stack(path, tif, max_pixels).header
    except ImageError:
        raise
    except Exception:  # Pillow may know it, or say what is wrong
        return pillow_header(path, max_pixels)


def read_tiff(path: Path, portion: Portion, palette: bool, max_pixels: int) -> Pixels:
    """Decode one page; whatever the libraries raise is for the caller to explain.

    Raises:
        ImageError: too large, the portion cannot be taken, or a codec is missing.
    """
    try:
        with _open(path) as tif:
            stack = _Stack(path, tif, max_pixels)
            if not stack.for_pillow:
                return stack.read(portion)
            header, kind = stack.header, stack.kind
    except ImageError:
        raise
    except Exception as error:
        try:
            return read_pillow(path, portion, palette, max_pixels)
        except Exception:
            raise error from None
    page_index(path, header, portion)
    check_channels(path, header, portion)
    pixels = read_pillow(path, Portion(1, portion.channels), palette, max_pixels)
    if portion.as_stored:
        array = upright(pixels.array, _UNDONE.get(kind.orientation, kind.orientation))
        return Pixels(array, pixels.mode, pixels.format)
    return pixels


def read_tiff_tile(path: Path, portion: Portion, max_pixels: int) -> Pixels | None:
    """One tile of a page, of which only the strips and tiles of the file that it meets are decoded.

    None where the file has to be read whole: turned by its orientation, with a palette or in a colour space that Pillow
    knows better, or with pages that are no slices of its data.

    Raises:
        ImageError: the portion cannot be taken, a codec is missing, or a strip alone has more than `max_pixels`.
    """
    assert portion.tile is not None
    with _open(path) as tif:
        stack = _Stack(path, tif, 1 << 62)
        if portion.channels is not None and portion.page is None and stack.header.pages > 1:
            return None  # pages that are channels
        index = page_index(path, stack.header, portion)
        check_channels(path, stack.header, portion)
        turned_by = 1 if portion.as_stored else stack.kind.orientation
        if turned_by != 1 or stack.kind.photometric not in _BY_REGION:
            return None
        check_tile(path, portion.tile, stack.header.size)
        found = stack.tile(index, portion.tile, max_pixels)
        if found is None:
            return None
        array = take_channels(found, portion)
    mode = "1" if array.dtype == np.bool_ else ""
    return Pixels(array.astype(np.uint8) if mode else array, mode, "TIFF")


class _Stack:
    """The pages of a file, and the channels of each: several series of pages count as one after another."""

    def __init__(self, path: Path, tif: TiffFile, max_pixels: int) -> None:
        self.path, self.tif, self.max_pixels = path, tif, max_pixels
        series = [one for one in tif.series if not one.keyframe.is_reduced] or list(tif.series[:1])
        if not series:
            raise ImageError(f"{path}: a TIFF without an image", "export it again")
        if str(series[0].kind).lower() in _SLIDES:
            series = series[:1]
        self.planes = [Planes(path, one) for one in series]
        for one in self.planes:
            check_pixels(path, one.height, one.width, max_pixels)
        self.kind = _kind(series[0], tif)
        first = self.planes[0]
        kinds = {_look(one.keyframe) for one in series}
        plain = len(kinds) == 1 and all(one.channels == first.channels for one in self.planes)
        plain = plain and _plain(self.kind, first)
        self.header = Header(
            turned((first.height, first.width), self.kind.orientation),
            sum(one.pages for one in self.planes),
            first.channels,
            plain,
            self.kind.orientation,
            f"a TIFF of {self.kind.bits} bits",
        )

    @property
    def for_pillow(self) -> bool:
        """Whether Pillow gives the values of the file, which then has a single page."""
        kind = self.kind
        if self.planes[0].series.keyframe.index != 0:
            return False
        if self.header.pages != 1 or not self.header.plain or self.planes[0].channels != max(1, kind.samples):
            return False
        if not kind.known_to_pillow or kind.photometric not in _OF_PILLOW:
            return False
        if kind.letter in "ub" and kind.bits <= 8:
            return True
        swapped = kind.compressed and kind.big_endian  # whose bytes Pillow leaves swapped
        if kind.samples != 1 or kind.photometric != BLACK_IS_ZERO:
            return False
        if kind.letter == "u":
            return kind.bits == 16
        return not swapped and (kind.letter, kind.bits) in {("i", 16), ("i", 32), ("f", 32)}

    def read(self, portion: Portion) -> Pixels:
        index = page_index(self.path, self.header, portion)
        check_channels(self.path, self.header, portion)
        array = take_channels(self._page(index), portion)
        orientation = 1 if portion.as_stored else self.kind.orientation
        mode = "1" if array.dtype == np.bool_ else ""
        if mode:
            array = array.astype(np.uint8)
        return Pixels(upright(array, orientation), mode, "TIFF")

    def tile(self, index: int, tile: tuple[int, int, int, int], max_pixels: int) -> np.ndarray | None:
        """As `Planes.read_tile`, of a page by its number among all."""
        for one in self.planes:
            if index < one.pages:
                found = one.read_tile(index, tile, max_pixels)
                return None if found is None else self._shown(one, found)
            index -= one.pages
        raise IndexError(index)

    def _page(self, index: int) -> np.ndarray:
        for one in self.planes:
            if index < one.pages:
                return self._shown(one, one.read(index, self.max_pixels))
            index -= one.pages
        raise IndexError(index)

    def _shown(self, planes: Planes, array: np.ndarray) -> np.ndarray:
        """The values as they are meant: white-is-zero turned round, a palette of colours looked up."""
        page = planes.series.keyframe
        photometric = int(page.photometric)
        if photometric == WHITE_IS_ZERO and array.dtype.kind in "ub":
            top = 1 if array.dtype.kind == "b" else 2 ** int(page.bitspersample) - 1
            return ~array if array.dtype.kind == "b" else array.dtype.type(top) - array
        if photometric == PALETTE and page.colormap is not None:
            return np.ascontiguousarray(np.moveaxis(page.colormap[:, array], 0, -1))
        if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) and not (
            photometric == 6 and array.dtype == np.uint8  # YCbCr, which the codecs make RGB of
        ):
            name = getattr(page.photometric, "name", str(page.photometric))
            raise ImageError(
                f"{self.path}: a TIFF of {array.dtype.itemsize * 8} bits in the colour space {name}",
                "save it as grey or RGB",
            )
        extras = tuple(int(extra) for extra in page.extrasamples)
        if self.header.plain and extras == (_PREMULTIPLIED,) and planes.channels in (2, 4):
            top = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1
            if (array[..., -1] != top).any():
                raise ImageError(
                    f"{self.path}: colours multiplied by a transparency of {array.dtype.itemsize * 8} bits",
                    "save it without transparency, or take the values as they are with --channels",
                )
        return array


def _look(page: Any) -> tuple[Any, ...]:
    return (int(page.photometric), page.dtype, tuple(page.extrasamples))


def _kind(series: TiffPageSeries, tif: TiffFile) -> _Kind:
    from PIL.TiffImagePlugin import COMPRESSION_INFO

    page: Any = series.keyframe
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise ImageError(
            f"{tif.filehandle.path}: a TIFF of {page.bitspersample} bits a value, of a type that is no number",
            "save it as whole or real numbers",
        )
    tag = page.tags.get(274)
    turn = tag.value if tag is not None else 1
    return _Kind(
        int(page.photometric), int(page.bitspersample), page.dtype.kind, int(page.samplesperpixel),
        tuple(int(extra) for extra in page.extrasamples), int(page.compression) != 1,
        int(page.compression) in COMPRESSION_INFO, tif.byteorder == ">",
        turn if isinstance(turn, int) and 1 <= turn <= 8 else 1,
    )  # fmt: skip


def _plain(kind: _Kind, planes: Planes) -> bool:
    """Whether the channels of a page are grey or colour, and at most an alpha channel that is stated to be one."""
    if planes.channels != kind.samples:  # channels that are pages of the file
        return planes.channels == 1
    colours = {RGB: 3, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}.get(kind.photometric, 1)
    extra = kind.samples - colours
    return extra == 0 or (extra == 1 and kind.extras in ((_PREMULTIPLIED,), (_ALPHA,)))
