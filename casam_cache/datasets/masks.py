"""From label maps to the masks of a sample, one bitmap an object or class; the box and point of a bitmap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from casam_cache.datasets.labels import GREY, LOSSY_CUT, LabelMap, distinct, read_labels
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS, MASK_MODES, Mask, MaskValues
from casam_cache.errors import ImageError, unknown_name


def iter_masks(
    paths: Sequence[Path],
    mode: str,
    values: MaskValues,
    size: tuple[int, int] | None = None,
    *,
    one_object_a_file: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Iterator[Mask]:
    """The masks in the mask files of one image, sorted by class, then instance; none for an empty mask.

    A label map is read as in `split_labels`. Where masks are folders, each file is one object whatever its value:
    `classes` takes its class from its one value, `components` splits it, `binary` unites all.

    Args:
        paths: one label map, or one file an object.
        mode: one of `MASK_MODES`, usually `Dataset.mask_mode`.
        values: usually `Dataset.values`.
        size: height and width of the image, to which every mask is compared; None compares nothing.
        one_object_a_file: as in `Sample`.
        max_pixels: larger files are refused before they are decoded.

    Raises:
        ImageError: a mask cannot be read, has another size than the image, or has values unknown to `values`.
        OptionError: for an unknown mode.
    """
    if mode not in MASK_MODES:
        raise unknown_name("mask mode", mode, list(MASK_MODES))
    maps = [load_labels(path, values, size, max_pixels=max_pixels) for path in paths]
    if not maps:
        return
    if mode == "binary":
        yield from split_labels(np.logical_or.reduce([labels != 0 for labels in maps]), mode, values)
    elif one_object_a_file:
        yield from _objects(maps, mode, values, paths)
    else:
        yield from split_labels(maps[0], mode, values)


def split_labels(labels: np.ndarray, mode: str, values: MaskValues) -> Iterator[Mask]:
    """The masks in one label map of whole numbers (H, W), sorted by class, then instance; 0 is background.

    `binary`: everything that is not background, class 1. `classes`: one mask a value, its class being the
    value (colours are numbered from 1 in sorted order over the dataset). `instances`: one mask a value, all
    of class 1, its instance being the value or the colour's number. `components`: each 8-connected region of
    each class, numbered in row-major order of first pixels; where the dataset has one value, its class is 1.
    """
    if mode == "binary":
        foreground = labels != 0
        if foreground.any():
            yield Mask(foreground, 1, 1)
        return
    single = _single_class(values)
    for number, bitmap in _numbered(labels, values):
        if mode == "instances":
            yield Mask(bitmap, 1, number)
        elif mode == "classes":
            yield Mask(bitmap, number, 1)
        else:
            for instance, region in enumerate(regions(bitmap), 1):
                yield Mask(region, 1 if single else number, instance)


def load_labels(
    path: Path,
    values: MaskValues,
    size: tuple[int, int] | None = None,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> np.ndarray:
    """One mask file as the integers (H, W) that `values` lists: 0 is background, colours are 0xRRGGBB.

    Raises:
        ImageError: it cannot be read, has another size than its image, or has values that `values` does not
            know.
    """
    found = read_labels(path, max_pixels)
    if size is not None and found.labels.shape != tuple(size):
        raise size_mismatch(path, found.labels.shape, size)
    return _as_scanned(found, values, path)


def size_mismatch(path: Path, mask: tuple[int, ...], image: tuple[int, ...]) -> ImageError:
    """The error for a mask of another size than its image; sizes are (height, width)."""
    return ImageError(
        f"{path}: the mask has {mask[1]} x {mask[0]} pixels, its image {image[1]} x {image[0]}",
        "export the mask again at the size of its image (nearest neighbour, no smoothing)",
    )


def _as_scanned(found: LabelMap, values: MaskValues, path: Path) -> np.ndarray:
    """Labels in the reading of the whole dataset: lossy files cut, grey as colours in a coloured one."""
    labels = found.labels
    if found.lossy and values.threshold and not found.coloured:
        labels = np.where(labels > LOSSY_CUT, np.int32(255), np.int32(0))
    if values.coloured and not found.coloured:
        if labels.size and labels.max() > 255:
            raise ImageError(
                f"{path}: a label map of more than 8 bits among colour masks",
                "save all masks of the dataset in one way, as label numbers or as colours",
            )
        labels = labels.astype(np.int32) * GREY
    if values.coloured and not set(distinct(labels).tolist()) <= {0, *values.values}:
        raise ImageError(
            f"{path}: holds colours that were not there when the dataset was read", "run it again"
        )
    return labels


def _numbered(labels: np.ndarray, values: MaskValues) -> Iterator[tuple[int, np.ndarray]]:
    """Each value in a label map as its number (itself, or the 1-based rank of its colour) and its bitmap."""
    foreground = values.foreground
    ranks = {value: rank for rank, value in enumerate(foreground, 1)} if values.coloured else {}
    for value in distinct(labels):
        if value != 0:
            yield (ranks[int(value)] if values.coloured else int(value)), labels == value


def _single_class(values: MaskValues) -> bool:
    """Whether the dataset has only one foreground value, so that its class is 1 whatever the value."""
    return len(values.foreground) <= 1


def _objects(maps: list[np.ndarray], mode: str, values: MaskValues, paths: Sequence[Path]) -> Iterator[Mask]:
    """Masks given as one file an object; an instance is the number of its file."""
    if mode == "instances":
        yield from (Mask(labels != 0, 1, number) for number, labels in enumerate(maps, 1) if labels.any())
        return
    found: list[tuple[int, np.ndarray]] = []
    single = _single_class(values)
    for path, labels in zip(paths, maps, strict=True):
        numbered = [number for number, _ in _numbered(labels, values)]
        if len(numbered) > 1:
            raise ImageError(
                f"{path}: one file an object, but it holds {len(numbered)} different values",
                "use --masks instances to ignore the values, or one label map instead of a folder",
            )
        if numbered:
            found.append((1 if single and mode == "components" else numbered[0], labels != 0))
    counts: dict[int, int] = {}
    for number, bitmap in sorted(found, key=lambda pair: pair[0]):
        for region in regions(bitmap) if mode == "components" else (bitmap,):
            counts[number] = counts.get(number, 0) + 1
            yield Mask(region, number, counts[number])


def regions(bitmap: np.ndarray) -> Iterator[np.ndarray]:
    """The 8-connected regions of a bool (H, W) bitmap, in row-major order of their first pixels."""
    from scipy import ndimage

    labels, count = ndimage.label(bitmap, structure=np.ones((3, 3), bool))
    for number in range(1, count + 1):
        yield labels == number


def mask_box(bitmap: np.ndarray) -> np.ndarray:
    """Tight box of a non-empty bool (H, W) bitmap: float32 x0, y0, x1, y1, inclusive pixel indexes.

    Raises:
        ValueError: the bitmap is empty.
    """
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


def interior_point(bitmap: np.ndarray) -> np.ndarray:
    """The pixel farthest from the outside of a non-empty bool (H, W) bitmap: float32 x, y.

    What is beyond the image counts as outside. Among equal pixels the first in row-major order is taken.

    Raises:
        ValueError: the bitmap is empty.
    """
    from scipy import ndimage

    x0, y0, x1, y1 = mask_box(bitmap).astype(int)
    distance = ndimage.distance_transform_edt(np.pad(bitmap[y0 : y1 + 1, x0 : x1 + 1], 1))
    row, column = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return np.array([x0 + column - 1, y0 + row - 1], np.float32)
