"""A thin line of one value round all objects, as Pascal VOC draws one where pixels are not to count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from casam_cache.datasets.named_values import shown_value, typed_value
from casam_cache.datasets.sample import Problem

LINES = {False: (255,), True: (0xE0E0C0, 0xFFFFFF)}  # values, and colours, that such lines have
_THIN = 3.5  # pixels of a line for each step from it to another value: about half its width
_OPEN = 0.05  # share of the objects' outline that may touch the background


@dataclass(frozen=True)
class Ring:
    """Steps between neighbouring pixels of one mask.

    Attributes:
        value: of the line.
        pixels: it has.
        steps: from it to any other value.
        inside: from it to objects; open: from objects to the background.
    """

    value: int
    pixels: int
    steps: int
    inside: int
    open: int


def measure_ring(labels: np.ndarray, coloured: bool) -> Ring | None:
    """The line in a label map (H, W), if any value is there that lines have, and objects and background besides."""
    line = next((value for value in LINES[coloured] if (labels == value).any()), None)
    if line is None:
        return None
    kinds = np.where(labels == line, 2, (labels != 0).astype(np.uint8)).astype(np.uint8)
    if not (kinds == 1).any():
        return None
    pairs = ((kinds[1:], kinds[:-1]), (kinds[:, 1:], kinds[:, :-1]))

    def steps(one: int, other: int) -> int:
        return sum(
            int(np.count_nonzero((a == one) & (b == other)) + np.count_nonzero((a == other) & (b == one)))
            for a, b in pairs
        )

    inside = steps(2, 1)
    return Ring(line, int(np.count_nonzero(kinds == 2)), inside + steps(2, 0), inside, steps(1, 0))


def ask_of_rings(rings: Sequence[Ring | None], coloured: bool) -> list[Problem]:
    """A warning where a thin line of one value lies round the objects of nearly all masks that have any."""
    found = [ring for ring in rings if ring is not None]
    values = {ring.value for ring in found}
    if len(values) != 1:
        return []
    pixels, steps = sum(ring.pixels for ring in found), sum(ring.steps for ring in found)
    inside, open_ = sum(ring.inside for ring in found), sum(ring.open for ring in found)
    if not inside or open_ > _OPEN * (inside + open_) or pixels > _THIN * steps:
        return []
    (value,) = values
    shown = shown_value(value, coloured)
    message = (
        f"{shown} is a thin line round the objects of {len(found)} masks, as some sets mark pixels that are not to "
        "count; it is read as a class"
    )
    hint = f"--ignore {typed_value(value, coloured)} leaves these pixels out of the loss and of every score"
    return [Problem("masks", message, hint, "warning")]
