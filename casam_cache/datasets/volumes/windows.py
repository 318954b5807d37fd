"""From the values of a volume to 8 bits: one window a volume, so that its slices can be compared."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np

from casam_cache.datasets.images import window_of
from casam_cache.datasets.intensity import parse_intensity
from casam_cache.datasets.volumes.volume import Volume

SAMPLED = 8_000_000  # voxels; larger volumes are looked at on a coarser grid
_lock = threading.Lock()


def volume_window(volume: Volume, intensity: str) -> tuple[float, float]:
    """The window of all slices of a volume, in the values of `picture`.

    Args:
        volume: whose.
        intensity: `auto`: the 0.5 and 99.5 percentiles of the whole volume without the padding around a field of view
            (of more than 8 million voxels every second, third and so on along each axis counts); `full`: its extremes;
            or a window of its own.

    Raises:
        ImageError: the voxels cannot be read.
        OptionError: for a malformed `intensity`.
    """
    window = parse_intensity(intensity)
    if window is None or not np.isfinite(window).all():
        with _lock:
            window = _looked_up(volume, window is None)
    low, high = window
    return (-high, -low) if volume.inverted else (low, high)


@lru_cache(maxsize=64)
def _looked_up(volume: Volume, percentiles: bool) -> tuple[float, float]:
    stored = volume.stored
    if not percentiles:
        ends = np.array([[function(part) for function in (np.nanmin, np.nanmax)] for part in _parts(stored)])
        found = volume.scaled(np.array([np.nanmin(ends), np.nanmax(ends)]))
        return float(found.min()), float(found.max())
    step = max(1, int(np.ceil((stored.size / SAMPLED) ** (1 / 3))))
    sampled = np.asarray(stored[::step, ::step, ::step])
    if volume.padding is not None:
        low, high = volume.padding
        seen = sampled[(sampled < low) | (sampled > high)]
        sampled = seen if seen.size else sampled
    values = volume.scaled(sampled)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]  # the slices with others are refused one by one
    values = _unpadded(values)
    return window_of(values) if values.size else (0.0, 0.0)


def _unpadded(values: np.ndarray) -> np.ndarray:
    """Values without a lowest, negative one that lies further below the rest than the rest is wide.

    Around a round field of view scanners write -2000, -3024 or -32768, which no NIfTI file says.
    """
    if not values.size or not (lowest := values.min()) < 0:
        return values
    rest = values[values > lowest]
    if not rest.size:
        return values
    low, high = float(rest.min()), float(np.percentile(rest, 99.5))
    return rest if low - float(lowest) > high - low else values


def _parts(stored: np.ndarray) -> list[np.ndarray]:
    """Slices along the last axis, so that nothing is as large as the volume."""
    return [stored[:, :, index] for index in range(stored.shape[2])]
