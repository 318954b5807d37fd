"""Objects found without prompts, and what SAM's decoder gives for the boxes of the true objects.

    python benchmarks/proposals.py --store STORES --runs RUNS --tasks Lumbar Glomeruli-B

Fits a head of proposals to tasks of a folder of stores, whose masks are one object each (`casam encode --masks
components`), scores it on their test splits, and beside it the same frozen decoder prompted with the box of each true
object: what better proposals could reach. Fits are found again where they are there. Writes
benchmarks/results/proposals.json and .md, a row for each task and model.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, measured_with, provenance, record

from casam_cache.bench.instances import fit_instances
from casam_cache.encode.sources import decoder_of
from casam_cache.segmenters.files import build_proposals
from casam_cache.segmenters.instances import Instance, masks_of
from casam_cache.segmenters.proposals import Boxes
from casam_cache.store import EmbeddingStore
from casam_cache.training.class_maps import classes_of
from casam_cache.training.instance_scores import FIGURES, InstanceScore, instance_scores, score_instances
from casam_cache.training.items import EMBEDDING, open_split


def true_boxes(path: Path, task: str) -> InstanceScore:
    """The masks of the boxes of all true objects of the test split, each with a score of 1, none left out."""
    store = EmbeddingStore.open(path)
    items = open_split(store, "test", task)
    backbone = decoder_of(path.parent.parent, store.identity["backbone"]["weights"])
    head = build_proposals("proposals", {"overlap": 1.0, "threshold": 0.0}, backbone, classes_of(items), 0)

    def find(index: int) -> list[Instance]:
        masks, geometry = items.masks(index) if items.item(index).masks else (), items.item(index).geometry
        corners = np.array([mask.box for mask in masks], np.float32).reshape(-1, 4)
        places = [head.classes.index(mask.class_id) for mask in masks]
        boxes = torch.from_numpy(geometry.boxes_to_input(corners))
        told = Boxes(boxes, torch.ones(len(boxes)), torch.tensor(places, dtype=torch.long))
        embedding = torch.from_numpy(np.array(items.feature(EMBEDDING, index)))
        return masks_of(head, backbone, embedding, geometry, told)

    return instance_scores(score_instances(head, backbone, items, find=find))[0]


def page(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Objects without prompts",
        "",
        "Percent, test splits, 95 % intervals by groups where they are enough; below each, the frozen decoder for the",
        "boxes of the true objects.",
        "",
        "| task | model | images to train on | objects, found | AP | AP50 | AP75 | mSA |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["model"], row["task"])):
        for title, scores in (("", row["proposals"]), ("true boxes", row["true_boxes"])):
            cells = " | ".join(_cell(scores[name]) for name in FIGURES)
            first = f"{row['task']} | {row['model']} | {row['train']}" if not title else f"{title} | | "
            lines.append(f"| {first} | {scores['objects']}, {scores['found']} | {cells} |")
    return [*lines, "", *(f"{row['task']}, {row['model']}: {measured_with(row)}\n" for row in rows)]


def _cell(figure: dict[str, Any]) -> str:
    mean, low, high = (
        math.nan if figure[name] is None else 100 * figure[name] for name in ("mean", "low", "high")
    )
    return f"{mean:.1f}" + ("" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--model")
    parser.add_argument("--set", action="append", default=[], help="an option of head or training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for task in options.tasks:
        report = fit_instances(
            task, options.store, options.runs, options=options.set, model=options.model, device=options.device
        )
        path = options.store / task / f"{report.model}.zarr"
        made = provenance(torch.device("cpu"))
        shown = {str(options.store): "STORES", str(options.runs): "RUNS", str(options.out): "OUT"}
        words = [
            shown.get(word, word) for word in made["command"].split()
        ]  # where they lie here says nothing
        made["command"] = " ".join(words)
        row = {
            "task": task, "model": report.model, "train": len(open_split(EmbeddingStore.open(path), "train", task)),
            "threshold": report.threshold, "parameters": report.parameters, "stand_in": report.stand_in,
            "proposals": report.scores[0].to_json(), "true_boxes": true_boxes(path, task).to_json(), **made,
        }  # fmt: skip
        print(record(options.out / "proposals.json", row, ("task", "model"), page))


if __name__ == "__main__":
    main()
