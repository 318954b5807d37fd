"""Decode any image or mask file into pixels, upright, and images of any depth into 8-bit RGB.

Decisions, the same for every dataset: the EXIF orientation is applied; a file of several pages or channels is read as
its `Portion` says, and without one refused; alpha is dropped, not composited; 8-bit images are never rescaled; deeper
ones are mapped to 8 bit by one window over all channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from casam_cache.datasets.intensity import parse_intensity
from casam_cache.datasets.numpy_images import MAGIC, ZIP, numpy_header, read_numpy
from casam_cache.datasets.numpy_images import SUFFIXES as NUMPY_SUFFIXES
from casam_cache.datasets.pillow_files import pillow_header, pillow_suffixes, read_pillow
from casam_cache.datasets.pixels import Header, Pixels, UnsaidError, check_channels, page_index, turned
from casam_cache.datasets.portion import Portion, file_and_portion
from casam_cache.datasets.regular_files import check_regular
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS
from casam_cache.datasets.tile_pixels import cut_tile
from casam_cache.datasets.time_limit import within_limit
from casam_cache.errors import ImageError

PERCENTILES = (0.5, 99.5)
ANY_SIZE = 1 << 62
_WIDER = {"i1": np.int32, "i2": np.int32, "i4": np.int64, "f2": np.float32}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of classic TIFF and BigTIFF, in both byte orders


@cache
def image_suffixes() -> frozenset[str]:
    """Every suffix, in lower case with its dot, of a file of images that can be decoded here."""
    return pillow_suffixes() | NUMPY_SUFFIXES


def read_pixels(
    path: Path, *, palette: bool = False, part: bool = False, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """Decode one file, or a portion of it, at its own depth, upright.

    Args:
        path: the file, perhaps with a portion behind its name as `casam_cache.datasets.portion` writes it.
        palette: True gives the indexes of a palette image where they can be labels, else its colours.
        part: True may give only the part of a mask that is not 0, see `Pixels.place`.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: names the file and what is wrong with it.
    """
    file, portion = file_and_portion(path)
    with _explained(path, file):
        return within_limit(file, lambda: _read(file, portion, palette, max_pixels, part))


def _read(file: Path, portion: Portion, palette: bool, max_pixels: int, part: bool = False) -> Pixels:
    if portion.tile is not None:
        return _read_tile(file, portion, palette, max_pixels)
    if portion.channels is not None and portion.page is None:
        header = _read_header(file, max_pixels)
        if header.pages > 1 and header.channels == 1:
            return _pages_as_channels(file, portion, header, max_pixels)
    head = _begins(file)
    if head.startswith(_TIFF):
        from casam_cache.datasets.tiff import read_tiff

        return read_tiff(file, portion, palette, max_pixels)
    if head.startswith((MAGIC, ZIP)):
        return read_numpy(file, portion, max_pixels)
    return read_pillow(file, portion, palette, max_pixels, part)


def _read_tile(file: Path, portion: Portion, palette: bool, max_pixels: int) -> Pixels:
    if _begins(file).startswith(_TIFF):
        from casam_cache.datasets.tiff import read_tiff_tile

        found = read_tiff_tile(file, portion, max_pixels)
        if found is not None:
            return found
    return cut_tile(
        file, portion, palette, max_pixels, lambda path, whole: _read(path, whole, palette, max_pixels)
    )


def _pages_as_channels(file: Path, portion: Portion, header: Header, max_pixels: int) -> Pixels:
    check_channels(file, replace(header, pages=1, channels=header.pages), portion)
    numbers = portion.channels or ()
    pages = [_read(file, Portion(number, None, portion.as_stored), False, max_pixels) for number in numbers]
    if len({(page.array.shape, page.array.dtype) for page in pages}) > 1:
        raise ImageError(f"{file}: its pages differ in size or type", "take one of them: --pages N")
    array = pages[0].array if len(pages) == 1 else np.stack([page.array for page in pages], axis=2)
    return Pixels(array, pages[0].mode, pages[0].format)


def _read_header(file: Path, max_pixels: int) -> Header:
    head = _begins(file)
    if head.startswith(_TIFF):
        from casam_cache.datasets.tiff import tiff_header

        return tiff_header(file, max_pixels)
    if head.startswith((MAGIC, ZIP)):
        return numpy_header(file, max_pixels)
    return pillow_header(file, max_pixels)


def image_header(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """What the header of a file alone says of it; that of the whole file, whatever portion the path names.

    Of a tile of a TIFF, which is read by region, `max_pixels` is for the tile.

    Raises:
        ImageError: the file is missing, unreadable, no image, or larger than `max_pixels`.
    """
    file, portion = file_and_portion(path)
    with _explained(path, file):
        limit = ANY_SIZE if portion.tile is not None and by_region(file) else max_pixels
        return within_limit(file, lambda: _read_header(file, limit))


def by_region(file: Path) -> bool:
    """Whether a file is of a kind whose tiles can be read without the rest of it.

    Raises:
        OSError: it cannot be opened.
        ImageError: it is no regular file.
    """
    return _begins(file).startswith(_TIFF)


def image_size(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an upright image, from its header alone.

    Raises:
        ImageError: the file is missing, unreadable, no image, or larger than `max_pixels`.
    """
    header = image_header(path, max_pixels)
    _, portion = file_and_portion(path)
    if portion.tile is not None:
        return portion.tile[3], portion.tile[2]
    return turned(header.size, header.orientation) if portion.as_stored else header.size


def check_header(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[tuple[int, int], int]:
    """The size of one image, and the EXIF orientation that is undone, as far as its header tells without decoding.

    Raises:
        ImageError: as `image_size`; or nothing says which of several pages or channels counts.
    """
    _, portion = file_and_portion(path)
    header = image_header(path, max_pixels)
    if portion.channels is None or portion.page is not None or header.pages == 1:
        page_index(path, header, portion)
        check_channels(path, header, portion)
    if portion.tile is not None:
        return (portion.tile[3], portion.tile[2]), 1
    if portion.as_stored:
        return turned(header.size, header.orientation), 1
    return header.size, header.orientation


def _begins(file: Path) -> bytes:
    check_regular(file)
    with file.open("rb") as opened:
        return opened.read(16)


@contextmanager
def _explained(path: Path, file: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into an `ImageError`, which names the portion too."""
    try:
        yield
    except ImageError as error:
        if path == file or not error.message.startswith(f"{file}: "):
            raise
        message = f"{path}: " + error.message.removeprefix(f"{file}: ")
        if isinstance(error, UnsaidError):
            raise UnsaidError(message, error.hint, error.mask_hint) from error
        raise ImageError(message, error.hint) from error
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it", f"chmod u+r '{file}'") from None
    except UnidentifiedImageError:
        raise _not_an_image(file) from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it", "make the image smaller") from None
    except (
        Exception
    ) as error:  # decoders raise nearly anything on damaged data: struct.error, SyntaxError, KeyError
        detail = str(error) or type(error).__name__
        raise ImageError(
            f"{path}: cannot be decoded, it is damaged or truncated: {detail}".splitlines()[0],
            "copy it again from its source, or remove it from the dataset",
        ) from error


def _not_an_image(path: Path) -> ImageError:
    """The error for bytes that no decoder recognises, saying what they look like."""
    if path.stat().st_size == 0:
        return ImageError(
            f"{path}: the file is empty (0 bytes)", "copy it again from its source, or remove it"
        )
    head = _begins(path)
    looks = (
        "text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head) else "unknown or damaged data"
    )
    return ImageError(
        f"{path}: not an image that Pillow can read, it holds {looks} (it begins with {head!r})",
        "replace it by an image, or remove it from the dataset",
    )


def window_of(array: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles of all values; their extremes where the percentiles coincide."""
    # NumPy interpolates in the type of the array, where the difference of two values may not fit.
    array = array.astype(_WIDER.get(array.dtype.str[1:], array.dtype), copy=False)
    low, high = (float(value) for value in np.percentile(array, PERCENTILES))
    return (low, high) if low < high else (float(array.min()), float(array.max()))


def to_uint8(array: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Finite values of any depth -> uint8 of the same shape; uint8 comes back as it is.

    `window` maps to 0..255, by default `window_of` the array; an infinite end is the array's own. A
    constant array becomes all zeros.
    """
    if array.dtype == np.uint8:
        return array
    low, high = window or window_of(array)
    low, high = (
        (low if np.isfinite(low) else float(array.min())),
        (high if np.isfinite(high) else float(array.max())),
    )
    if not low < high:
        return np.zeros(array.shape, np.uint8)
    scaled = (np.clip(array.astype(np.float64), low, high) - low) * (255.0 / (high - low))
    return (scaled + 0.5).astype(np.uint8)


def without_alpha(array: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) with an optional alpha channel -> (H, W) or (H, W, 3)."""
    if array.ndim == 2:
        return array
    return array[..., 0] if array.shape[2] <= 2 else array[..., :3]


def load_image(
    path: Path | str, intensity: str = "auto", *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """Decode one image to uint8 RGB (H, W, 3), upright.

    Args:
        path: any file of a kind that datasets may have; of several pages or channels with the portion that counts
            behind it, as `stack.tif#3` or `a.tif#channels=1,2,3`.
        intensity: `auto` maps images deeper than 8 bit by their own 0.5-99.5 percentiles, `LOW,HIGH` by that
            window.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: names the file and what is wrong with it (also NaN or infinite pixels).
        OptionError: for a malformed `intensity`.
    """
    window = parse_intensity(intensity)
    try:
        array = load_array(Path(path), max_pixels)
    except UnsaidError as error:
        raise ImageError(
            error.message,
            f"name the part that counts: '{path}#1' is its first page, '{path}#channels=1,2,3' are channels",
        ) from error
    return to_rgb(array, Path(path), window)


def load_array(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode one image at its own depth, without alpha: (H, W) or (H, W, 3); bool where the file has 1 bit a pixel.

    Raises:
        ImageError: names the file and what is wrong with it.
    """
    pixels = read_pixels(path, max_pixels=max_pixels)
    array = without_alpha(pixels.array)
    return array.astype(np.bool_) if pixels.mode == "1" else array


def to_rgb(array: np.ndarray, path: Path, window: tuple[float, float] | None = None) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) of any depth as uint8 RGB (H, W, 3); `path` is for the message.

    Raises:
        ImageError: for NaN or infinite pixels.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise ImageError(
            f"{path}: {bad:,} of {array.size:,} pixel values are NaN or infinite",
            "replace them, for example by the lowest finite value, and save the image again",
        )
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    grey_or_rgb = to_uint8(array, window)
    if grey_or_rgb.ndim == 2:
        grey_or_rgb = np.repeat(grey_or_rgb[..., None], 3, axis=2)
    return np.ascontiguousarray(grey_or_rgb)
