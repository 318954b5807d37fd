"""Labels, or one thing with soft edges? Answered from the counts of the values of all masks of a dataset.

The pixels of a label lie in areas; those that smoothing puts between two labels lie along edges, each between a lower
and a higher value. A lossy compression makes every value wander, but its areas stay calm: where no area is calm at a
value between two others, that value is no label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from casam_cache.datasets.value_counts import ValueCounts

FAINTEST = 16  # a thing whose greatest value is lower is no smoothed one: such values are numbers
_ALONG_EDGES = (
    0.8  # share of the pixels of values between two labels that lie between a lower and a higher one
)
_FEW = 0.5  # of all pixels: edges take less
_MOST = 5  # times the pixels of the thing: its edges take less
_WANDER = 12  # calm values that are nearer than this belong to one level of a lossy file
_GREYS = 100  # values of a grey photograph; labels of areas are seldom as many
_SPREAD = 64  # a level that runs over more values is that of several labels
_PHOTO = 256  # colours; labels are fewer
_DARK, _BRIGHT = 32, 191


@dataclass(frozen=True)
class Edges:
    """What the values of all masks are.

    Attributes:
        kind: `labels`; `one`, a thing with soft edges; `several`, labels with soft edges between them; `unsure`, one
            thing with an outline of one value or with soft edges; `unclear`, lossy values that cannot be told apart.
        levels: the values of areas, sorted, where they are known; of `one`, background and thing.
        soft: how many other values there are.
    """

    kind: Literal["labels", "one", "several", "unsure", "unclear"]
    levels: tuple[int, ...] = ()
    soft: int = 0

    def white(self, background: int) -> int:
        """Where everything is one thing: the level next to the background; 255 where none is known."""
        others = [level for level in self.levels if level != background]
        return min(others, key=lambda level: abs(level - background)) if others else 255


def judge_values(counts: ValueCounts, background: int = 0) -> Edges:
    """What the exact values of grey masks are: labels, smoothed ones, or what an earlier lossy compression left."""
    if _is_photo(counts, background):
        return Edges("unclear", (background,), len(counts.values))
    edges = _judge_exact(counts, background)
    if not _wandered(counts, background):
        return edges
    calm = judge_lossy(counts, background, peaks=False)
    return calm if calm.kind == "several" or edges.kind == "labels" else edges


def _is_photo(counts: ValueCounts, background: int) -> bool:
    """Whether many values change from pixel to pixel, up and down as along no edge, outside a plain background."""
    outside = counts.part(counts.values != background)
    shown, solid = int(outside.pixels.sum()), int(outside.solid.sum())
    if len(outside.values) < _GREYS or shown < 0.2 * counts.pixels.sum():
        return False
    bright = int(outside.pixels[outside.values >= _BRIGHT].sum()) > 0.5 * shown
    along = int(outside.between.sum()) >= _ALONG_EDGES * (shown - solid)
    return not bright and not along and solid < 0.25 * shown and int(outside.calm.sum()) < 0.5 * shown


def _wandered(counts: ValueCounts, background: int) -> bool:
    """Whether many values hold no areas, though few labels do that."""
    minor = np.ones(len(counts.values), bool)
    minor[np.argsort(counts.solid)[-2:]] = False
    level = _levels(counts, background)
    bright = len(counts.values) > 0 and int(counts.values[-1]) >= _BRIGHT
    return bright and int((minor & ~level).sum()) >= max(8, 2 * int(level.sum())) and _wander(counts, minor)


def _judge_exact(counts: ValueCounts, background: int) -> Edges:
    values, pixels = counts.values, counts.pixels
    if len(values) <= 2 or int(values[-1]) < FAINTEST:
        return Edges("labels")
    level = _levels(counts, background)
    thing = _thing(counts, level, background)
    ends = tuple(sorted((background, thing)))
    minor = (values != background) & (values != thing)
    far = abs(thing - background) // 16
    middle = (values > ends[0] + far) & (values < ends[1] - far)
    soft = middle & ~level
    if (level & minor & (middle | (values > ends[1]) | (values < ends[0]))).any():
        soft = minor & ~level
        if soft.sum() > max(2, level.sum()) and _lie_along(counts, soft):
            levels = tuple(int(value) for value in values[level | ~minor])
            return Edges("several", levels, int(soft.sum()))
        return Edges("labels")
    if soft.sum() >= 2 and pixels[soft].sum() < _FEW * pixels.sum() and _lie_along(counts, soft):
        near_thing = pixels[np.abs(values - thing) <= 4 * far].sum()
        if not level[values == thing].any() and pixels[soft].sum() < 4 * soft.sum():
            return Edges("labels")  # too few pixels to tell
        if counts.dim(background, thing) or pixels[soft].sum() > _MOST * near_thing:
            return Edges("unclear", ends, len(values) - 2)
        return Edges("one", ends, len(values) - 2)
    if soft.sum() == 1 and minor.sum() == 1 and _lie_along(counts, soft):
        return Edges("unsure", ends, 1)
    near = [minor & (np.abs(values - end) <= 4 * far) for end in ends]
    if not soft.any() and all(part.sum() >= 2 for part in near) and _wander(counts, near[0] | near[1]):
        return Edges("one", ends, len(values) - 2)
    return Edges("labels")


def _levels(counts: ValueCounts, background: int) -> np.ndarray:
    """Which values hold areas."""
    outside = counts.solid[counts.values != background].sum()
    found: np.ndarray = (counts.solid_share >= 0.5) & (counts.solid >= max(4, 0.002 * outside))
    return found


def _thing(counts: ValueCounts, level: np.ndarray, background: int) -> int:
    """The value of the areas that are farthest from the background; the farthest value where there are none."""
    distance = np.abs(counts.values - background)
    level = level & (distance > 0)
    if not level.any():
        return int(counts.values[np.argmax(distance)])
    if distance.max() > 1.5 * distance[level].max():
        return int(counts.values[np.argmax(distance)])
    farthest = level & (distance >= 0.9 * distance[level].max())
    return int(counts.values[np.argmax(np.where(farthest, counts.solid, -1))])


def _lie_along(counts: ValueCounts, chosen: np.ndarray) -> bool:
    return bool(counts.between[chosen].sum() >= _ALONG_EDGES * counts.pixels[chosen].sum())


def _wander(counts: ValueCounts, chosen: np.ndarray) -> bool:
    """Whether these values hold no areas, as those do that a lossy compression left near black and white."""
    return bool(counts.solid[chosen].sum() <= 0.5 * counts.pixels[chosen].sum())


def _peak(counts: ValueCounts, ends: tuple[int, ...]) -> list[int]:
    """The value between two levels, if any, that occurs more often than those on both its sides, as a label does."""
    low, high = ends
    inside = (counts.values > low) & (counts.values < high)
    bins = min(16, int(inside.sum()))
    if bins < 3:
        return []
    edges = np.linspace(low, high, bins + 1)
    heights, _ = np.histogram(counts.values[inside], edges, weights=counts.pixels[inside])
    left, right = np.minimum.accumulate(heights), np.minimum.accumulate(heights[::-1])[::-1]
    valley = np.maximum(left, right)
    above = heights - (2 * valley + 4 * np.sqrt(valley) + 20)
    best = int(np.argmax(above))
    return [int((edges[best] + edges[best + 1]) / 2)] if above[best] > 0 else []


def judge_lossy(counts: ValueCounts, background: int = 0, *, peaks: bool = True) -> Edges:
    """What the values of grey masks are that a lossy compression has changed.

    Args:
        counts: of the lossy files alone, with `calm` counted.
        background: its value.
        peaks: whether a value that occurs more often than those around it is taken for a label too thin to be calm.
    """
    values = counts.values
    calm = np.flatnonzero(counts.calm > 0)
    parts = np.split(calm, np.flatnonzero(np.diff(values[calm]) >= _WANDER) + 1) if len(calm) else []
    outside = [part for part in parts if np.abs(values[part] - background).min() > _DARK]
    least = max(8.0, 0.001 * sum(counts.calm[part].sum() for part in outside))
    outside = [part for part in outside if counts.calm[part].sum() >= least]
    spread = any(np.ptp(values[part]) > _SPREAD for part in parts)
    levels = sorted({background, *(value for part in outside for value in _centres(counts, part))})
    extreme = int(values[np.argmax(np.abs(values - background))]) if len(values) else background
    if spread or len(levels) > 2:
        return Edges("several", tuple(levels), len(values))
    if len(levels) == 2:
        (thing,) = set(levels) - {background}
        peak = _peak(counts, tuple(levels)) if peaks else []
        if peak or counts.dim(background, thing):
            return Edges("several", tuple(sorted([*levels, *peak])), len(values))
        thing = 255 if thing >= _BRIGHT and background == 0 else thing
        return Edges("one", tuple(sorted((background, thing))), len(values) - 2)
    if abs(extreme - background) >= _BRIGHT:  # thin lines and specks hold no calm area
        return Edges("one", tuple(sorted((background, 255 if background == 0 else 0))), len(values) - 2)
    return Edges("unclear", (), len(values))


def _centres(counts: ValueCounts, part: np.ndarray) -> list[int]:
    """The value that most calm pixels of a level have; of one that runs over several labels its lower end too."""
    values, calm = counts.values[part], counts.calm[part]
    most = int(values[np.argmax(calm)])
    if np.ptp(values) <= _SPREAD:
        return [most]
    return [int(values[np.searchsorted(np.cumsum(calm), 0.02 * calm.sum())]), most]


def judge_colours(counts: ValueCounts, background: int = 0) -> Edges:
    """What the colours of coloured masks are; `unclear` where hardly any pixel has that of an area."""
    values, pixels = counts.values, counts.pixels
    level = _levels(counts, background) | (values == background)
    soft = ~level
    levels = tuple(values[level].tolist())
    if len(values) > _PHOTO and pixels[soft].sum() > _FEW * pixels[values != background].sum():
        return Edges("unclear", levels if len(levels) <= 64 else (background,), int(soft.sum()))
    if soft.sum() > 2 and _lie_along(counts, soft):
        if len(levels) == 2:
            return Edges("one", levels, int(soft.sum()))
        if soft.sum() > len(levels) > 2:
            return Edges("several", levels, int(soft.sum()))
    return Edges("labels")
