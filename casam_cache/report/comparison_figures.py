"""Figures 1, 2 and 4 of the paper: methods over tasks, along the sequence and over unseen sets; IoU beside cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from casam_cache.report.configurations import UPPER_BOUNDS, Configuration, Row, at, gather
from casam_cache.report.figure_values import csv_text
from casam_cache.report.style import look_of, picture, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[str, dict[str, float]]
"""Of each method's label: percent IoU by the name of a task or set, or by the number of tasks learnt."""


def by_task(runs: Sequence[Configuration]) -> Curves:
    """Percent IoU of each task after the last one, mean over seeds and orders; methods without any are left out."""
    return _kept({each.label: _mean(each, _last_by_task) for each in runs})


def by_unseen(runs: Sequence[Configuration]) -> Curves:
    """Percent IoU of each unseen set after the last task, mean over seeds and orders."""
    return _kept({each.label: _mean(each, _unseen) for each in runs})


def along_sequence(runs: Sequence[Configuration]) -> Curves:
    """Percent IoU over the tasks learnt so far, after each: their mean, a task as one; mean over seeds and orders."""
    return _kept({each.label: _mean(each, _seen_so_far) for each in runs})


def figure_1(rows: Sequence[Row], form: str, style: str = "paper") -> bytes | None:
    """Figure 1: radar plots over the tasks and the unseen sets, and a line over the sequence, as a file's content.

    Args:
        rows: results of a bench.
        form: svg, pdf or png.
        style: one of `STYLES`.

    Returns:
        None where no panel has anything to show: fewer than three tasks and unseen sets, and no sequence.
    """
    runs = gather(rows)
    radars = [
        (title, _axes(made(runs), 3)) for title, made in (("tasks", by_task), ("unseen sets", by_unseen))
    ]
    panels = [(title, curves) for title, curves in radars if curves]
    sequence = _axes(along_sequence(runs), 2)
    if not panels and not sequence:
        return None
    looks, chosen = _looks(runs), style_of(style)

    def draw(figure: Figure) -> None:
        count = len(panels) + bool(sequence)
        handles: dict[str, Any] = {}
        for place, (title, curves) in enumerate(panels, 1):
            axes = figure.add_subplot(1, count, place, projection="polar")
            _radar(axes, curves, looks, handles, chosen.font)
            axes.set_xlabel(f"IoU (%), {title}", labelpad=6)
        if sequence:
            axes = figure.add_subplot(1, count, count)
            for label, values in sequence.items():
                handles[label] = axes.plot(
                    [int(name) for name in values], list(values.values()), label=label, **looks[label]
                )[0]
            axes.set_xlabel("tasks learnt")
            axes.set_ylabel("IoU (%) over the tasks so far")
            axes.set_xticks([int(name) for name in next(iter(sequence.values()))])
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(5, max(1, len(handles))),
        )

    return picture(draw, chosen, form, 0.44 if len(panels) + bool(sequence) > 2 else 0.55)


def figure_1_values(rows: Sequence[Row]) -> str:
    """What Figure 1 shows, as CSV: panel, method, name of the task or set or number of tasks, percent IoU."""
    runs = gather(rows)
    parts = (("tasks", by_task(runs)), ("unseen", by_unseen(runs)), ("sequence", along_sequence(runs)))
    lines = [
        (panel, label, name, f"{value:.4f}")
        for panel, curves in parts
        for label, values in curves.items()
        for name, value in values.items()
    ]
    return csv_text(("panel", "method", "name", "iou"), lines)


def figure_2(rows: Sequence[Row], form: str, style: str = "paper") -> bytes | None:
    """Figure 2: IoU of tasks fitted on their own against trained parameters; a mark's area is a training pass's cost.

    Args:
        rows: results of a bench.
        form: svg, pdf or png.
        style: one of `STYLES`.

    Returns:
        None where fewer than two methods have all three figures.
    """
    points = _points(rows)
    if len(points) < 2:
        return None
    chosen = style_of(style)
    most = max(point["gflops"] for point in points)
    share = max(0.6, 1.7 * len(points) * chosen.font / 72 / chosen.width)  # a line of text for each

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = [point["iou"] for point in points]
        low, high = min(values), max(values) if max(values) > min(values) else min(values) + 1.0
        bottom, top = low - 0.1 * (high - low), high + 0.1 * (high - low)
        axes.set_ylim(bottom, top)
        beside = spread([(each - bottom) / (top - bottom) for each in values])
        for point, height in zip(points, beside, strict=True):
            look = look_of(point["method"])
            area = chosen.font**2 * (0.6 + 4 * point["gflops"] / most)
            axes.scatter(point["parameters"], point["iou"], s=area, c=look["color"], alpha=0.75, linewidths=0)
            axes.annotate(
                f"{point['label']}, {point['gflops']:.4g} GFLOP", (point["parameters"], point["iou"]),
                textcoords="axes fraction", xytext=(1.04, height), va="center", annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-", "color": look["color"], "alpha": 0.6, "shrinkA": 1, "shrinkB": 0,
                    "linewidth": 0.6 * chosen.line, "relpos": (0, 0.5),
                },
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_count)
        axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.1)
        axes.set_xlabel("trained parameters")
        axes.set_ylabel("IoU (%)")

    return picture(draw, chosen, form, share)


def spread(heights: Sequence[float]) -> list[float]:
    """Where texts stand in a column, from 0 to 1: as near their own heights in [0, 1] as lines of it allow."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    gap = min(0.07, 1 / max(1, len(heights) - 1))
    at, before = [0.0] * len(heights), -gap
    for place in order:
        before = at[place] = max(heights[place], before + gap)
    above = 1.0 + gap
    for place in reversed(order):
        above = at[place] = min(at[place], above - gap)
    return at


def _count(value: float, _: float = 0.0) -> str:
    """`250`, `10 k`, `1 M`: mathematical text is not read in figures, since names may hold dollars."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def figure_2_values(rows: Sequence[Row]) -> str:
    """What Figure 2 shows, as CSV; a multiplication and an addition are two FLOPs."""
    keys = ("label", "parameters", "gflops", "iou")
    return csv_text(keys, [tuple(str(point[key]) for key in keys) for point in _points(rows)])


def figure_4(rows: Sequence[Row], form: str, style: str = "paper") -> bytes | None:
    """Figure 4: methods over the unseen sets after the last task, beside the frozen SAM: a radar plot and lines.

    Args:
        rows: results of a bench.
        form: svg, pdf or png.
        style: one of `STYLES`.

    Returns:
        None where no method has an answer on an unseen set. The radar plot takes three sets.
    """
    curves, looks = _unseen_beside_frozen(rows)
    shared, radar, chosen = _axes(curves, 1), _axes(curves, 3), style_of(style)
    if not shared:
        return None

    def draw(figure: Figure) -> None:
        handles: dict[str, Any] = {}
        if radar:
            round_ = figure.add_subplot(1, 2, 1, projection="polar")
            _radar(round_, radar, looks, handles, chosen.font)
        axes = figure.add_subplot(1, 2 if radar else 1, 2 if radar else 1)
        names = list(next(iter(shared.values())))
        places = range(len(names))
        for label, values in shared.items():
            handles[label] = axes.plot(places, list(values.values()), label=label, **looks[label])[0]
        axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_ylabel("IoU (%) on sets never trained on")
        axes.margins(x=0.08)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(5, len(handles))
        )

    return picture(draw, chosen, form, 0.5)


def figure_4_values(rows: Sequence[Row]) -> str:
    """What Figure 4 shows, as CSV: method, unseen set, percent IoU."""
    curves, _ = _unseen_beside_frozen(rows)
    lines = [(label, name, f"{iou:.4f}") for label, own in curves.items() for name, iou in own.items()]
    return csv_text(("method", "set", "iou"), lines)


def _unseen_beside_frozen(rows: Sequence[Row]) -> tuple[Curves, dict[str, dict[str, Any]]]:
    """`by_unseen` with the frozen SAM, which every row is beside, and the looks of all."""
    runs = gather(rows)
    curves, looks = by_unseen(runs), _looks(runs)
    if curves and not any(each.method == "frozen" for each in runs):
        frozen = [_mean(each, _unseen_frozen) for each in runs]
        curves["frozen SAM"] = max(frozen, key=len)  # the same of each method that has an answer there
        looks["frozen SAM"] = look_of("frozen")
    return _kept(curves), looks


def _points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    found = []
    for each in gather(rows):
        first, iou = each.rows[0], each.estimate(at("last_iou")).mean
        alone = first.get("avg_iou") is None and each.method not in UPPER_BOUNDS
        if alone and first.get("parameters") and first.get("gflops") and not math.isnan(iou):
            found.append(
                {
                    "label": each.label, "method": each.method, "parameters": int(first["parameters"]),
                    "gflops": float(first["gflops"]), "iou": round(100 * iou, 4),
                }
            )  # fmt: skip
    return found


def _last_by_task(row: Row) -> dict[str, float | None]:
    matrix = row.get("matrix") or {}
    if not matrix.get("iou"):
        return {}
    values = matrix["iou"][-1]
    return dict(sorted(zip(matrix["tasks"], values, strict=True)))


def _unseen(row: Row) -> dict[str, float | None]:
    return {name: each.get("iou") for name, each in sorted((row.get("unseen") or {}).items())}


def _unseen_frozen(row: Row) -> dict[str, float | None]:
    return {name: each.get("frozen_iou") for name, each in sorted((row.get("unseen") or {}).items())}


def _seen_so_far(row: Row) -> dict[str, float | None]:
    matrix = row.get("matrix") or {}
    after = matrix.get("iou") or []
    if len(after) < 2:
        return {}
    found: dict[str, float | None] = {}
    for number, values in enumerate(after, 1):
        seen = [value for value in values[:number] if value is not None]
        found[str(number)] = sum(seen) / len(seen) if seen else None
    return found


def _mean(each: Configuration, read: Any) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in each.rows:
        for name, value in read(row).items():
            if value is not None and not math.isnan(value):
                found.setdefault(name, []).append(100 * value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _looks(runs: Sequence[Configuration]) -> dict[str, dict[str, Any]]:
    """Of each label; configurations of one method share its colour and differ by line and marker."""
    seen: dict[str, int] = {}
    found = {}
    for each in runs:
        found[each.label] = look_of(each.method, seen.get(each.method, 0))
        seen[each.method] = seen.get(each.method, 0) + 1
    return found


def _kept(curves: Curves) -> Curves:
    return {label: values for label, values in curves.items() if values}


def _axes(curves: Curves, fewest: int) -> Curves:
    """Curves that can be drawn: over the names that all of them have, of which there have to be some."""
    if not curves:
        return {}
    shared = [
        name for name in next(iter(curves.values())) if all(name in values for values in curves.values())
    ]
    if len(shared) < fewest:
        return {}
    return {label: {name: values[name] for name in shared} for label, values in curves.items()}


def _radar(
    axes: Any, curves: Curves, looks: Mapping[str, dict[str, Any]], handles: dict[str, Any], size: float
) -> None:
    names = list(next(iter(curves.values())))
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]
    lowest = min(min(values.values()) for values in curves.values())
    highest = max(max(values.values()) for values in curves.values())
    for label, values in curves.items():
        ring = [values[name] for name in names]
        look = {**looks[label], "markersize": 2}
        handles[label] = axes.plot([*angles, angles[0]], [*ring, ring[0]], label=label, **look)[0]
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, names)
    low, high = max(0, 10 * math.floor(lowest / 10 - 0.5)), min(100, 10 * math.ceil(highest / 10))
    axes.set_ylim(low, high)
    step = 10 if high - low <= 40 else 20
    axes.set_yticks([value for value in range(low, high, step) if value > low])
    axes.tick_params(axis="both", labelsize="small")
    axes.tick_params(axis="x", pad=size / 2)
    axes.set_rlabel_position(180 / len(names))
