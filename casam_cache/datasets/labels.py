"""Read mask files as label maps, and scan all those of a dataset for the values that they hold."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casam_cache.datasets.base import FilesDone
from casam_cache.datasets.images import check_header, read_pixels
from casam_cache.datasets.pixels import Pixels, UnsaidError
from casam_cache.datasets.portion import file_and_portion
from casam_cache.datasets.rings import Ring, measure_ring
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS
from casam_cache.datasets.value_counts import ValueCounts, count_values, merge_counts
from casam_cache.errors import ImageError

MOST_RINGED = 64  # values; maps of many objects have no line round them
MOST_VISIBLE = 257
_LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"}
_CHROMA_NOISE = 48  # how far the channels of a grey picture drift apart in a lossy file


@dataclass(frozen=True)
class LabelMap:
    """One mask file, upright.

    Attributes:
        labels: integers (H, W); packed 0xRRGGBB when `coloured`, 0 is background.
        coloured: channels differ somewhere, so values are colours.
        lossy: stored by a lossy compression that changed the values.
        near_grey: the channels of a coloured one differ by little, as an earlier lossy compression leaves them.
        format: Pillow's name of the file's format.
        alpha: the alpha channel, (H, W), where there is one; what is fully transparent is 0 in `labels`.
        place: of `read_part`, where `labels` are only a part of the file, as in `Pixels`.
    """

    labels: np.ndarray
    coloured: bool
    lossy: bool
    near_grey: bool = False
    format: str = ""
    alpha: np.ndarray | None = None
    place: tuple[int, int, tuple[int, int]] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole file."""
        return self.place[2] if self.place is not None else (self.labels.shape[0], self.labels.shape[1])

    @property
    def grey(self) -> np.ndarray:
        """Grey values (H, W); of colours the green channel, which such a compression changes least."""
        return self.labels >> 8 & 255 if self.coloured else self.labels


@dataclass(frozen=True)
class MaskScan:
    """What one mask file holds, without its pixels.

    Attributes:
        path: the file.
        size: height, width; None when it cannot be read.
        counts: of its values.
        coloured, lossy, format: as in `LabelMap`.
        grey: of a coloured file that is nearly grey, the counts of its grey values.
        alpha: of a file with an alpha channel, its counts.
        ring: the line round its objects, where it has one.
        visible: the values or colours of pixels that are not fully transparent, sorted; `MOST_VISIBLE` at most.
        error: why the file cannot be used.
    """

    path: Path
    size: tuple[int, int] | None = None
    counts: ValueCounts = field(default_factory=lambda: merge_counts([]))
    coloured: bool = False
    lossy: bool = False
    grey: ValueCounts | None = None
    alpha: ValueCounts | None = None
    visible: tuple[int, ...] = ()
    ring: Ring | None = None
    format: str = ""
    error: ImageError | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """Its distinct values, sorted."""
        return tuple(self.counts.values.tolist())


def distinct(labels: np.ndarray) -> np.ndarray:
    """Sorted distinct values of a label map; quick because masks are made of long runs."""
    flat = labels.ravel()
    first = np.empty(flat.shape, bool)
    first[:1] = True
    np.not_equal(flat[1:], flat[:-1], out=first[1:])
    return np.unique(flat[first])


def read_labels(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, *, colours: bool = False) -> LabelMap:
    """Decode one mask file.

    Grey images of any depth give their values, palette images their indexes (their colours where the palette
    is all grey or the file a GIF, whose encoders order palettes as they like), and colour images whose
    channels are equal everywhere their grey value, other ones packed colours. Alpha counts only where it is
    fully transparent: that is background. With `colours`, palette images give their colours in any case.

    Raises:
        ImageError: the file cannot be decoded, holds values that are no labels (negative, fractional, NaN),
            or holds colours that a lossy compression has changed.
    """
    return _read(path, max_pixels, part=False, palette=not colours)


def read_part(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, *, colours: bool = False) -> LabelMap:
    """`read_labels`, but perhaps only of the part that is not 0; small parts are remembered while the file is the same.

    So the many files of an image's objects are decoded once, when their values are looked at, and not again when their
    masks are.
    """
    if colours:
        return read_labels(path, max_pixels, colours=True)
    stated = _stated(path)
    known = _KEPT.get(path, stated)
    if known is not None and known.size[0] * known.size[1] <= max_pixels:
        return known
    found = _read(path, max_pixels, part=True, palette=True)
    if found.place is not None:
        _KEPT.put(path, stated, found)
    return found


def _read(path: Path, max_pixels: int, *, part: bool, palette: bool) -> LabelMap:
    try:
        pixels = read_pixels(path, palette=palette, part=part, max_pixels=max_pixels)
    except UnsaidError as error:
        raise ImageError(error.message, error.mask_hint) from error
    array, alpha = pixels.array, None
    if array.ndim == 3 and array.shape[2] in (2, 4):
        alpha = array[..., -1]
        array = np.where(alpha[..., None] == 0, array.dtype.type(0), array[..., :-1])
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    coloured = near_grey = False
    lossless = pixels.format not in _LOSSY or is_lossless(path, pixels.format)
    if array.ndim == 3:
        array, coloured, near_grey = _pack(array, pixels, path, lossless)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
            raise ImageError(
                f"{path}: the mask holds fractional or NaN values", "save it with whole numbers as labels"
            )
        array = array.astype(np.int64)
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise ImageError(f"{path}: the mask holds negative values", "labels are 0 (background) and above")
    lossy = not lossless and not coloured and bool(((array != 0) & (array != 255)).any())
    if lossy and pixels.format == "AVIF":  # its header does not say
        counts = count_values(array)
        lossy = len(counts.values) > 16 or bool((counts.solid_share < 0.5).any())
    return LabelMap(array, coloured, lossy, near_grey, pixels.format, alpha, pixels.place)


class _Kept:
    """Small parts of files, as long as nothing says that the file has changed."""

    def __init__(self) -> None:
        self._parts: dict[Path, tuple[tuple[int, ...], LabelMap]] = {}
        self._room = _ROOM
        self._lock = threading.Lock()

    def get(self, path: Path, stated: tuple[int, ...] | None) -> LabelMap | None:
        before, found = self._parts.get(path, (None, None))
        return found if stated is not None and before == stated else None

    def put(self, path: Path, stated: tuple[int, ...] | None, found: LabelMap) -> None:
        # A file of the last seconds may change once more without a change of its time.
        fresh = stated is None or time.time_ns() - max(stated[1:3]) < _SETTLED
        if fresh or found.labels.nbytes > _SMALL or _stated(path) != stated:
            return
        with self._lock:
            taken = found.labels.nbytes + _OVERHEAD
            if taken > self._room:
                self._parts.clear()
                self._room = _ROOM
            self._room -= taken
            self._parts[path] = (stated or (), found)


def _stated(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does: size, both times, and which file it is; None where it cannot be had."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


_SMALL, _ROOM, _OVERHEAD = 1 << 16, 1 << 26, 1 << 10  # bytes: of one part, of all, and beside the pixels
_SETTLED = 3 * 10**9  # ns
_KEPT = _Kept()


def _pack(array: np.ndarray, pixels: Pixels, path: Path, lossless: bool) -> tuple[np.ndarray, bool, bool]:
    """RGB (H, W, 3) -> labels, whether they are packed colours, and whether these are nearly grey."""
    red, green, blue = (array[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red, False, False
    drift = int((array.max(axis=2).astype(int) - array.min(axis=2)).max())
    if not lossless:
        if drift <= _CHROMA_NOISE:
            return green, False, False
        raise ImageError(
            f"{path}: a colour mask in a lossy {pixels.format} file, whose colours are no longer exact",
            "save the mask as PNG from its source",
        )
    if array.dtype != np.uint8:
        raise ImageError(
            f"{path}: a colour mask of {pixels.bits} bits a channel", "save it with 8 bits a channel"
        )
    wide = array.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2], True, drift <= _CHROMA_NOISE


def is_lossless(path: Path, name: str) -> bool:
    """Whether a file of a format that may be lossy (Pillow's `name`) says in its header that it is not.

    WebP names its coding, JPEG 2000 its transform: the reversible one is lossless unless the file was cut short on
    purpose, which nothing tells. AVIF does not say it.
    """
    with file_and_portion(path)[0].open("rb") as file:
        head = file.read(1 << 16)
    if name == "WEBP":
        return b"VP8L" in head[:64] or (head[12:16] == b"VP8X" and b"VP8L" in head and b"VP8 " not in head)
    if name == "JPEG2000":
        place = head.find(b"\xff\x52")
        return place >= 0 and head[place + 13 : place + 14] == b"\x01"
    return False


def scan_mask(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, *, colours: bool = False) -> MaskScan:
    """Read one mask file and keep what it holds; never raises for a bad file."""
    try:
        found = read_part(path, max_pixels, colours=colours)
    except ImageError as error:
        return MaskScan(path, error=error)
    counts = count_values(found.labels, coloured=found.coloured, lossy=found.lossy, place=found.place)
    grey = count_values(found.grey) if found.near_grey else None
    alpha, visible = None, ()
    if found.alpha is not None:
        alpha = count_values(found.alpha)
        visible = tuple(distinct(found.labels[found.alpha > 0])[:MOST_VISIBLE].tolist())
    ring = None
    if not found.lossy and 3 <= len(counts.values) <= MOST_RINGED:
        ring = measure_ring(found.labels, found.coloured)
    return MaskScan(
        path, found.size, counts, found.coloured, found.lossy, grey, alpha, visible, ring, found.format
    )


@dataclass(frozen=True)
class ImageHeader:
    """Height and width of one image, or why it cannot be opened; the EXIF orientation that was undone, 1 if none."""

    size: tuple[int, int] | None
    error: ImageError | None = None
    orientation: int = 1


def scan_header(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageHeader:
    """The size of one image from its header; never raises for a bad file."""
    try:
        size, turned = check_header(path, max_pixels)
        return ImageHeader(size, None, turned)
    except ImageError as error:
        return ImageHeader(None, error)


def scan_files(
    masks: Sequence[Path],
    images: Sequence[Path],
    max_pixels: int,
    progress: FilesDone | None = None,
    colours: bool = False,
) -> tuple[list[MaskScan], list[ImageHeader]]:
    """Scan every mask and every image header, in threads; results in the order given."""
    total, scans, headers = len(masks) + len(images), [], []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for header in pool.map(lambda path: scan_header(path, max_pixels), images):
            headers.append(header)
            if progress:
                progress(len(headers), total)
        for scan in pool.map(lambda path: scan_mask(path, max_pixels, colours=colours), masks):
            scans.append(scan)
            if progress:
                progress(len(headers) + len(scans), total)
    return scans, headers
