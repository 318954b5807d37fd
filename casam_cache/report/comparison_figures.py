"""Figures 1 and 4 of the paper: methods over tasks, along the sequence and over unseen sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from casam_cache.report.configurations import Configuration, Row, gather
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
