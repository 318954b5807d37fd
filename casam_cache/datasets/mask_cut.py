"""One mask file in the reading of its dataset: cut in the middle, as colours, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from casam_cache.datasets.labels import GREY, LabelMap, distinct
from casam_cache.datasets.sample import MaskValues
from casam_cache.errors import ImageError


def as_read(found: LabelMap, values: MaskValues, path: Path) -> np.ndarray:
    """The labels (H, W) of a file in the values of its dataset.

    Raises:
        ImageError: the file holds what the dataset's reading refuses, or what was not there when it was read.
    """
    error = refusal(
        path, found.lossy, found.format, found.coloured, lambda: distinct(found.labels).tolist(), values
    )
    if error is not None:
        raise error
    if values.soft or found.lossy:
        return _cut(found, values)
    labels = found.labels
    if values.coloured and not found.coloured:
        labels = labels.astype(np.int32) * GREY
    if values.coloured and not set(distinct(labels).tolist()) <= {0, *values.values}:
        raise ImageError(
            f"{path}: holds colours that were not there when the dataset was read", "run it again"
        )
    return labels


def refusal(
    path: Path, lossy: bool, name: str, coloured: bool, held: Callable[[], Sequence[int]], values: MaskValues
) -> ImageError | None:
    """Why a file is not used in the reading of its dataset; None where it is."""
    if lossy and values.lossy == "refused":
        return ImageError(
            f"{path}: a label map in a lossy {name} file: its labels can no longer be told apart exactly",
            "save the masks as PNG from their source; --masks binary takes all that is not black for one thing",
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
        others = [value for value in present if value not in values.values]
        if others:
            kind = "colours" if values.coloured else "values"
            return ImageError(
                f"{path}: {len(others)} of its {len(present)} {kind} {values.refused}",
                "export the mask again without smoothing (nearest neighbour); --masks classes reads every value as a "
                "class, --masks binary all of them as one thing",
            )
    return None


def _cut(found: LabelMap, values: MaskValues) -> np.ndarray:
    """Background and white, int32 (H, W): what is nearer to which."""
    if values.coloured:
        packed = found.labels if found.coloured else found.labels.astype(np.int32) * GREY
        return np.where(_share(packed, 0, values.white) > 0.5, np.int32(values.white), np.int32(0))
    grey, white = found.grey, values.white
    top = int(grey.max(initial=0))
    own = 1 if top <= 1 and 1 in values.codings else 65535 if top > 255 >= white else white
    return np.where(grey > own // 2, np.int32(white), np.int32(0))


def _share(packed: np.ndarray, background: int, thing: int) -> np.ndarray:
    """How far each colour lies on the way from one to another, float32 (H, W)."""
    start, end = _channels(np.array(background)), _channels(np.array(thing))
    way = end - start
    share: np.ndarray = (_channels(packed) - start) @ way / float(way @ way)
    return share


def _channels(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.float32)
