"""Figure 2 of the paper: how good tasks fitted on their own become, beside trained parameters and a pass's cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from casam_cache.report.configurations import UPPER_BOUNDS, Row, at, gather
from casam_cache.report.figure_values import csv_text
from casam_cache.report.style import count_along, look_of, picture, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 0.08  # between two lines of text, as a share of a panel's height
METRICS = (("iou", "IoU (%)"), ("biou", "Boundary IoU (%)"))
MEASURED = ("step_seconds", "bytes_kept")  # in the values alone
COSTS = (("parameters", "trained parameters"), ("gflops", "GFLOP of a training pass"))


def figure_2(rows: Sequence[Row], form: str, style: str = "paper") -> bytes | None:
    """IoU and, below it, Boundary IoU, against trained parameters and against FLOPs.

    Args:
        rows: results of a bench.
        form: svg, pdf or png.
        style: one of `STYLES`.

    Returns:
        None where fewer than two methods have IoU, parameters and FLOPs.
    """
    points = _points(rows)
    if len(points) < 2:
        return None
    chosen = style_of(style)
    shown = [metric for metric in METRICS if all(metric[0] in point for point in points)]
    share = max(0.38, 1.7 * len(points) * chosen.font / 72 / chosen.width)  # a line of text for each

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(shown), len(COSTS), sharex="col", sharey="row", squeeze=False)
        for line, (metric, named) in zip(panels, shown, strict=True):
            line[0].set_ylabel(named)
            for axes, (cost, _) in zip(line, COSTS, strict=True):
                for point in points:
                    look = {**look_of(point["method"]), "linestyle": ""}
                    axes.plot(point[cost], point[metric], **look, markersize=0.8 * chosen.font, alpha=0.8)
                count_along(axes, [point[cost] for point in points])
                axes.margins(x=0.12)
            _name(line[-1], points, COSTS[-1][0], metric, chosen.line)
        for axes, (_, named) in zip(panels[-1], COSTS, strict=True):
            axes.set_xlabel(named)

    return picture(draw, chosen, form, share * len(shown))


def figure_2_values(rows: Sequence[Row]) -> str:
    """What Figure 2 shows, as CSV: two FLOPs a multiply-add; bytes are of the heads of all tasks, seconds of a step."""
    points = _points(rows)
    scores = [name for name, _ in METRICS if any(name in each for each in points)]
    keys = ["label", "parameters", "gflops", *MEASURED, *scores]
    lines = [tuple("" if point.get(key) is None else str(point[key]) for key in keys) for point in points]
    return csv_text(keys, lines)


def spread(heights: Sequence[float]) -> list[float]:
    """Where texts stand in a column, from 0 to 1: as near their own heights in [0, 1] as lines of it allow."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    gap = min(GAP, 1 / max(1, len(heights) - 1))
    upwards, downwards = [heights[place] for place in order], [heights[place] for place in order]
    _push(upwards, gap)
    _push(downwards, gap, first=False)
    at = [0.0] * len(heights)
    for place, above, below in zip(order, upwards, downwards, strict=True):
        at[place] = (above + below) / 2  # each keeps the distance, so their mean does
    return at


def _push(heights: list[float], gap: float, first: bool = True) -> None:
    """Moves ascending heights up (not `first`: down) until `gap` lies between them, then back below 1 (above 0)."""
    for upwards in (first, not first):
        if upwards:
            edge = 0.0
            for place, height in enumerate(heights):
                heights[place] = max(height, edge)
                edge = heights[place] + gap
        else:
            edge = 1.0
            for place in reversed(range(len(heights))):
                heights[place] = min(heights[place], edge)
                edge = heights[place] - gap


def _name(axes: Any, points: Sequence[dict[str, Any]], cost: str, metric: str, line: float) -> None:
    """A text for each point right of the axes, with a line to it."""
    values = [point[metric] for point in points]
    space = 0.1 * (max(values) - min(values) or 1.0)
    bottom, top = min(values) - space, max(values) + space
    axes.set_ylim(bottom, top)
    heights = spread([(each - bottom) / (top - bottom) for each in values])
    for point, height in zip(points, heights, strict=True):
        axes.annotate(
            point["label"], (point[cost], point[metric]), textcoords="axes fraction", xytext=(1.08, height),
            va="center", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": look_of(point["method"])["color"], "alpha": 0.6, "shrinkA": 1,
                "shrinkB": 0, "linewidth": 0.6 * line, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def _points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    found = []
    for each in gather(rows):
        first = each.rows[0]
        alone = first.get("avg_iou") is None and each.method not in UPPER_BOUNDS
        means = {name: each.estimate(at(f"last_{name}")).mean for name, _ in METRICS}
        if alone and first.get("parameters") and first.get("gflops") and not math.isnan(means["iou"]):
            found.append(
                {
                    "label": each.label, "method": each.method, "parameters": int(first["parameters"]),
                    "gflops": float(first["gflops"]), **{name: first.get(name) for name in MEASURED},
                    **{name: round(100 * mean, 4) for name, mean in means.items() if not math.isnan(mean)},
                }
            )  # fmt: skip
    return found
