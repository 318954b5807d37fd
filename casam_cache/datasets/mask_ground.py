"""Where masks keep what is no object: a background that is not 0, the alpha channel, values that count nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from casam_cache.datasets.labels import MOST_VISIBLE, MaskScan
from casam_cache.datasets.mask_edges import judge_colours
from casam_cache.datasets.named_values import shown_value, typed_value
from casam_cache.datasets.sample import MaskValues, Problem
from casam_cache.datasets.value_counts import ValueCounts, as_colours, merge_counts

_NEARLY_ALL = 0.9
_MOSTLY = 0.7  # of the masks; where more objects reach the border of their image, some fill it
_MANY_LABELS = 32


def in_alpha(usable: Sequence[MaskScan]) -> tuple[bool, list[Problem]]:
    """Whether the labels are in the alpha channel, as in cut-outs, and what is to be said then.

    They are where every file has one, it differs from pixel to pixel, and the colours tell nothing: one colour alone is
    visible in all files, which is black or is not fully visible everywhere; or they are those of a photograph.
    """
    if not usable or any(scan.alpha is None for scan in usable):
        return False, []
    alpha = merge_counts([scan.alpha for scan in usable if scan.alpha is not None])
    if len(alpha.values) < 2 or 0 not in alpha.values:
        return False, []
    visible = {(value, scan.coloured) for scan in usable for value in scan.visible}
    said = f"the alpha channels of {len(usable)} masks hold {len(alpha.values)} values and are read, not the colours"
    if len(visible) == 1:
        black = visible == {(0, False)}
        if not black and len(alpha.values) == 2:
            return False, []  # what is visible is the object either way
        why = f"{said}: all that is visible is {'black' if black else 'of one colour'}"
        return True, [Problem("masks", why, "save the masks as grey or colour PNG to say more", "warning")]
    many = len(visible) > _MANY_LABELS
    total = merge_counts([_counts(scan, True) for scan in usable])
    if any(len(scan.visible) >= MOST_VISIBLE for scan in usable) or (
        many and judge_colours(total).kind in ("one", "unclear")
    ):
        why = f"{said}: the colours look like photographs, not like labels"
        return True, [
            Problem("masks", why, "save the masks as grey or colour PNG if they are none", "warning")
        ]
    return False, []


def unfound(usable: Sequence[MaskScan], coloured: bool, named: Mapping[str, int | None]) -> list[Problem]:
    """A warning for each option whose value no mask holds, and which says nothing therefore."""
    total = merge_counts([_counts(scan, coloured) for scan in usable])
    return [
        Problem(
            "masks",
            f"{option} {shown_value(value, coloured)}: no mask holds it, so that nothing changes",
            "",
            "warning",
        )
        for option, value in named.items()
        if value and value not in total.values
    ]


def hidden_background(usable: Sequence[MaskScan], values: MaskValues) -> list[Problem]:
    """A warning where another value than 0 lies around everything, as a background does."""
    coloured = values.coloured
    parts = [_counts(scan, coloured).without(values.ignore) for scan in usable]
    parts = [part for part in parts if part.pixels.sum()]
    if values.background is not None or not parts:
        return []
    around = Counter(
        int(part.values[np.argmax(part.border)])
        for part in parts
        if part.border.max() >= _NEARLY_ALL * part.border.sum()
    )
    value, times = around.most_common(1)[0] if around else (0, 0)
    total = merge_counts(parts)
    zero = total.part(total.values == 0)
    share = zero.pixels.sum() / total.pixels.sum()
    if values.soft and not coloured and value <= values.white // 2:  # a black that is not quite 0
        return []
    if value == 0 or times < _NEARLY_ALL * len(parts) or zero.border.sum() > 0.05 * total.border.sum():
        return []
    if share > 0.5 or len(total.values) < 2:
        return []
    shown, typed = shown_value(value, coloured), typed_value(value, coloured)
    black = shown_value(0, coloured)
    message = (
        f"{shown} lies along the border of {times} of {len(parts)} masks, and {black} is {100 * share:.1f} % of all "
        f"pixels: {shown} may be the background, but is read as a class and {black} as background"
    )
    right = typed_value(0, coloured)
    hint = f"--background {typed} makes it the background, --background {right} says that all is right"
    return [Problem("masks", message, hint, "warning")]


def inverted(usable: Sequence[MaskScan], values: MaskValues) -> list[Problem]:
    """A warning where some masks of one thing have around them what the others have inside."""
    if values.background is not None or len(values.foreground) != 1:
        return []
    regular, odd = [], []
    for scan in usable:
        counts = _counts(scan, values.coloured).without(values.ignore)
        if not counts.border.sum():
            continue
        cut = min(values.white, int(counts.values[-1])) // 2 if values.soft or values.lossy == "cut" else 0
        inside = counts.values > cut
        if inside.all() or not inside.any():
            continue
        if not counts.border[inside].any():
            regular.append(scan)
        elif not counts.border[~inside].any() and counts.pixels[~inside].sum() < counts.pixels[inside].sum():
            odd.append(scan)
    if not odd or not regular or len(regular) + len(odd) < _MOSTLY * len(usable):
        return []
    message = (
        f"{len(odd)} of {len(usable)} masks hold the object's value all along their border and background inside "
        f"(such as {odd[0].path.name}), {len(regular)} the other way round (such as {regular[0].path.name}); "
        "each is read as it is"
    )
    return [Problem("masks", message, "look at both, and invert the masks that are inverted", "warning")]


def filled(usable: Sequence[MaskScan], values: MaskValues) -> list[Problem]:
    """A warning where every mask is one value all over, so that no object stands out."""
    held = {scan.values for scan in usable}
    if values.background is not None or len(held) != 1 or len(next(iter(held))) != 1 or held == {(0,)}:
        return []
    shown = shown_value(next(iter(held))[0], usable[0].coloured)
    message = f"all {len(usable)} masks hold {shown} in every pixel: the object fills its image everywhere"
    return [Problem("masks", message, "look at a mask, and export it again if it is wrong", "warning")]


def ground_notes(values: MaskValues, mode: str) -> tuple[str, ...]:
    """Lines on what was named by the user: the background and what counts nowhere."""
    lines = []
    if values.background:
        line = f"background of the masks is {shown_value(values.background, values.coloured)}"
        if 0 in values.foreground and mode in ("classes", "instances", "components") and not values.coloured:
            line += f"; their value 0 goes by the number {values.background}"
        lines.append(line)
    if values.ignore is not None:
        lines.append(f"pixels of {shown_value(values.ignore, values.coloured)} in the masks count nowhere")
    return tuple(lines)


def _counts(scan: MaskScan, coloured: bool) -> ValueCounts:
    if coloured and not scan.coloured:
        return as_colours(scan.counts)
    return scan.grey if scan.grey is not None and not coloured else scan.counts
