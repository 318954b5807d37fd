"""Decode any file Pillow reads into pixels, upright, and images of any depth into 8-bit RGB.

Decisions, the same for every dataset: the EXIF orientation is applied; the first frame counts; alpha is
dropped, not composited; 8-bit images are never rescaled; deeper ones are mapped to 8 bit by one window over
all channels.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS
from casam_cache.errors import ImageError, OptionError

PERCENTILES = (0.5, 99.5)
ORIENTATION_TAG = 0x0112
# Formats that Pillow only recognises, or renders with an external program, but does not decode itself.
_NOT_RASTER = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}


@dataclass(frozen=True)
class Pixels:
    """A decoded file, upright.

    Attributes:
        array: (H, W) or (H, W, C) of uint8, uint16, int32 or float32; C is 2 for grey and alpha, 3 RGB, 4
            RGBA.
        mode: Pillow's mode of the file.
        format: Pillow's name of the format, e.g. `PNG`.
    """

    array: np.ndarray
    mode: str
    format: str

    @property
    def bits(self) -> int:
        return 1 if self.mode == "1" else self.array.dtype.itemsize * 8


@cache
def image_suffixes() -> frozenset[str]:
    """Every suffix, in lower case with its dot, of a raster format that this Pillow can decode."""
    known = Image.registered_extensions()
    return frozenset(
        suffix.lower() for suffix, name in known.items() if name in Image.OPEN and name not in _NOT_RASTER
    )


class _Quiet:
    """Keeps Pillow's process-wide size limit and warnings out of the way while any thread is decoding.

    Both are global state, so they are changed when the first thread enters and put back when the last one
    leaves; the size is checked by `_open` instead, from the header, with an error that names the file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: int | None = None
        self._caught = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._caught.__exit__(None, None, None)
                    Image.MAX_IMAGE_PIXELS = self._limit


_quiet = _Quiet()


@contextmanager
def _open(path: Path, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Open `path`, check its size from the header, and turn whatever fails inside into an `ImageError`."""
    with _quiet():
        try:
            with Image.open(path) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        f"{path}: {width} x {height} pixels are more than the limit of {max_pixels:,}",
                        "cut it into tiles, make it smaller, or raise the limit with --max-pixels",
                    )
                yield image
        except ImageError:
            raise
        except PermissionError:
            raise ImageError(f"{path}: no permission to read it", f"chmod u+r '{path}'") from None
        except FileNotFoundError:
            reason = "a link to a file that does not exist" if path.is_symlink() else "there is no such file"
            raise ImageError(f"{path}: {reason}", "restore the file, or remove it from the dataset") from None
        except UnidentifiedImageError:
            raise _not_an_image(path) from None
        except MemoryError:
            raise ImageError(f"{path}: not enough memory to decode it", "make the image smaller") from None
        except (
            Exception
        ) as error:  # decoders raise nearly anything on damaged data: struct.error, SyntaxError, KeyError
            detail = str(error) or type(error).__name__
            raise ImageError(
                f"{path}: cannot be decoded, it is damaged or truncated: {detail}",
                "copy it again from its source, or remove it from the dataset",
            ) from error


def _not_an_image(path: Path) -> ImageError:
    """The error for bytes that no decoder recognises, saying what they look like."""
    if path.stat().st_size == 0:
        return ImageError(
            f"{path}: the file is empty (0 bytes)", "copy it again from its source, or remove it"
        )
    with path.open("rb") as file:
        head = file.read(16)
    looks = (
        "text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head) else "unknown or damaged data"
    )
    return ImageError(
        f"{path}: not an image that Pillow can read, it holds {looks} (it begins with {head!r})",
        "replace it by an image, or remove it from the dataset",
    )


def image_size(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an upright image, from its header alone.

    Raises:
        ImageError: the file is missing, unreadable, no image, or larger than `max_pixels`.
    """
    with _open(path, max_pixels) as image:
        width, height = image.size
        turned = image.format != "TIFF" and _orientation(image) >= 5  # Pillow itself turns TIFF
        return (width, height) if turned else (height, width)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it is damaged."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata must not cost the pixels, which are fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF `orientation` (1 to 8) of an array (H, W, ...)."""
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def read_pixels(path: Path, *, palette: bool = False, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode one file at its own depth, upright.

    Args:
        path: the file.
        palette: True gives the indexes of a palette image where they can be labels, else its colours.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: names the file and what is wrong with it.
    """
    with _open(path, max_pixels) as image:
        mode, name = image.mode, image.format or ""
        array = _decode_deep_colour(image)
        if array is None:
            image.load()
            array = _to_array(image, palette)
        return Pixels(_upright(array, _orientation(image)), mode, name)


def _to_array(image: Image.Image, palette: bool) -> np.ndarray:
    """The pixels of a loaded image as an array that NumPy and the rest of this package understand."""
    if image.mode in ("P", "PA"):
        if palette and _has_label_palette(image):
            return np.asarray(image) if image.mode == "P" else np.asarray(image)[..., 0]
        image = image.convert("RGBA")  # by way of RGBA: straight to RGB, Pillow warns about transparency
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _has_label_palette(image: Image.Image) -> bool:
    """Whether the indexes of a palette image can be labels: they cannot where some encoder chose them.

    GIF encoders order their palettes as they like, and optimisers of PNG turn a grey image into one with a
    palette of greys in any order; there the colours count.
    """
    entries = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return image.format != "GIF" and bool((entries != entries[:, :1]).any())


def _decode_deep_colour(image: ImageFile.ImageFile) -> np.ndarray | None:
    """RGB or RGBA of 16 bits a channel as uint16 (H, W, C); None for any other image.

    Pillow keeps only the high byte of such files, which turns 12-bit data nearly black. Its unpackers for the
    two byte orders pick the two bytes, so decoding once with each yields both halves.
    """
    rawmodes = {_rawmode(tile[3]) for tile in image.tile} if image.tile else set()
    if len(rawmodes) != 1:
        return None
    base, _, order = rawmodes.pop().partition(";")
    if base not in ("RGB", "RGBA") or order not in ("16B", "16L", "16N"):
        return None
    big = order == "16B" or (order == "16N" and sys.byteorder == "big")
    filename = image.filename
    image.load()
    high = np.asarray(image).astype(np.uint16)
    with Image.open(filename) as again:
        other = f"{base};{'16L' if big else '16B'}"
        again.tile = [tile._replace(args=_with_rawmode(tile.args, other)) for tile in again.tile]
        again.load()
        low = np.asarray(again)
    return (high << 8) | low


def _rawmode(args: Any) -> str:
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _with_rawmode(args: Any, rawmode: str) -> Any:
    return (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode


def parse_intensity(intensity: str) -> tuple[float, float] | None:
    """The window `LOW,HIGH` in pixel values of the file, or None for `auto` (percentiles of each image).

    Raises:
        OptionError: for anything else.
    """
    if intensity == "auto":
        return None
    try:
        low, high = (float(part) for part in intensity.split(","))
    except ValueError:
        low = high = float("nan")
    if not (np.isfinite([low, high]).all() and low < high):
        raise OptionError(
            f"the intensity '{intensity}' is neither 'auto' nor a window LOW,HIGH with LOW below HIGH",
            "for example --intensity=-160,240",
        )
    return low, high


def window_of(array: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles of all values; their extremes where the percentiles coincide."""
    low, high = (float(value) for value in np.percentile(array, PERCENTILES))
    return (low, high) if low < high else (float(array.min()), float(array.max()))


def to_uint8(array: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Finite values of any depth -> uint8 of the same shape; uint8 comes back as it is.

    `window` maps to 0..255, by default `window_of` the array. A constant array becomes all zeros.
    """
    if array.dtype == np.uint8:
        return array
    low, high = window or window_of(array)
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
        path: any file Pillow reads.
        intensity: `auto` maps images deeper than 8 bit by their own 0.5-99.5 percentiles, `LOW,HIGH` by that
            window.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: names the file and what is wrong with it (also NaN or infinite pixels).
        OptionError: for a malformed `intensity`.
    """
    window = parse_intensity(intensity)
    return to_rgb(load_array(Path(path), max_pixels), Path(path), window)


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
