"""Masks that cost nothing: what a box alone, or a box and a histogram, gives."""

from __future__ import annotations

import numpy as np

BASELINES = ("box", "ellipse", "otsu")


def filled_box(box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Everything inside the box x0, y0, x1, y1 (inclusive), bool (H, W)."""
    mask = np.zeros(shape, bool)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def filled_ellipse(box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The ellipse that touches all four sides of the box, bool (H, W)."""
    x0, y0, x1, y1 = (float(v) for v in box)
    rows = (np.arange(shape[0])[:, None] - (y0 + y1) / 2) / ((y1 - y0 + 1) / 2)
    columns = (np.arange(shape[1])[None, :] - (x0 + x1) / 2) / ((x1 - x0 + 1) / 2)
    return rows**2 + columns**2 <= 1


def otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold of uint8 values: most variance between the two classes."""
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    sums = np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(np.argmax(np.nan_to_num(between)))


def otsu_in_box(image: np.ndarray, box: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Otsu inside the box on the grey image, of the two polarities the one nearer to the truth (a free choice)."""
    x0, y0, x1, y1 = (int(v) for v in box)
    inside = (slice(y0, y1 + 1), slice(x0, x1 + 1))
    grey = np.rint(image[inside].astype(np.float32).mean(axis=2)).astype(np.uint8)
    bright = grey > otsu_threshold(grey)
    wanted = truth[inside]
    mask = np.zeros(truth.shape, bool)
    both, none = np.count_nonzero(bright & wanted), np.count_nonzero(~bright & wanted)
    first = both / max(1, int(np.count_nonzero(bright | wanted)))
    second = none / max(1, int(np.count_nonzero(~bright | wanted)))
    mask[inside] = bright if first >= second else ~bright
    return mask
