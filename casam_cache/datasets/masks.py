"""From label maps to the masks of a sample, one cutout an object or class; the box and point of a bitmap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.labels import distinct, read_labels, read_part
from casam_cache.datasets.mask_cut import as_read, ignored_in
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS, MASK_MODES, Mask, MaskValues
from casam_cache.errors import ImageError, unknown_name

_MOST_PLACES = 65_535
_FEW = 16
_PIXELS_AT_ONCE = 1 << 18


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
    maps = (_load_part(path, values, size, max_pixels) for path in paths)
    if mode == "binary":
        yield from _united(maps)
    elif one_object_a_file:
        yield from _objects(maps, mode, values, paths)
    else:
        for part in maps:
            yield from _split(part, mode, values)


@dataclass(frozen=True)
class _Part:
    """A rectangle of a label map, beyond which all is 0: its labels, first row and column, and size of the whole."""

    labels: np.ndarray
    top: int
    left: int
    size: tuple[int, int]

    def cutout(self, pixels: np.ndarray, top: int = 0, left: int = 0) -> Cutout:
        """Bool pixels that begin at a row and column of this part."""
        return Cutout(pixels, self.top + top, self.left + left, self.size)


def _united(maps: Iterable[_Part]) -> Iterator[Mask]:
    """The one mask of all label maps of an image, which are read one at a time."""
    united: np.ndarray | None = None
    for part in maps:
        if united is None:
            united = np.zeros(part.size, dtype=bool)
        rows, columns = part.labels.shape
        own = united[part.top : part.top + rows, part.left : part.left + columns]
        np.logical_or(own, part.labels, out=own)
    if united is not None and united.any():
        yield Mask(united, 1, 1)


def split_labels(labels: np.ndarray, mode: str, values: MaskValues) -> Iterator[Mask]:
    """The masks in one label map of whole numbers (H, W), sorted by class, then instance; 0 is background.

    `binary`: everything that is not background, class 1. `classes`: one mask a value, its class being the
    value (colours are numbered from 1 in sorted order over the dataset). `instances`: one mask a value, all
    of class 1, its instance being the value or the colour's number. `components`: each 8-connected region of
    each class, numbered in row-major order of first pixels; where the dataset has one value, its class is 1.
    """
    yield from _split(_Part(labels, 0, 0, (int(labels.shape[0]), int(labels.shape[1]))), mode, values)


def _split(part: _Part, mode: str, values: MaskValues) -> Iterator[Mask]:
    if mode == "binary":
        foreground = part.labels != 0
        if foreground.any():
            yield Mask(part.cutout(foreground), 1, 1)
        return
    single = _single_class(values)
    for number, cutout in _numbered(part, values):
        if mode == "instances":
            yield Mask(cutout, 1, number)
        elif mode == "classes":
            yield Mask(cutout, number, 1)
        else:
            for instance, region in enumerate(cutouts_of_regions(cutout), 1):
                yield Mask(region, 1 if single else number, instance)


def load_labels(
    path: Path,
    values: MaskValues,
    size: tuple[int, int] | None = None,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> np.ndarray:
    """One mask file as the integers (H, W) that `values` lists: 0 is background, colours are 0xRRGGBB.

    Where `values` names another background, 0 and its value have changed places.

    Raises:
        ImageError: it cannot be read, has another size than its image, or has values that `values` does not
            know.
    """
    part = _load_part(path, values, size, max_pixels)
    if part.labels.shape == part.size:
        return part.labels
    whole = np.zeros(part.size, part.labels.dtype)
    rows, columns = part.labels.shape
    whole[part.top : part.top + rows, part.left : part.left + columns] = part.labels
    return whole


def _load_part(path: Path, values: MaskValues, size: tuple[int, int] | None, max_pixels: int) -> _Part:
    """As `load_labels`, but where little of the file is not background perhaps that alone."""
    found = read_part(path, max_pixels, colours=values.legend_of_colours)
    if size is not None and found.size != tuple(size):
        raise size_mismatch(path, found.size, size)
    labels = as_read(found, values, path)
    if found.place is None:
        return _Part(labels, 0, 0, found.size)
    top, left, whole = found.place
    if labels[0 if top else -1, 0 if left else -1]:  # in the ring, which is as all beyond: no background here
        return _Part(
            as_read(read_labels(path, max_pixels, colours=values.legend_of_colours), values, path),
            0,
            0,
            found.size,
        )
    return _Part(labels, top, left, whole)


def load_ignored(
    paths: Sequence[Path], values: MaskValues, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray | None:
    """Bool (H, W): pixels that some of the mask files of an image say are to count nowhere; None where there are none.

    Raises:
        ImageError: a file cannot be read, or they are of different sizes.
    """
    found: np.ndarray | None = None
    for path in paths if values.ignore is not None else ():
        ignored = ignored_in(read_labels(path, max_pixels, colours=values.legend_of_colours), values)
        if ignored is not None and found is not None and ignored.shape != found.shape:
            raise size_mismatch(path, ignored.shape, found.shape)
        if ignored is not None:
            found = ignored if found is None else found | ignored
    return found


def size_mismatch(path: Path, mask: tuple[int, ...], image: tuple[int, ...]) -> ImageError:
    """The error for a mask of another size than its image; sizes are (height, width)."""
    return ImageError(
        f"{path}: the mask has {mask[1]} x {mask[0]} pixels, its image {image[1]} x {image[0]}",
        "export the mask again at the size of its image (nearest neighbour, no smoothing)",
    )


def _numbered(part: _Part, values: MaskValues) -> Iterator[tuple[int, Cutout]]:
    """Each value in a label map as its number (itself, or the 1-based rank of its colour) and where it is."""
    # What was 0 goes by the background's number, see `swapped`.
    foreground = [value or values.background or 0 for value in values.foreground]
    ranks = {value: rank for rank, value in enumerate(foreground, 1)} if values.coloured else {}
    for value, cutout in _places(part):
        yield (ranks[value] if values.coloured else value), cutout


def _places(part: _Part) -> Iterator[tuple[int, Cutout]]:
    """Each value in a label map but 0, sorted, and where it is."""
    from scipy import ndimage

    labels = part.labels
    found = distinct(labels)
    chosen = np.flatnonzero(found)
    if not len(chosen):
        return
    listed = labels.dtype.kind in "bui" and found[0] >= 0 and found[-1] <= _MOST_PLACES
    if not listed and len(found) <= _FEW:
        for value in found[chosen]:
            yield int(value), part.cutout(labels == value).tight()
        return
    # One pass finds the box of every number from 1 to the highest; where those are too many, of every rank.
    numbers = [int(number) for number in (found[chosen] if listed else chosen + 1)]
    boxes = ndimage.find_objects(labels if listed else _ranked(labels, found), numbers[-1])
    for value, number in zip(found[chosen], numbers, strict=True):
        rows, columns = boxes[number - 1]
        yield int(value), part.cutout(labels[rows, columns] == value, rows.start, columns.start)


def _ranked(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Labels with each value as its rank in `found`, from 1: int32 (H, W)."""
    ranks = np.empty(labels.shape, np.int32)
    for row, out in zip(labels, ranks, strict=True):  # a row at a time: searchsorted gives int64
        out[:] = np.searchsorted(found, row) + 1
    return ranks


def _single_class(values: MaskValues) -> bool:
    """Whether the dataset has only one foreground value, so that its class is 1 whatever the value."""
    return len(values.foreground) <= 1


def _objects(maps: Iterable[_Part], mode: str, values: MaskValues, paths: Sequence[Path]) -> Iterator[Mask]:
    """Masks given as one file an object, read one at a time; an instance is the number of its file."""
    if mode == "instances":
        for number, part in enumerate(maps, 1):
            if part.labels.any():
                yield Mask(part.cutout(part.labels != 0).tight(), 1, number)
        return
    found: list[tuple[int, Cutout]] = []
    single = _single_class(values)
    for path, part in zip(paths, maps, strict=True):
        numbered = [number for number, _ in _numbered(part, values)]
        if len(numbered) > 1:
            raise ImageError(
                f"{path}: one file an object, but it holds {len(numbered)} different values",
                "use --masks instances to ignore the values, or one label map instead of a folder",
            )
        if numbered:
            number = 1 if single and mode == "components" else numbered[0]
            found.append((number, part.cutout(part.labels != 0).tight()))
    counts: dict[int, int] = {}
    for number, cutout in sorted(found, key=lambda pair: pair[0]):
        for region in cutouts_of_regions(cutout) if mode == "components" else (cutout,):
            counts[number] = counts.get(number, 0) + 1
            yield Mask(region, number, counts[number])


def regions(bitmap: np.ndarray) -> Iterator[np.ndarray]:
    """The 8-connected regions of a bool (H, W) bitmap, in row-major order of their first pixels."""
    for region in cutouts_of_regions(Cutout.of(bitmap)):
        yield region.bitmap


def cutouts_of_regions(cutout: Cutout) -> Iterator[Cutout]:
    """The 8-connected regions, each in its own box, in row-major order of their first pixels."""
    from scipy import ndimage

    labels, _ = ndimage.label(cutout.pixels, structure=np.ones((3, 3), bool))
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        pixels = labels[rows, columns] == number
        yield Cutout(pixels, cutout.top + rows.start, cutout.left + columns.start, cutout.size)


def mask_box(bitmap: np.ndarray) -> np.ndarray:
    """Tight box of a non-empty bool (H, W) bitmap: float32 x0, y0, x1, y1, inclusive pixel indexes.

    Raises:
        ValueError: the bitmap is empty.
    """
    return Cutout.of(bitmap).tight().box


def interior_point(bitmap: np.ndarray) -> np.ndarray:
    """The pixel farthest from the outside of a non-empty bool (H, W) bitmap: float32 x, y.

    What is beyond the image counts as outside. Among equal pixels the first in row-major order is taken.

    Raises:
        ValueError: the bitmap is empty.
    """
    return innermost(Cutout.of(bitmap).tight())


def innermost(cutout: Cutout) -> np.ndarray:
    """`interior_point` of a tight cutout: float32 x, y in pixels of the image."""
    from scipy import ndimage

    # The nearest outside pixel of each pixel, from which the distances follow a block of rows at a time: the
    # distances of a whole image at once would take eight times the memory.
    padded = np.pad(cutout.pixels, 1)
    nearest = ndimage.distance_transform_edt(padded, return_distances=False, return_indices=True)
    width, best, first = padded.shape[1], 0, 0
    columns = np.arange(width)
    rows_at_once = max(1, _PIXELS_AT_ONCE // width)
    for start in range(0, len(padded), rows_at_once):
        part = nearest[:, start : start + rows_at_once]
        rows = np.arange(start, start + part.shape[1])[:, None]
        squared = (part[0] - rows) ** 2 + (part[1] - columns) ** 2
        place = int(np.argmax(squared))
        if squared.flat[place] > best:
            best, first = int(squared.flat[place]), start * width + place
    row, column = divmod(first, width)
    return np.array([cutout.left + column - 1, cutout.top + row - 1], np.float32)
