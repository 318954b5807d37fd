"""A decoded file, and what its header alone says of it; the errors that every decoder has in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_cache.datasets.portion import Portion
from casam_cache.errors import ImageError


@dataclass(frozen=True)
class Pixels:
    """A decoded file, upright.

    Attributes:
        array: (H, W) or (H, W, C) of whole or real numbers; C is 2 for grey and alpha, 3 RGB, 4 RGBA.
        mode: Pillow's mode of the file; empty where another library decoded it.
        format: Pillow's name of the format, e.g. `PNG`; `NUMPY` for arrays.
        place: where `array` is only a part of the file, beyond which all is 0 and a ring of which is, unless the image
            ends there: its first row and column, and height and width of the whole.
    """

    array: np.ndarray
    mode: str
    format: str
    place: tuple[int, int, tuple[int, int]] | None = None

    @property
    def bits(self) -> int:
        return 1 if self.mode == "1" else self.array.dtype.itemsize * 8


@dataclass(frozen=True)
class Header:
    """What a file holds, without its pixels.

    Attributes:
        size: height and width, upright.
        pages: images, slices or frames of equal standing in the file; thumbnails and smaller copies are none.
        channels: of a page, alpha among them.
        plain: a page is grey or RGB, perhaps with alpha, and can be read without a word on its channels.
        orientation: of the EXIF tag, 1 to 8; 1 is upright.
        kind: format and depth for people, as `a TIFF of 16 bits`.
    """

    size: tuple[int, int]
    pages: int = 1
    channels: int = 1
    plain: bool = True
    orientation: int = 1
    kind: str = ""


class UnsaidError(ImageError):
    """Nothing says which pages or channels of a file count; `mask_hint` is what to do where it is a mask."""

    def __init__(self, message: str, hint: str, mask_hint: str) -> None:
        super().__init__(message, hint)
        self.mask_hint = mask_hint


def turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width of stored pixels when they are upright."""
    return (size[1], size[0]) if orientation >= 5 else size


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF `orientation` (1 to 8) of an array (H, W, ...)."""
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def check_pixels(path: Path, height: int, width: int, max_pixels: int) -> None:
    """Refuse an image by the size that its header states.

    Raises:
        ImageError: it has more than `max_pixels`, or none.
    """
    if height * width > max_pixels:
        raise ImageError(
            f"{path}: {width} x {height} pixels are more than the limit of {max_pixels:,}",
            "save it as TIFF and cut it into tiles (--tile 1024), shrink it, or raise the limit with --max-pixels",
        )
    if height < 1 or width < 1:
        raise ImageError(f"{path}: {width} x {height} pixels are no image", "remove it from the dataset")


def page_index(path: Path, header: Header, portion: Portion) -> int:
    """The index, from 0, of the page that is asked for.

    Raises:
        ImageError: there are several and none was asked for, or there is no such page.
    """
    if portion.page is None:
        if header.pages == 1:
            return 0
        channels = ""
        if header.channels == 1:
            numbers = "1,2,3" if header.pages >= 3 else "1"
            channels = f", --channels {numbers} takes pages as channels"
        raise UnsaidError(
            f"{path}: holds {header.pages} pages (slices or frames), and nothing says which of them count",
            f"--pages first or --pages N takes one, --pages all makes each page an image{channels}",
            "--pages objects takes each page as one object, --pages first or --pages N takes one, --pages all takes "
            "each page for that page of the image",
        )
    if not 1 <= portion.page <= header.pages:
        has = "1 page" if header.pages == 1 else f"{header.pages} pages"
        raise ImageError(f"{path}: there is no page {portion.page}, the file has {has}", "see --pages")
    return portion.page - 1


def check_channels(path: Path, header: Header, portion: Portion) -> None:
    """Refuse a page of several channels that are neither grey nor RGB, and channels that are not there.

    Raises:
        ImageError: nothing says which channels count, or there is none of that number.
    """
    if portion.channels is None:
        if not header.plain:
            raise UnsaidError(
                f"{path}: {header.kind or 'a file'}, {header.channels} channels that are neither grey nor RGB",
                "--channels 1 takes one of them as grey"
                + (", --channels 1,2,3 three as red, green and blue" if header.channels >= 3 else ""),
                "save the mask with one channel",
            )
        return
    there = header.channels
    if max(portion.channels) > there:
        has = "1 channel" if there == 1 else f"{there} channels"
        raise ImageError(
            f"{path}: there is no channel {max(portion.channels)}, the file has {has}", "see --channels"
        )


def take_channels(array: np.ndarray, portion: Portion) -> np.ndarray:
    """The channels that a portion names: (H, W) for one, (H, W, 3) for three; the array itself where it names none."""
    if portion.channels is None:
        return array
    if array.ndim == 2:
        array = array[..., None]
    chosen = array[..., [number - 1 for number in portion.channels]]
    return np.ascontiguousarray(chosen[..., 0] if chosen.shape[2] == 1 else chosen)
