"""What each value of a mask does, counted: how often it occurs, in areas or only along edges, and at the border.

These counts tell labels from the values that smoothing or a lossy compression puts between them. They add up over the
files of a dataset, so that what values mean is decided once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from casam_cache.datasets.named_values import GREY

CALM = 10  # a lossy file's values wander so far inside an area of one label
FAINT = 32  # values up to here may be a background that wandered
OBJECT = 16  # pixels
_PIXELS_AT_ONCE = 1 << 20
MOST_COLOURS = 4096  # colours of one file whose pixels are looked at; a photograph has more


@dataclass(frozen=True)
class ValueCounts:
    """Pixels by value; every array is int64 of one length.

    Attributes:
        values: sorted; packed 0xRRGGBB for colours.
        pixels: how many there are.
        solid: those in a square of 2 x 2 equal ones, as the pixels of areas are and those along a smooth edge are not.
        between: those with a lower and a higher value among their eight neighbours (colours: in every channel
            that differs there).
        calm: those whose 3 x 3 neighbourhood stays within `CALM`; all solid ones where most values hold areas.
        border: those on the border of their image.
        tops: not pixels, but objects (connected pixels above `FAINT`, at least `OBJECT` of them) whose greatest value
            it is; counted where values do not.
    """

    values: np.ndarray
    pixels: np.ndarray
    solid: np.ndarray
    between: np.ndarray
    calm: np.ndarray
    border: np.ndarray
    tops: np.ndarray

    @property
    def solid_share(self) -> np.ndarray:
        """float64, of each value's pixels."""
        share: np.ndarray = self.solid / np.maximum(self.pixels, 1)
        return share

    def part(self, chosen: np.ndarray) -> ValueCounts:
        """Only the values that a bool mask chooses."""
        return ValueCounts(*(getattr(self, entry.name)[chosen] for entry in fields(self)))

    def dim(self, background: int, thing: int) -> int:
        """Objects that never come near the value of the thing, which a cut would lose or unite with it."""
        if background != 0:
            return 0
        return int(self.tops[(self.values > 0.3 * thing) & (self.values < 0.7 * thing)].sum())

    def without(self, value: int | None) -> ValueCounts:
        return self if value is None else self.part(self.values != value)


def count_values(
    labels: np.ndarray,
    *,
    coloured: bool = False,
    lossy: bool = False,
    place: tuple[int, int, tuple[int, int]] | None = None,
) -> ValueCounts:
    """Count the values of one label map.

    Args:
        labels: integers (H, W), none negative; packed 0xRRGGBB when `coloured`.
        coloured: whether they are colours.
        lossy: whether a lossy compression has changed them.
        place: where they are only a part of their image, as in `Pixels`; all of it is counted.
    """
    values, ranks = _ranked(labels)
    many = len(values)
    border = _border(ranks, many, place)
    none = np.zeros(many, np.int64)
    beyond = none.copy()
    if place is not None:
        beyond[0] = place[2][0] * place[2][1] - labels.size  # of 0, in areas
    pixels = none.copy()
    for rows, _ in _blocks(ranks.shape):  # counting takes eight bytes a pixel
        pixels += np.bincount(ranks[rows].ravel(), minlength=many)
    pixels += beyond
    if many <= 2 or (many > MOST_COLOURS and coloured):
        flat = pixels if many <= 2 else none
        return ValueCounts(values, pixels, flat, none, flat, border, none)
    solid, between, calm, tops = pixels.copy(), none.copy(), none, none
    for rows, halo in _blocks(ranks.shape):
        own = slice(rows.start - halo.start, rows.stop - halo.start)
        loose = np.flatnonzero(~_in_squares(ranks[halo])[own])
        held = ranks[rows].ravel()[loose]
        solid -= np.bincount(held, minlength=many)
        if len(loose):
            lies = _between(labels[halo], loose + own.start * labels.shape[1], coloured)
            between += np.bincount(held[lies], minlength=many)
    if not coloured and (lossy or np.sum(2 * solid < pixels) > 1):
        calm, tops = beyond.copy(), none.copy()
        for rows, halo in _blocks(ranks.shape):
            low, high = _neighbourhood(labels[halo].astype(np.int32))
            quiet = (high - low <= CALM)[rows.start - halo.start : rows.stop - halo.start]
            calm += np.bincount(ranks[rows][quiet], minlength=many)
        np.add.at(tops, np.searchsorted(values, _tops(labels)), 1)
    else:
        calm = solid
    return ValueCounts(values, pixels, solid, between, calm, border, tops)


def _border(ranks: np.ndarray, many: int, place: tuple[int, int, tuple[int, int]] | None) -> np.ndarray:
    """How many pixels of each value lie on the border of the image."""
    if place is None:
        edge = np.concatenate([ranks[0], ranks[-1], ranks[1:-1, 0], ranks[1:-1, -1]])
        return np.bincount(edge, minlength=many)
    top, left, (height, width) = place
    rows, columns = np.arange(top, top + ranks.shape[0]), np.arange(left, left + ranks.shape[1])
    on_edge = np.isin(rows, (0, height - 1))[:, None] | np.isin(columns, (0, width - 1))
    border = np.bincount(ranks[on_edge], minlength=many)
    border[0] += 2 * (height + width) - 4 - np.count_nonzero(on_edge)
    return border


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Rows of an image, so many that little memory is taken, and the same with a row more on either side."""
    step = max(1, _PIXELS_AT_ONCE // shape[1])
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        yield slice(start, stop), slice(max(0, start - 1), min(stop + 1, shape[0]))


def _between(labels: np.ndarray, places: np.ndarray, coloured: bool) -> np.ndarray:
    """Bool (n,): which of the pixels at these flat places have a lower and a higher value beside them."""
    if not coloured:
        own, low, high = _around(labels, places)
        return (low < own) & (own < high)
    beyond, level = np.zeros(len(places), bool), np.ones(len(places), bool)
    for shift in (16, 8, 0):
        own, low, high = _around((labels >> shift & 255).astype(np.uint8), places)
        inside = (low < own) & (own < high)
        beyond |= inside
        level &= inside | (low == high)
    return beyond & level


def _around(array: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values at flat places, and the least and greatest of their 3 x 3 neighbourhoods."""
    height, width = array.shape
    rows, columns = np.divmod(places, width)
    own = array[rows, columns]
    low, high = own.copy(), own.copy()
    for down in (-1, 0, 1):
        near = np.clip(rows + down, 0, height - 1)
        for across in (-1, 0, 1):
            beside = array[near, np.clip(columns + across, 0, width - 1)]
            np.minimum(low, beside, out=low)
            np.maximum(high, beside, out=high)
    return own, low, high


def merge_counts(parts: Sequence[ValueCounts]) -> ValueCounts:
    """The counts of several files as one."""
    every = np.concatenate([part.values for part in parts]) if parts else np.zeros(0, np.int64)
    values, places = np.unique(every, return_inverse=True)

    def added(name: str) -> np.ndarray:
        total = np.zeros(len(values), np.int64)
        if parts:
            np.add.at(total, places, np.concatenate([getattr(part, name) for part in parts]))
        return total

    return ValueCounts(
        values, *(added(entry.name) for entry in fields(ValueCounts) if entry.name != "values")
    )


def as_colours(counts: ValueCounts) -> ValueCounts:
    """The counts of 8-bit grey values as those of the colours that have them in every channel."""
    kept = counts.part(counts.values <= 255)
    return replace(kept, values=kept.values * GREY)


def _ranked(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct values, int64, and the place of each pixel's value among them."""
    if labels.dtype.itemsize <= 2 or int(labels.max(initial=0)) < 1 << 16:
        highest = int(labels.max(initial=0)) + 1
        held = np.zeros(highest, bool)
        for rows, _ in _blocks(labels.shape):
            held |= np.bincount(labels[rows].ravel(), minlength=highest) > 0
        values = np.flatnonzero(held)
        table = (np.cumsum(held) - 1).astype(np.uint8 if len(values) <= 256 else np.uint16)
        return values.astype(np.int64), table[labels]
    values, places = np.unique(labels, return_inverse=True)
    return values.astype(np.int64), places.reshape(labels.shape).astype(np.int32)


def _in_squares(ranks: np.ndarray) -> np.ndarray:
    """Bool (H, W): pixels in some 2 x 2 square of equal ones."""
    found = np.zeros(ranks.shape, bool)
    across = ranks[:, 1:] == ranks[:, :-1]
    square = across[1:] & across[:-1] & (ranks[1:, :-1] == ranks[:-1, :-1])
    for rows in (slice(1, None), slice(None, -1)):
        for columns in (slice(1, None), slice(None, -1)):
            found[rows, columns] |= square
    return found


def _tops(labels: np.ndarray) -> np.ndarray:
    """The greatest value of each object."""
    from scipy import ndimage

    objects, many = ndimage.label(labels > FAINT, structure=np.ones((3, 3), bool))
    large = np.flatnonzero(np.bincount(objects.ravel(), minlength=many + 1)[1:] >= OBJECT) + 1
    return np.asarray(ndimage.maximum(labels, objects, large)).astype(np.int64)


def _neighbourhood(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest of each pixel's 3 x 3 neighbourhood."""
    from scipy import ndimage

    return ndimage.minimum_filter(array, 3), ndimage.maximum_filter(array, 3)
