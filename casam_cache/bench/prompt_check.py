"""What a prompt may be: finite numbers inside the image, one line for each way of being something else.

Coordinates are pixels of the image after EXIF rotation, x to the right and y down, and a pixel's index is its place:
the tight box of an object, as stores hold it, has the indexes of its first and last column and row, which are equal
where the object is one pixel wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from casam_cache.errors import OptionError

BACKGROUND, FOREGROUND = 0, 1


def check_box(box: Sequence[float], height: int, width: int, name: str) -> None:
    """A box x0, y0, x1, y1 of one object.

    Args:
        box: four numbers.
        height: of the image, pixels.
        width: of the image, pixels.
        name: of the prompt, for the message.

    Raises:
        OptionError: not finite, reversed, outside the image, or without area.
    """
    x0, y0, x1, y1 = (float(edge) for edge in box)
    shown = f"{name} ({_numbers(box)})"
    if not np.isfinite([x0, y0, x1, y1]).all():
        raise OptionError(f"{shown}: not all of it are finite numbers", "a box is x0,y0,x1,y1 in pixels")
    if x0 > x1 or y0 > y1:
        raise OptionError(
            f"{shown} is reversed: {'x0 > x1' if x0 > x1 else 'y0 > y1'}",
            "a box is x0,y0,x1,y1: its left, upper, right and lower edge, with x0 < x1 and y0 < y1",
        )
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise OptionError(
            f"{shown} is not inside the image of {width} x {height} pixels",
            f"x is from 0 to {width}, y from 0 to {height}, after EXIF rotation",
        )
    whole = all(edge.is_integer() for edge in (x0, y0, x1, y1)) and x1 < width and y1 < height
    if (x0 == x1 or y0 == y1) and not whole:
        raise OptionError(
            f"{shown} has no area",
            "edges may only be equal where all are whole indexes of pixels, as in the box that a store holds of an "
            "object one pixel wide",
        )


def check_points(
    points: Sequence[Sequence[float]], labels: Sequence[Any], height: int, width: int, name: str
) -> None:
    """The points of one object.

    Args:
        points: x, y of each.
        labels: 1 foreground or 0 background of each.
        height: of the image, pixels.
        width: of the image, pixels.
        name: of the prompt, for the message.

    Raises:
        OptionError: one is not finite or outside the image, or has another label.
    """
    for (x, y), label in zip(points, labels, strict=True):
        shown = f"{name} ({_numbers((x, y))})"
        if not np.isfinite([x, y]).all():
            raise OptionError(f"{shown}: not all of it are finite numbers", "a point is x,y in pixels")
        if not (0 <= x <= width and 0 <= y <= height):
            raise OptionError(
                f"{shown} is outside the image of {width} x {height} pixels",
                f"x is from 0 to {width}, y from 0 to {height}, after EXIF rotation",
            )
        if label not in (BACKGROUND, FOREGROUND):
            raise OptionError(
                f"{shown} has the label {label}",
                "a label is 1 for the object, or 0 for what is not the object",
            )


def check_mask_prompt(logits: np.ndarray, side: int, name: str) -> None:
    """The logits of a mask prompt, (side, side).

    Raises:
        OptionError: of another shape, or not finite.
    """
    if logits.shape != (side, side):
        raise OptionError(
            f"{name} has the shape {' x '.join(map(str, logits.shape))}, not {side} x {side}",
            "a mask prompt is the low-res logits of an earlier prediction of this model",
        )
    if not np.isfinite(logits).all():
        raise OptionError(f"{name} holds values that are not finite", "logits are finite numbers")


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{float(value):g}" for value in values)
