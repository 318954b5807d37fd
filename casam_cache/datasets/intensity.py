"""Which values of a deep image become black and white: `--intensity`, also called `--window`."""

from __future__ import annotations

import numpy as np

from casam_cache.errors import OptionError

CT_WINDOWS = {  # Hounsfield units
    "ct:soft": (-160.0, 240.0),
    "ct:lung": (-1350.0, 150.0),
    "ct:bone": (-500.0, 1300.0),
    "ct:brain": (0.0, 80.0),
    "ct:liver": (-45.0, 105.0),
}
FULL = (-np.inf, np.inf)


def parse_intensity(intensity: str) -> tuple[float, float] | None:
    """The window in values of the file: a preset, `LOW,HIGH`, or infinite for `full` (the extremes).

    None for `auto`, also called `percentiles`: the 0.5 and 99.5 percentiles of each image, or of each volume.

    Raises:
        OptionError: for anything else.
    """
    if intensity in ("auto", "percentiles"):
        return None
    if intensity == "full":
        return FULL
    if intensity in CT_WINDOWS:
        return CT_WINDOWS[intensity]
    try:
        low, high = (float(part) for part in intensity.split(","))
    except ValueError:
        low = high = float("nan")
    if not (np.isfinite([low, high]).all() and low < high):
        raise OptionError(
            f"the intensity '{intensity}' is neither 'auto' nor a window LOW,HIGH with LOW below HIGH",
            f"for example --intensity=-160,240; or full, percentiles, {', '.join(CT_WINDOWS)}",
        )
    return low, high


def named_window(intensity: str) -> str:
    """As a store's identity names it: a preset is its window, since its name says nothing more."""
    if intensity == "percentiles":
        return "auto"
    if intensity in CT_WINDOWS:
        return ",".join(f"{end:g}" for end in CT_WINDOWS[intensity])
    return intensity
