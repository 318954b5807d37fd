"""Matrices of numbers as cells with a shade: R[t, k] over orders, and where a router sends images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casam_cache.report.configurations import Configuration

SHADES = 10


@dataclass(frozen=True)
class Shaded:
    """A cell.

    Attributes:
        text: as shown.
        shade: 0 (none) to `SHADES`.
        kind: `own` on the diagonal, `ahead` for a task that was not learnt yet, else empty.
    """

    text: str
    shade: int
    kind: str = ""


@dataclass(frozen=True)
class Matrix:
    """A labelled matrix.

    Attributes:
        title: over it.
        corner: what lines and columns are.
        columns: labels.
        lines: label and cells.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Shaded, ...]], ...]


def order_matrices(run: Configuration) -> list[Matrix]:
    """R[t, k] in percent IoU, one matrix an order of tasks, each the mean over seeds; none without a sequence."""
    orders: dict[tuple[str, ...], list[Sequence[Sequence[float | None]]]] = {}
    for row in run.rows:
        matrix = row.get("matrix") or {}
        values = matrix.get("iou") or []
        if len(values) > 1:
            orders.setdefault(tuple(map(str, matrix["tasks"])), []).append(values)
    found = []
    for tasks, runs in orders.items():
        lines = []
        for step, learnt in enumerate(tasks):
            cells = []
            for place in range(len(tasks)):
                kind = "own" if place == step else "ahead" if place > step else ""
                values = [run_[step][place] for run_ in runs]
                known = [value for value in values if value is not None]
                mean = sum(known) / len(known) if known else None
                cells.append(Shaded("-" if mean is None else f"{100 * mean:.1f}", _shade(mean), kind))
            lines.append((learnt, tuple(cells)))
        told = f", mean of {len(runs)} seeds" if len(runs) > 1 else ""
        found.append(Matrix(" → ".join(tasks) + told, "after learning ↓, tested on →", tasks, tuple(lines)))
    return found


def confusion_matrix(run: Configuration) -> Matrix | None:
    """Of the images of each set, how many went to the head of each task, over all runs; None without a router."""
    counts: dict[str, dict[str, int]] = {}
    for row in run.rows:
        for name, sent in (row.get("confusion") or {}).items():
            held = counts.setdefault(str(name), {})
            for task, count in sent.items():
                held[str(task)] = held.get(str(task), 0) + int(count)
    if not counts:
        return None
    tasks = sorted({task for sent in counts.values() for task in sent} | set(_learnt(run)) - {"frozen"})
    columns = (*(task for task in tasks if task != "frozen"), "frozen")
    learnt = set(_learnt(run))
    lines = []
    for name in sorted(counts, key=lambda name: (name not in learnt, name)):
        sent, total = counts[name], sum(counts[name].values())
        own = name if name in learnt else "frozen"
        cells = tuple(
            Shaded(
                _share(sent.get(task, 0), total),
                _shade(sent.get(task, 0) / total),
                "own" if task == own else "",
            )
            for task in columns
        )
        lines.append((f"{name} ({total})" if name in learnt else f"{name} ({total}), unseen", cells))
    runs = "1 run" if len(run.rows) == 1 else f"{len(run.rows)} runs"
    title = f"{run.label}: where images were sent, percent of each set's; {runs}"
    return Matrix(title, "images of ↓, sent to →", columns, tuple(lines))


def thresholds(run: Configuration) -> list[tuple[str, Mapping[str, Any]]]:
    """Of each task the lowest and highest threshold over the runs, and in how many there is none."""
    found: dict[str, list[float | None]] = {}
    for row in run.rows:
        for task, value in (row.get("thresholds") or {}).items():
            found.setdefault(str(task), []).append(value)
    told: list[tuple[str, Mapping[str, Any]]] = []
    for task, values in sorted(found.items()):
        known = [value for value in values if value is not None]
        lowest, highest = (min(known), max(known)) if known else (None, None)
        told.append((task, {"lowest": lowest, "highest": highest, "infinite": len(values) - len(known)}))
    return told


def _learnt(run: Configuration) -> list[str]:
    return [str(task) for row in run.rows for task in row.get("order") or ()]


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f}" if count else "·"


def _shade(value: float | None) -> int:
    return 0 if value is None else max(0, min(SHADES, round(SHADES * value)))
