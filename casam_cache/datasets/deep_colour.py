"""Colour of more than 8 bits a channel in files of which Pillow keeps 8."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from casam_cache.errors import ImageError

_SIZ = b"\xff\x4f\xff\x51"  # begin of a JPEG 2000 codestream, and of its sizes


def decode_deep_colour(path: Path, image: ImageFile.ImageFile) -> np.ndarray | None:
    """Grey with alpha, RGB or RGBA of 16 bits a channel as uint16 (H, W, C); None for any other image.

    Pillow keeps only the high byte of such files, which turns 12-bit data nearly black. Its unpackers for the
    two byte orders pick the two bytes, so decoding once with each yields both halves; for grey with alpha there is but
    one, whose four bytes a pixel are those of RGBA.

    Raises:
        ImageError: neither Pillow nor another library that is there can decode it at its full depth.
    """
    if image.format == "JPEG2000":
        return _jpeg2000(path, image)
    if image.format == "PPM":
        return _portable_pixmap(image)
    if image.tile and image.tile[0][0] == "SGI16" and image.mode in ("RGB", "RGBA"):
        raise ImageError(f"{path}: an SGI image of 16 bits a channel", "save it as PNG or TIFF")
    rawmodes = {_rawmode(tile[3]) for tile in image.tile} if image.tile else set()
    if len(rawmodes) != 1:
        return None
    base, _, order = rawmodes.pop().partition(";")
    if base == "LA" and order == "16B":
        four = _decoded_as(path, image, "RGBA", "RGBA").astype(np.uint16)
        return (four[..., 0::2] << 8) | four[..., 1::2]
    if base not in ("RGB", "RGBA") or order not in ("16B", "16L", "16N"):
        return None
    big = order == "16B" or (order == "16N" and sys.byteorder == "big")
    low = _decoded_as(path, image, f"{base};{'16L' if big else '16B'}")
    image.load()
    high = np.asarray(image).astype(np.uint16)
    return (high << 8) | low


def _jpeg2000(path: Path, image: ImageFile.ImageFile) -> np.ndarray | None:
    if image.mode not in ("LA", "RGB", "RGBA"):
        return None
    with path.open("rb") as file:
        head = file.read(1 << 16)
    place = head.find(_SIZ)  # begins the codestream; of each component it states depth and subsampling
    if place < 0 or len(head) < place + 43:
        return None
    bits = (head[place + 42] & 0x7F) + 1
    if bits <= 8:
        return None
    try:
        import imagecodecs
    except ImportError:
        raise ImageError(
            f"{path}: a JPEG 2000 of {bits} bits a channel, which needs the package imagecodecs",
            "pip install 'casam-cache[medical]'",
        ) from None
    return np.asarray(imagecodecs.jpeg2k_decode(path.read_bytes()))


def _portable_pixmap(image: ImageFile.ImageFile) -> np.ndarray | None:
    """The numbers of a binary PPM as they are; Pillow scales them to 8 bits by the largest that could be."""
    if image.mode != "RGB" or len(image.tile) != 1 or image.fp is None:
        return None
    decoder, _, offset, args = image.tile[0]
    if decoder != "ppm" or not isinstance(args, tuple) or args[1] <= 255:
        return None
    width, height = image.size
    image.fp.seek(offset)
    data = image.fp.read(6 * width * height)
    if len(data) < 6 * width * height:
        raise OSError("unexpected end of file")
    return np.frombuffer(data, ">u2").reshape(height, width, 3).astype(np.uint16)


def _decoded_as(path: Path, image: ImageFile.ImageFile, rawmode: str, mode: str | None = None) -> np.ndarray:
    """The pixels of the image, not yet loaded, as another unpacker of Pillow sees them."""
    with path.open("rb") as file, Image.open(file) as again:
        if image.tell():
            again.seek(image.tell())
        if mode is not None:
            again._mode = mode  # what `Image.mode` shows; the unpacker is chosen by it
        again.tile = [tile._replace(args=_with_rawmode(tile.args, rawmode)) for tile in again.tile]
        again.load()
        return np.asarray(again)


def _rawmode(args: Any) -> str:
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _with_rawmode(args: Any, rawmode: str) -> Any:
    return (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode
