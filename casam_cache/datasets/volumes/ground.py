"""What of the labels of volumes is background, and what counts nowhere."""

from __future__ import annotations

import numpy as np

from casam_cache.datasets.mask_cut import swapped
from casam_cache.datasets.named_values import value_in
from casam_cache.datasets.sample import DatasetOptions, MaskValues, Problem
from casam_cache.errors import OptionError


def asked_values(options: DatasetOptions) -> MaskValues:
    """Background and ignored value as the options name them; no values yet.

    Raises:
        OptionError: a colour, or a legend, which volumes have of their own or not at all.
    """
    if options.legend is not None:
        raise OptionError(
            f"--legend {options.legend}: labels of volumes are numbers, each of which is its class",
            "leave it out",
        )
    background, ignore = (
        None if text is None else value_in(text, option, False)
        for text, option in ((options.background, "--background"), (options.ignore, "--ignore"))
    )
    return MaskValues(background=background, ignore=ignore)


def grounded(labels: np.ndarray, values: MaskValues) -> np.ndarray:
    """Labels with 0 for background and for what counts nowhere; what was 0 goes by the background's number."""
    background = values.background or 0
    if values.ignore is not None:
        labels = np.where(labels == values.ignore, labels.dtype.type(background), labels)
    return swapped(labels, background) if background else labels


def absent(values: MaskValues, found: set[int]) -> list[Problem]:
    """A word where a value that was named is in no label."""
    named = (("--background", values.background), ("--ignore", values.ignore))
    return [
        Problem("labels", f"{option} {value}: no label has this value", "check it", "warning")
        for option, value in named
        if value is not None and value not in found
    ]
