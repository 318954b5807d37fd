"""How good a head becomes with how few training images: a curve over `shots` for every configuration of a bench."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casam_cache.report.configurations import Configuration, Row, at, gather
from casam_cache.report.figure_values import csv_text
from casam_cache.report.style import colour_at, look_of, picture, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOTS = re.compile(r",? *shots=[^,\]]*")


@dataclass(frozen=True)
class Shots:
    """A configuration but for `shots`.

    Attributes:
        label: without them.
        method: its name.
        points: (shots, None for all; percent IoU of each seed), the fewest first.
    """

    label: str
    method: str
    points: tuple[tuple[int | None, tuple[float, ...]], ...]


def shots_curves(rows: Sequence[Row]) -> tuple[list[Shots], float | None]:
    """A curve for each configuration that was fitted with two numbers of images or more, and the frozen SAM's IoU.

    Args:
        rows: results of a bench.
    """
    runs = gather(rows)
    found: dict[tuple[str, str], list[Configuration]] = {}
    for each in runs:
        found.setdefault((_SHOTS.sub("", each.label), each.method), []).append(each)
    curves = []
    for (label, method), members in found.items():
        points = {each.options.get("shots"): tuple(_iou(row) for row in each.rows) for each in members}
        if len(points) > 1:
            ordered = sorted(points.items(), key=lambda point: math.inf if point[0] is None else point[0])
            curves.append(Shots(label, method, tuple(ordered)))
    frozen = [_iou(row) for each in runs if each.method == "frozen" for row in each.rows]
    return curves, frozen[0] if frozen else None


def shots_figure(rows: Sequence[Row], form: str, style: str = "paper") -> bytes | None:
    """Mean IoU of the tasks over the training images of each, mean over seeds; bars from the lowest to the highest.

    Args:
        rows: results of a bench.
        form: svg, pdf or png.
        style: one of `STYLES`.

    Returns:
        None where no configuration was fitted with two numbers of images.
    """
    curves, frozen = shots_curves(rows)
    if not curves:
        return None
    numbers = [shots for each in curves for shots, _ in each.points if shots is not None]
    beyond = 2 * max(numbers)  # where "all" stands
    chosen = style_of(style)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log", base=2)
        ticks = sorted({*numbers, *(beyond for each in curves if each.points[-1][0] is None)})
        axes.set_xticks(ticks, ["all" if tick == beyond else str(tick) for tick in ticks])
        axes.minorticks_off()
        seen: dict[str, int] = {}
        for place, each in enumerate(curves):
            look: dict[str, Any] = look_of(each.method, seen.get(each.method, 0)) | {
                "color": colour_at(place)
            }
            seen[each.method] = seen.get(each.method, 0) + 1
            where = [beyond if shots is None else shots for shots, _ in each.points]
            means = [sum(values) / len(values) for _, values in each.points]
            spread = [
                [mean - min(values) for mean, (_, values) in zip(means, each.points, strict=True)],
                [max(values) - mean for mean, (_, values) in zip(means, each.points, strict=True)],
            ]
            axes.errorbar(where, means, spread, label=each.label, capsize=2, elinewidth=0.6, **look)
        if frozen is not None:
            axes.axhline(frozen, label="frozen SAM", **(look_of("frozen") | {"marker": ""}))
        axes.set_xlabel("training images of each task")
        axes.set_ylabel("IoU (%), as in the table")
        figure.legend(loc="outside right upper")

    return picture(draw, chosen, form, 0.5)


def shots_values(rows: Sequence[Row]) -> str:
    """What the figure shows, as CSV: method, shots, seeds, percent IoU as mean, lowest and highest of the seeds."""
    curves, frozen = shots_curves(rows)
    lines = [
        (each.label, "all" if shots is None else str(shots), str(len(values)),
         *(f"{value:.4f}" for value in (sum(values) / len(values), min(values), max(values))))
        for each in curves
        for shots, values in each.points
    ]  # fmt: skip
    if frozen is not None:
        lines.append(("frozen SAM", "", "", f"{frozen:.4f}", "", ""))
    return csv_text(("method", "shots", "seeds", "iou", "lowest", "highest"), lines)


def _iou(row: Row) -> float:
    return 100 * float(at("last_iou")(row))
