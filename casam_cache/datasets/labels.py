"""Read mask files as label maps, and find over a whole dataset which values they use and what these mean."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_cache.datasets.base import FilesDone
from casam_cache.datasets.images import check_header, read_pixels
from casam_cache.datasets.pixels import Pixels, UnsaidError
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS, MaskValues
from casam_cache.errors import ImageError

GREY = 0x010101  # a grey value times this is the packed colour of equal channels
LOSSY_CUT = 127
MANY_CLASSES = 64
_ALWAYS_LOSSY = {"JPEG", "MPO"}
_MAYBE_LOSSY = {"JPEG2000", "WEBP", "AVIF"}
_CHROMA_NOISE = 48  # how far the channels of a grey picture drift apart in a lossy file
_NEAR_BACKGROUND, _NEAR_WHITE = 32, 191


@dataclass(frozen=True)
class LabelMap:
    """One mask file, upright.

    Attributes:
        labels: integers (H, W); packed 0xRRGGBB when `coloured`, 0 is background.
        coloured: channels differ somewhere, so values are colours.
        lossy: stored by a lossy compression that changed the values.
    """

    labels: np.ndarray
    coloured: bool
    lossy: bool


@dataclass(frozen=True)
class MaskScan:
    """What one mask file holds, without its pixels.

    Attributes:
        path: the file.
        size: height, width; None when it cannot be read.
        values: its distinct values, sorted.
        coloured, lossy: as in `LabelMap`.
        smeared: a lossy file whose foreground lies near 255, as a black and white picture's does.
        error: why the file cannot be used.
    """

    path: Path
    size: tuple[int, int] | None = None
    values: tuple[int, ...] = ()
    coloured: bool = False
    lossy: bool = False
    smeared: bool = False
    error: ImageError | None = None


def distinct(labels: np.ndarray) -> np.ndarray:
    """Sorted distinct values of a label map; quick because masks are made of long runs."""
    flat = labels.ravel()
    first = np.empty(flat.shape, bool)
    first[:1] = True
    np.not_equal(flat[1:], flat[:-1], out=first[1:])
    return np.unique(flat[first])


def read_labels(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> LabelMap:
    """Decode one mask file.

    Grey images of any depth give their values, palette images their indexes (their colours where the palette
    is all grey or the file a GIF, whose encoders order palettes as they like), and colour images whose
    channels are equal everywhere their grey value, other ones packed colours. Alpha counts only where it is
    fully transparent: that is background.

    Raises:
        ImageError: the file cannot be decoded, holds values that are no labels (negative, fractional, NaN),
            or holds colours that a lossy compression has changed.
    """
    try:
        pixels = read_pixels(path, palette=True, max_pixels=max_pixels)
    except UnsaidError as error:
        raise ImageError(error.message, error.mask_hint) from error
    array = pixels.array
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = np.where(array[..., -1:] == 0, array.dtype.type(0), array[..., :-1])
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    coloured = False
    if array.ndim == 3:
        array, coloured = _pack(array, pixels, path)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
            raise ImageError(
                f"{path}: the mask holds fractional or NaN values", "save it with whole numbers as labels"
            )
        array = array.astype(np.int64)
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise ImageError(f"{path}: the mask holds negative values", "labels are 0 (background) and above")
    return LabelMap(array, coloured, _is_lossy(pixels, array))


def _pack(array: np.ndarray, pixels: Pixels, path: Path) -> tuple[np.ndarray, bool]:
    """RGB (H, W, 3) -> grey labels and False where all channels are equal, else packed colours and True."""
    red, green, blue = (array[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red, False
    lossy = pixels.format in _ALWAYS_LOSSY | _MAYBE_LOSSY
    if lossy:
        drift = array.max(axis=2).astype(int) - array.min(axis=2)
        if int(drift.max()) <= _CHROMA_NOISE:
            return green, False
        if pixels.format in _ALWAYS_LOSSY:
            raise ImageError(
                f"{path}: a colour mask in a lossy {pixels.format} file, whose colours are no longer exact",
                "save the mask as PNG from its source",
            )
    if array.dtype != np.uint8:
        raise ImageError(
            f"{path}: a colour mask of {pixels.bits} bits a channel", "save it with 8 bits a channel"
        )
    wide = array.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2], True


def _is_lossy(pixels: Pixels, labels: np.ndarray) -> bool:
    """A lossy compression shows in values other than 0 and 255, or in more of them than labels would have."""
    if pixels.format in _ALWAYS_LOSSY:
        return bool(((labels != 0) & (labels != 255)).any())
    return pixels.format in _MAYBE_LOSSY and len(distinct(labels)) > 16


def scan_mask(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> MaskScan:
    """Read one mask file and keep what it holds; never raises for a bad file."""
    try:
        found = read_labels(path, max_pixels)
    except ImageError as error:
        return MaskScan(path, error=error)
    height, width = found.labels.shape
    smeared = False
    if found.lossy and not found.coloured:
        foreground = found.labels[found.labels > _NEAR_BACKGROUND]
        smeared = foreground.size > 0 and float((foreground >= _NEAR_WHITE).mean()) >= 0.5
    values = tuple(int(value) for value in distinct(found.labels))
    return MaskScan(path, (height, width), values, found.coloured, found.lossy, smeared)


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
    masks: Sequence[Path], images: Sequence[Path], max_pixels: int, progress: FilesDone | None = None
) -> tuple[list[MaskScan], list[ImageHeader]]:
    """Scan every mask and every image header, in threads; results in the order given."""
    total, scans, headers = len(masks) + len(images), [], []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for header in pool.map(lambda path: scan_header(path, max_pixels), images):
            headers.append(header)
            if progress:
                progress(len(headers), total)
        for scan in pool.map(lambda path: scan_mask(path, max_pixels), masks):
            scans.append(scan)
            if progress:
                progress(len(headers) + len(scans), total)
    return scans, headers


def gather_values(scans: Sequence[MaskScan]) -> MaskValues:
    """The distinct values of all readable mask files, as one reading of the dataset."""
    coloured = any(scan.coloured for scan in scans)
    threshold = any(scan.smeared for scan in scans)
    values: set[int] = set()
    for scan in scans:
        own = set(scan.values)
        if scan.lossy and threshold and not scan.coloured:
            own = {255 if value > LOSSY_CUT else 0 for value in own}
        if coloured and not scan.coloured:
            own = {value * GREY for value in own if value <= 255}
        values |= own
    return MaskValues(tuple(sorted(values)), coloured, threshold)


def decide_mode(asked: str | None, values: MaskValues, folders: bool) -> tuple[str, str]:
    """The mask mode of a dataset and how it was decided, for people.

    Args:
        asked: the mode the user gave, which always holds.
        values: of the whole dataset.
        folders: some sample has its masks as a folder with one file an object.
    """
    if asked:
        return asked, "as asked"
    count = len(values.values)
    kind = "colour" if values.coloured else "value"
    shown = describe_values(values)
    if count == 0:
        return "binary", "no mask to look at"
    two = count <= 2 and 0 in values.values
    if two and folders:
        return "instances", "the masks of an image are one file an object"
    if two:
        return "binary", f"the masks hold {count} {kind}{'s' if count > 1 else ''}: {shown}"
    return "classes", f"the masks hold {count} {kind}{'s' if count > 1 else ''}: {shown}"


def describe_values(values: MaskValues, most: int = 8) -> str:
    listed = [f"#{value:06x}" if values.coloured else str(value) for value in values.values[:most]]
    return ", ".join(listed) + (", ..." if len(values.values) > most else "")
