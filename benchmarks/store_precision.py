"""What cheaper stores cost in IoU: bf16 encoding and int8 storage against float32 encoding in float16, task by task.

    python benchmarks/store_precision.py --data DATA
    python benchmarks/store_precision.py --data DATA --model vit_b --checkpoint sam_vit_b.pth --device cuda

Every dataset under DATA/tasks is encoded three times; then the frozen SAM is scored on each store, every mask of every
split by its stored box, and the difference taken mask by mask (as `casam store info STORE --compare OTHER` does). The
mark: no task's mean IoU may move by more than 0.1 points in bf16. It says something only with trained weights.

Writes benchmarks/results/store_precision_MODEL_DEVICE.json and .md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import begin, measured_with, model_options, provenance, record

from casam_cache.bench.compare_stores import compare_stores
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.store import EmbeddingStore

MARK = 0.1
KINDS: dict[str, dict[str, Any]] = {
    "exact": {"precision": "fp32", "dtype": "float16"},
    "bf16": {"precision": "bf16", "dtype": "float16"},
    "int8": {"precision": "fp32", "dtype": "int8"},
}


def measure(task: Path, folder: Path, options: Any, device: torch.device) -> dict[str, Any]:
    """The row of one dataset."""
    stores = {}
    for kind, chosen in KINDS.items():
        asked = EncodeOptions(
            model=options.model, checkpoint=options.checkpoint, name=kind, device=options.device, **chosen
        )
        (report,) = encode_dataset(task, folder, asked)
        stores[kind] = Path(report.store)
    changes = {}
    for kind in ("bf16", "int8"):
        told = compare_stores(stores[kind], stores["exact"], device=options.device)
        changes[kind] = {name: told[name] for name in ("difference", "largest")}
    return {
        "model": options.model,
        "task": task.name,
        "masks": told["masks"],
        "iou": told["other_iou"],
        **changes,
        "attention": EmbeddingStore.open(stores["exact"]).identity.get("attention"),
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Points of IoU; the worst task in the last line."""
    lines = [
        f"# What bf16 and int8 change in the frozen {rows[0]['model']}'s IoU",
        "",
        "| task | masks | IoU, points | bf16, points | largest, one mask | int8, points | largest, one mask |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{100 * row[kind][what]:{'+.3f' if what == 'difference' else '.1f'}}"
            for kind in ("bf16", "int8")
            for what in ("difference", "largest")
        ]
        lines.append(f"| {row['task']} | {row['masks']} | {100 * row['iou']:.1f} | {' | '.join(cells)} |")
    worst = {kind: max(abs(100 * row[kind]["difference"]) for row in rows) for kind in ("bf16", "int8")}
    verdict = "kept" if worst["bf16"] <= MARK else "missed"
    return [
        *lines,
        "",
        f"Largest change of a task's mean: bf16 {worst['bf16']:.3f}, int8 {worst['int8']:.3f} points. "
        f"The mark of {MARK} points for bf16 is {verdict}.",
        "",
        f"- {measured_with(rows[-1])}",
    ]


def main() -> None:
    parser = model_options(__doc__, batch=1)
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder with tasks/DATASET/images and masks"
    )
    options = parser.parse_args()
    device = begin(options)
    tasks = sorted(path for path in (options.data / "tasks").glob("*/") if (path / "images").is_dir())
    if not tasks:
        sys.exit(f"{options.data}/tasks holds no dataset")
    path = options.out / f"store_precision_{options.model}_{device.type}.json"
    table = ""
    for task in tasks:
        with tempfile.TemporaryDirectory() as folder:
            table = record(path, measure(task, Path(folder), options, device), ("model", "task"), markdown)
    print(table)


if __name__ == "__main__":
    main()
