"""The frozen model on the test split of every task of folders of stores, each mask from its true box.

    casam encode DATA/tasks --store STORES --masks components
    casam encode DATA/ood --store STORES --masks components
    python benchmarks/frozen_sets.py STORES --model lite_medsam --out benchmarks/results/NAME

Writes NAME.md and NAME.json.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from common import measured_with, provenance, write_result

from casam_cache.bench.tasks import Tasks
from casam_cache.heads.files import build_head
from casam_cache.store import find_stores
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import open_split
from casam_cache.training.outcomes import Outcomes, score

SPECK = 20  # pixels: what is smaller is as a rule a flaw of the annotation, and its IoU a matter of one pixel


def larger(outcomes: Outcomes) -> dict[str, float | int]:
    """The mean IoU over masks of at least SPECK true pixels, and how many those are."""
    values = [
        value
        for value, area in zip(outcomes.scores["iou"], outcomes.area, strict=True)
        if area >= SPECK and not math.isnan(value)
    ]
    return {"iou": sum(values) / len(values), "masks": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--model", default="lite_medsam")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    weights = ""
    for stores in options.stores:
        for path in sorted(find_stores(stores, backbone=options.model)):
            task = path.parent.name
            tasks = Tasks.open(stores, options.model, "cpu", task=task)
            backbone = tasks.place.backbone(task)
            weights = backbone.fingerprint
            items = open_split(tasks.store(task), "test", task)
            head = build_head("identity", None, backbone, seed=0)
            outcomes = evaluate(head, backbone, items)
            found = score(outcomes)
            mode = tasks.store(task).annotations.attributes.get("mask_mode")
            row = {"task": task, "mask_mode": mode, "images": len(items), **found.to_json()}
            rows.append({**row, "larger": larger(outcomes), "larger_than": SPECK})
            print(f"{task}: {100 * rows[-1]['iou']:.1f}", flush=True)
    made = {**provenance(torch.device("cpu")), "model": options.model, "weights": weights, "rows": rows}
    lines = [
        f"| set | masks | read as | IoU | BIoU | Dice | of {SPECK} pixels or more | their IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (100 * edge for edge in row["intervals"]["iou"])
        lines.append(
            f"| {row['task']} | {row['masks']} | {row['mask_mode']} | {100 * row['iou']:.1f} [{low:.1f}, {high:.1f}] | "
            f"{100 * row['biou']:.1f} | {100 * row['dice']:.1f} | {row['larger']['masks']} | "
            f"{100 * row['larger']['iou']:.1f} |"
        )
    mean = sum(row["iou"] for row in rows) / len(rows)
    mean_larger = sum(row["larger"]["iou"] for row in rows) / len(rows)
    lines += [
        f"| mean of sets | | | {100 * mean:.1f} | | | | {100 * mean_larger:.1f} |",
        "",
        f"{options.model}, weights {weights[:12]}; frozen, tight box of each true mask, percent, means over masks at "
        f"original resolution; 95 % intervals by groups. {measured_with(made)}",
    ]
    write_result(options.out, made, lines)


if __name__ == "__main__":
    main()
