"""The table `casam bench` ends with: a row a configuration, means over orders and seeds in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    ("last_iou", "Last-IoU"),
    ("avg_iou", "Avg-IoU"),
    ("ff_iou", "FF-IoU"),
    ("last_biou", "Last-BIoU"),
    ("avg_biou", "Avg-BIoU"),
    ("ff_biou", "FF-BIoU"),
    ("routing_accuracy", "routed"),
    ("ood_accuracy", "OOD acc"),
    ("ood_iou", "OOD IoU"),
)


def bench_lines(results: Mapping[str, Any]) -> list[str]:
    """Lines of text; half widths of intervals over orders and seeds follow the means where there are several."""
    estimates = results["summary"]["estimates"]
    used = [(name, title) for name, title in COLUMNS if any(name in entry for entry in estimates.values())]
    table = [["method", *(title for _, title in used)]]
    for label, entry in estimates.items():
        table.append([label, *(_cell(entry.get(name)) for name, _ in used)])
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    rows = results["results"]
    orders, seeds = len({tuple(row["order"]) for row in rows}), len({row["seed"] for row in rows})
    first = rows[0]
    lines.append(
        f"{len(first['order'])} tasks, {orders} order{'s' * (orders > 1)}, {seeds} seed{'s' * (seeds > 1)}; percent on"
        f" the {first['evaluate']} split, {first['prompt']}; tasks weighted by {first['weight']},"
        f" forgetting: {first['forgetting']}; model {first['model']}"
    )
    if results.get("selection"):
        told = results["selection"]
        lines.append(f"chosen by {told['metric']} on the validation split:")
        lines += [f"  {label}: {entry['chosen']}" for label, entry in told["groups"].items()]
    infinite = sorted(
        {
            row["label"]
            for row in rows
            if row.get("thresholds")
            and None in row["thresholds"].values()
            and row["options"].get("threshold") != "none"
        }
    )
    if infinite:
        lines.append(
            f"a threshold is infinite (too few held-out scores to calibrate it): {', '.join(infinite)}"
        )
    if results.get("mixtures"):
        mixed = "; ".join(f"{name}: {', '.join(values)}" for name, values in results["mixtures"].items())
        lines.append(f"stages were computed under several of: {mixed}")
    return lines


def _cell(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["mean"] is None:
        return ""
    half = estimate["half"]
    return f"{100 * estimate['mean']:.2f}" + ("" if half is None else f" ±{100 * half:.2f}")
