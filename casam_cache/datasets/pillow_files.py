"""Files that Pillow decodes: headers, frames, and the two bytes of channels of which it keeps one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from casam_cache.datasets.deep_colour import decode_deep_colour
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
from casam_cache.datasets.portion import WHOLE, Portion
from casam_cache.errors import ImageError

ORIENTATION_TAG = 0x0112
# Formats that Pillow only recognises, or renders with an external program, but does not decode itself.
_NOT_RASTER = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
_PLAIN = {"PNG", "BMP"}  # lossless, one picture a file, and never turned by Pillow
RING = 2  # pixels of background around a part, which the pixels of the part may ask about
# Formats whose further frames are layers, sizes or previews of the one picture that counts.
_ONE_PICTURE = {"ICNS", "ICO", "PSD"}


@cache
def pillow_suffixes() -> frozenset[str]:
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
def _open(path: Path) -> Iterator[ImageFile.ImageFile]:
    # An opened file, not its name: of a name Pillow maps the bytes, and garbles a TIFF that is stored on its side.
    with _quiet(), path.open("rb") as file, Image.open(file) as image:
        yield image


def pillow_header(path: Path, max_pixels: int) -> Header:
    """What the header says; whatever Pillow raises is for the caller to explain.

    Raises:
        ImageError: the image has more than `max_pixels`.
    """
    with _open(path) as image:
        header = _header(path, image, max_pixels)
        size = turned(header.size, _turn(image))
        return replace(header, size=size, orientation=_orientation(image))


def read_pillow(path: Path, portion: Portion, palette: bool, max_pixels: int, part: bool = False) -> Pixels:
    """Decode one frame; whatever Pillow raises is for the caller to explain.

    Raises:
        ImageError: too large, or the portion cannot be taken.
    """
    with _open(path) as image:
        header = _header(path, image, max_pixels)
        index = page_index(path, header, portion)
        if index:
            image.seek(index)
        check_channels(path, header, portion)
        mode, name = image.mode, image.format or ""
        array = decode_deep_colour(path, image)
        if array is None:
            image.load()
            if image.mode == "LAB":
                raise ImageError(f"{path}: an image in the colour space LAB", "save it as RGB")
            inner = _inner(image, palette) if part and portion == WHOLE else None
            if inner is not None:
                return inner
            array = _to_array(image, palette)
        array = take_channels(array, portion)
        # Only now: to look for the tag, Pillow may decode, after which the raw bytes are gone.
        orientation = 1 if portion.as_stored else _turn(image)
        return Pixels(upright(array, orientation), mode, name)


def _header(path: Path, image: ImageFile.ImageFile, max_pixels: int) -> Header:
    """What is known before anything is decoded: the size as stored, pages and channels."""
    width, height = image.size
    check_pixels(path, height, width, max_pixels)
    bands = {"1": 1, "L": 1, "I": 1, "F": 1, "LA": 2, "La": 2, "PA": 4, "RGBA": 4, "RGBa": 4}
    channels = 1 if image.mode.startswith("I;16") else bands.get(image.mode, 3)
    return Header((height, width), _frames(image), channels)


def _frames(image: ImageFile.ImageFile) -> int:
    """How many pictures of equal standing the file holds.

    A photo of several (MPO) holds its previews, depth or gain beside it, unless they are views of one scene.
    """
    if image.format in _ONE_PICTURE:
        return 1
    if image.format == "MPO":
        entries = getattr(image, "mpinfo", {}).get(0xB002, [])
        views = ("Multi-Frame Image (Disparity)", "Multi-Frame Image (Multi-Angle)")
        return max(1, sum(entry["Attribute"]["MPType"] in views for entry in entries))
    return int(getattr(image, "n_frames", 1))


def _turn(image: Image.Image) -> int:
    """The orientation that is still to be undone: Pillow itself turns TIFF."""
    return 1 if image.format == "TIFF" else _orientation(image)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it is damaged."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata must not cost the pixels, which are fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


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


def _inner(image: ImageFile.ImageFile, palette: bool) -> Pixels | None:
    """The part of a loaded mask that is not 0 with a ring around it, where that is much less than the whole.

    Files of one object each are nearly all background: what follows then costs the object and not the image.
    """
    width, height = image.size
    plain = image.mode in ("1", "L") or (image.mode == "P" and palette and _has_label_palette(image))
    if not plain or image.format not in _PLAIN or min(width, height) < 8 or _turn(image) != 1:
        return None
    x0, y0, x1, y1 = image.getbbox() or (0, 0, 0, 0)
    left, top = max(0, x0 - RING), max(0, y0 - RING)
    right, bottom = min(width, x1 + RING), min(height, y1 + RING)
    if 2 * (right - left) * (bottom - top) > width * height:
        return None
    array = np.asarray(image.crop((left, top, right, bottom)))
    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    return Pixels(array, image.mode, image.format or "", (top, left, (height, width)))


def _has_label_palette(image: Image.Image) -> bool:
    """Whether the indexes of a palette image can be labels: they cannot where some encoder chose them.

    GIF encoders order their palettes as they like, and optimisers of PNG turn a grey image into one with a
    palette of greys in any order; there the colours count.
    """
    entries = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return image.format != "GIF" and bool((entries != entries[:, :1]).any())
