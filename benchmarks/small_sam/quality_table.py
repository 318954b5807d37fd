"""The report of `quality.py` for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from baselines import BASELINES

RESOLVED = 4  # input pixels: two low-res ones
SCORES = ("sam_box", "sam_point", "sam_point_single", *BASELINES)
HEADER = (
    "set", "masks as", "images", "masks", "SAM box", "SAM point", "SAM point, single", "filled box", "ellipse", "Otsu",
    "SAM box - ellipse", "SAM box - best of the three", "rank",
)  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        "# Zero-shot quality of the bundled small SAM",
        "",
        f"IoU (points) at original resolution, one object a mask, split `{report['split']}`; 95 % intervals resample"
        " groups. `SAM point` is the mask that the IoU head ranks first of three, `single` the one that SAM keeps for"
        " unambiguous prompts; `rank` is the rank correlation of the IoU head's estimate with the true IoU of box"
        " prompts.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" * len(HEADER) + "|",
    ]
    for row in report["sets"]:
        columns = [_points(row["iou"][name]) for name in SCORES]
        rank = "-" if row["rank_correlation"] is None else f"{row['rank_correlation']:.2f}"
        images = f"{row['images']}" + (f" of {row['available']}" if row["images"] < row["available"] else "")
        cells = [row["set"], row["mode"], images, str(row["masks"]), *columns]
        cells += [_points(row["above_ellipse"]), _points(row["above_best"]), rank]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for name, mean in report["means"].items():
        numbers = ", ".join(f"{key} {100 * value:.1f}" for key, value in mean["iou"].items())
        lines.append(
            f"Mean over {mean['sets']} {name} sets: {numbers}. Above the ellipse by"
            f" {100 * mean['above_ellipse']:.1f}, above the best baseline on {mean['sets_above_best']} sets."
            f" Rank correlation over all masks {mean['rank']:.2f}."
        )
        lines += ["", *_sizes(name, mean), ""]
    for name, result in report["routing"].items():
        for kind, numbers in result.items():
            unseen = ", ".join(
                f"{s} {100 * v:.0f}" for s, v in numbers["rejected"].items() if not s.startswith("(test)")
            )
            kept = [v for s, v in numbers["rejected"].items() if s.startswith("(test)")]
            lines.append(
                f"Routing of {name} test images by {kind}: {100 * numbers['accuracy']:.1f} % right; rejected at p97:"
                f" {unseen}; of test images of known tasks {100 * float(np.mean(kept)):.0f} (percent)."
            )
            lines.append("")
    lines.append(f"Weights SHA-256 `{report['weights']}`. {report['note']}")
    return "\n".join(lines) + "\n"


def _sizes(name: str, mean: dict[str, Any]) -> list[str]:
    """What size does: a table over masks, and the means over sets without what is smaller than two low-res pixels."""
    shown = ("sam_box", *BASELINES)
    lines = [
        f"| {name} masks, by the side of a square as large as their box, input pixels | masks | SAM box | filled box | "
        "ellipse | Otsu |",
        "|---" * 6 + "|",
    ]
    for row in mean["by_size"]:
        cells = " | ".join(f"{100 * row['iou'][column]:.1f}" for column in shown)
        lines.append(f"| from {row['from']} | {row['masks']} | {cells} |")
    rest = mean["resolved"]
    if rest["iou"]:
        numbers = ", ".join(f"{column} {100 * rest['iou'][column]:.1f}" for column in shown)
        lines += [
            "",
            f"Without masks under {RESOLVED} of these pixels, mean over {rest['sets']} sets: {numbers}.",
        ]
    return lines


def _points(interval: dict[str, Any]) -> str:
    if interval["mean"] is None:
        return "-"
    text = f"{100 * interval['mean']:.1f}"
    if interval["low"] is not None:
        text += f" ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"
    return text
