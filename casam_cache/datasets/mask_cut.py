"""One mask file in the reading of its dataset: cut in the middle, as colours, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from casam_cache.datasets.labels import LabelMap, distinct
from casam_cache.datasets.named_values import GREY, shown_value
from casam_cache.datasets.sample import MaskValues
from casam_cache.datasets.value_counts import FAINT
from casam_cache.errors import ImageError


def as_read(found: LabelMap, values: MaskValues, path: Path) -> np.ndarray:
    """The labels (H, W) of a file in the values of its dataset, where background is 0 whatever it was in the file.

    Raises:
        ImageError: the file holds what the dataset's reading refuses, or what was not there when it was read.
    """
    if values.alpha and found.alpha is not None:
        found = replace(found, labels=found.alpha, coloured=False, near_grey=False)
    error = refusal(
        path, found.lossy, found.format, found.coloured, lambda: distinct(found.labels).tolist(), values
    )
    if error is not None:
        raise error
    ignored = ignored_in(found, values)
    labels = found.labels
    if values.coloured and not found.coloured:
        labels = labels.astype(np.int32) * GREY
    background = values.background or 0
    if values.soft or found.lossy:
        labels = _cut(found, values, ignored)
    elif values.coloured and not set(distinct(labels).tolist()) <= {
        background,
        *values.values,
        values.ignore,
    }:
        raise ImageError(
            f"{path}: holds colours that were not there when the dataset was read", "run it again"
        )
    if ignored is not None:
        labels = np.where(ignored, labels.dtype.type(background), labels)
    return labels if background == 0 else swapped(labels, background)


def ignored_in(found: LabelMap, values: MaskValues) -> np.ndarray | None:
    """Bool (H, W): pixels that count nowhere; None where none of the file does."""
    if values.ignore is None:
        return None
    labels = found.alpha if values.alpha and found.alpha is not None else found.labels
    if values.coloured and not found.coloured:
        labels = labels.astype(np.int32) * GREY
    chosen: np.ndarray = labels == values.ignore
    return chosen if chosen.any() else None


def swapped(labels: np.ndarray, background: int) -> np.ndarray:
    """Labels with 0 for background, and the background's number, which is free then, for what was 0."""
    wide = (
        labels
        if labels.dtype.kind != "u" or background <= np.iinfo(labels.dtype).max
        else labels.astype(np.int64)
    )
    other = wide.dtype.type(background)
    return np.where(wide == other, wide.dtype.type(0), np.where(wide == 0, other, wide))


def refusal(
    path: Path, lossy: bool, name: str, coloured: bool, held: Callable[[], Sequence[int]], values: MaskValues
) -> ImageError | None:
    """Why a file is not used in the reading of its dataset; None where it is."""
    if lossy and values.lossy == "refused":
        hint = "save the masks as PNG from their source"
        if max(held(), default=0) > FAINT and not values.legend and values.ignore is None:
            hint += "; --masks binary takes all that is not black for one thing"
        return ImageError(
            f"{path}: a label map in a lossy {name} file: its labels can no longer be told apart exactly",
            hint,
        )
    present = [int(value) for value in held()]
    if values.coloured and not coloured and present and max(present) > 255 and not values.soft:
        return ImageError(
            f"{path}: a label map of more than 8 bits among colour masks",
            "save all masks of the dataset in one way, as label numbers or as colours",
        )
    if values.refused:
        if values.coloured and not coloured:
            present = [value * GREY for value in present]
        others = [value for value in present if value not in (*values.values, values.ignore)]
        if others:
            if values.legend:
                shown = ", ".join(shown_value(value, values.coloured) for value in others[:3])
                more = f" and {len(others) - 3} more" if len(others) > 3 else ""
                return ImageError(
                    f"{path}: {shown}{more} {values.refused}", "add it to the legend, or correct the mask"
                )
            kind = "colours" if values.coloured else "values"
            return ImageError(
                f"{path}: {len(others)} of its {len(present)} {kind} {values.refused}",
                "export the mask again without smoothing (nearest neighbour); --masks classes reads every value as a "
                "class, --masks binary all of them as one thing",
            )
    return None


def _cut(found: LabelMap, values: MaskValues, ignored: np.ndarray | None) -> np.ndarray:
    """Background and white, int32 (H, W): what is nearer to which."""
    background, white = values.background or 0, values.white
    if values.coloured:
        packed = found.labels if found.coloured else found.labels.astype(np.int32) * GREY
        nearer = _share(packed, background, white) > 0.5
        return np.where(nearer, np.int32(white), np.int32(background))
    grey, scale = found.grey, max(background, white)
    top = int(grey.max(initial=0, where=True if ignored is None else ~ignored))
    own = 1 if top <= 1 and 1 in values.codings else 65535 if top > 255 >= scale else scale
    ends = background * own / scale, white * own / scale
    nearer = grey > sum(ends) / 2 if ends[1] > ends[0] else grey < sum(ends) / 2
    return np.where(nearer, np.int32(white), np.int32(background))


def _share(packed: np.ndarray, background: int, thing: int) -> np.ndarray:
    """How far each colour lies on the way from one to another, float32 (H, W)."""
    start, end = _channels(np.array(background)), _channels(np.array(thing))
    way = end - start
    share: np.ndarray = (_channels(packed) - start) @ way / float(way @ way)
    return share


def _channels(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.float32)
