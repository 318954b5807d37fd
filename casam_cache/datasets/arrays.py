"""Pixels and masks from any reader, checked; whatever fails in a reader is an `ImageError` of that one image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from casam_cache.datasets.base import Reader, check_inside
from casam_cache.datasets.images import to_rgb
from casam_cache.datasets.intensity import parse_intensity
from casam_cache.datasets.masks import size_mismatch
from casam_cache.datasets.portion import split_portion
from casam_cache.datasets.regular_files import check_regular
from casam_cache.datasets.sample import Dataset, Mask, Sample
from casam_cache.datasets.time_limit import within_limit
from casam_cache.errors import ImageError, OptionError
from casam_cache.fingerprint import digest_arrays


def read_array(reader: Reader, root: Path, source: str, max_pixels: int) -> np.ndarray:
    """The pixels of one image at their own depth: (H, W) or (H, W, 3).

    Raises:
        ImageError: they cannot be read, or are none.
        DatasetError: the name leads out of the dataset folder.
    """
    check_inside(source)
    path = root / source
    try:
        _check_regular(root, source)
        array = within_limit(path, lambda: reader.image(root, source, max_pixels))
    except ImageError:
        raise
    except Exception as error:  # a reader meets damaged files in ways of its own
        raise _unreadable(path, reader, error) from error
    shape = getattr(array, "shape", None)
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.kind not in "buif"
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
        or not array.size
    ):
        raise ImageError(
            f"{path}: the reader '{reader.name}' gives {type(array).__name__} of shape {shape}",
            "an image is an array of numbers, (H, W) or (H, W, 3)",
        )
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(
            f"{path}: {array.shape[1]} x {array.shape[0]} pixels are more than the limit of {max_pixels:,}",
            "save it as TIFF and cut it into tiles (--tile 1024), shrink it, or raise the limit with --max-pixels",
        )
    return array


def read_window(reader: Reader, root: Path, source: str, intensity: str) -> tuple[float, float] | None:
    """The window of one image, as `Reader.window` gives it.

    Raises:
        ImageError: it is of the pixels, and they cannot be read.
        OptionError: for a malformed `intensity`.
    """
    check_inside(source)
    parse_intensity(intensity)
    try:
        return reader.window(root, source, intensity)
    except ImageError:
        raise
    except Exception as error:
        raise _unreadable(root / source, reader, error) from error


def read_image(dataset: Dataset, sample: Sample, intensity: str = "auto") -> np.ndarray:
    """One image as uint8 RGB (H, W, 3).

    Args:
        dataset: from `read_dataset`.
        sample: one of its samples.
        intensity: `auto` maps images deeper than 8 bit by their own 0.5-99.5 percentiles (the slices of a volume
            by those of the volume), `LOW,HIGH` by that window; see `parse_intensity`.

    Raises:
        ImageError: names the file and what is wrong with it.
    """
    window = read_window(dataset.reader, dataset.root, sample.source, intensity)
    array = read_array(dataset.reader, dataset.root, sample.source, dataset.options.max_pixels)
    return to_rgb(array, dataset.root / sample.source, window)


def read_masks(dataset: Dataset, sample: Sample, size: tuple[int, int] | None = None) -> Iterator[Mask]:
    """The masks of one sample, one after another, each of `size` (height, width) and none of them empty.

    Raises:
        ImageError: they cannot be read, or have another size than the image.
    """
    path, reader = dataset.root / sample.source, dataset.reader
    try:
        for name in sample.masks:
            _check_regular(dataset.root, name)
        for mask in _begun(path, reader, dataset, sample, size):
            cutout = mask.cutout
            if size is not None and cutout.size != tuple(size):
                raise size_mismatch(path, cutout.size, size)
            if cutout.pixels.dtype != np.bool_ or not cutout.pixels.any():
                raise ImageError(
                    f"{path}: the reader '{reader.name}' gives a mask that is empty or of {cutout.pixels.dtype}",
                    "a mask is a bool array with at least one pixel; leave out empty ones",
                )
            yield mask
    except (ImageError, OptionError):
        raise
    except Exception as error:
        raise _unreadable(path, reader, error) from error


def _check_regular(root: Path, name: str) -> None:
    """Refuse a pipe, socket or device before a reader opens it; folders, and names of no file, are its matter."""
    for file in (split_portion(name)[0], name.partition("#")[0]):
        path = root / file
        if path.exists() and not path.is_dir():
            check_regular(path)


def _begun(
    path: Path, reader: Reader, dataset: Dataset, sample: Sample, size: tuple[int, int] | None
) -> Iterator[Mask]:
    """The reader's masks, the first within the limit of time: that is when files are decoded."""
    masks = within_limit(path, lambda: iter(reader.masks(dataset, sample, size)))
    first = within_limit(path, lambda: next(masks, None))
    if first is not None:
        yield first
        yield from masks


def read_ignored(dataset: Dataset, sample: Sample, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """Bool (H, W): pixels of one sample that count nowhere, of no mask's; None where all count.

    Raises:
        ImageError: as `read_masks`.
    """
    if dataset.values.ignore is None:
        return None
    path, reader = dataset.root / sample.source, dataset.reader
    try:
        ignored = within_limit(path, lambda: reader.ignored(dataset, sample))
    except (ImageError, OptionError):
        raise
    except Exception as error:
        raise _unreadable(path, reader, error) from error
    if ignored is not None and size is not None and ignored.shape != tuple(size):
        raise size_mismatch(path, ignored.shape, size)
    return ignored


def pixels_sha256(array: np.ndarray) -> bytes:
    """32 bytes that name the pixels of an image, with their shape and type."""
    return bytes.fromhex(digest_arrays([("image", array)]))


def _unreadable(path: Path, reader: Reader, error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError(
            f"{path}: not enough memory", "end other programs, or cut the image and its masks into tiles"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ImageError(
        f"{path}: cannot be read by '{reader.name}': {type(error).__name__}: {reason}".splitlines()[0],
        "restore the file, or remove it from the dataset",
    )
