"""The default fit on splits that nothing was chosen on: frozen against fitted, each task in several splits.

    for seed in 1 2 3 4; do casam encode DATA --store STORES/$seed --split-by drawn --split-seed $seed; done
    python benchmarks/drawn_splits.py STORES/* --runs RUNS

Each seed draws another test split (3 images of 10), the groups of a split.csv whole. Images of one
task are in the training split of one seed and the test split of another: the splits are no independent data, and no
interval is printed over them. Writes benchmarks/results/drawn_splits_MODEL.md and .json; what is in RUNS already is not
computed again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, measured_with, provenance, write_result

from casam_cache import fit_task
from casam_cache.store import EmbeddingStore, find_stores


def page(made: dict[str, Any]) -> list[str]:
    """Gains in points of IoU, a line a task and a column a folder of stores."""
    rows = made["rows"]
    folders, tasks = made["stores"], sorted({row["task"] for row in rows})
    gains = {(row["task"], row["stores"]): 100 * (row["fitted"] - row["frozen"]) for row in rows}
    lines = [
        "| task | " + " | ".join(f"split {name}" for name in folders) + " | mean |",
        "|---" * (len(folders) + 2) + "|",
    ]
    for task in tasks:
        own = [gains[task, folder] for folder in folders if (task, folder) in gains]
        cells = [f"{gains[task, folder]:+.1f}" if (task, folder) in gains else "" for folder in folders]
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {sum(own) / len(own):+.1f} |")
    better = sum(gain > 0 for gain in gains.values())
    worst = min(gains, key=lambda place: gains[place])
    lines += [
        "",
        f"Gain of the default fit over frozen {made['model']}, in points of IoU on test splits from true boxes. "
        f"{better} of {len(gains)} fits gain; the least: {worst[0]}, split {worst[1]}, {gains[worst]:+.1f}. "
        f"{len(tasks)} tasks; weights {made['weights'][:12]}, training seed {made['seed']}. {measured_with(made)}",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+", help="folders of stores, one a split")
    parser.add_argument("--runs", type=Path, default=Path("casam_runs"))
    parser.add_argument("--model", default="small")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    weights = ""
    for folder in options.stores:
        for path in find_stores(folder, backbone=options.model):
            weights = EmbeddingStore(path).meta.identity["backbone"]["weights"]
            report = fit_task(
                path.parent.name, folder, options.runs, options=options.set, seed=options.seed,
                model=options.model,
            )  # fmt: skip
            row = {
                "task": path.parent.name, "stores": folder.name, "masks": report.test["iou"].values,
                "frozen": report.frozen["iou"].mean, "fitted": report.test["iou"].mean,
            }  # fmt: skip
            rows.append(row)
            print(f"{row['stores']} {row['task']}: {row['frozen']:.4f} -> {row['fitted']:.4f}", flush=True)
    made = {
        **provenance(torch.device("cpu")), "model": options.model, "seed": options.seed,
        "weights": weights, "stores": [folder.name for folder in options.stores], "rows": rows,
    }  # fmt: skip
    write_result(options.out / f"drawn_splits_{options.model}", made, page(made))
    print("\n".join(page(made)))


if __name__ == "__main__":
    main()
