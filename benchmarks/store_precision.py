"""What cheaper stores cost in IoU: bf16 encoding and int8 storage against float32 encoding in float16, task by task.

    python benchmarks/store_precision.py --data DATA
    python benchmarks/store_precision.py --data DATA --model vit_b --checkpoint sam_vit_b.pth --device cuda

Every dataset under DATA/tasks is encoded three times; then the frozen SAM is scored on each store, every mask of every
split by its stored box, and the difference taken mask by mask (as `casam store info STORE --compare OTHER` does). The
mark: no task's mean IoU may move by more than 0.1 points in bf16. It says something only with trained weights.

Writes benchmarks/results/store_precision_MODEL_DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, begin, measured_with, provenance

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.bench.compare_stores import compare_stores
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.errors import StoreError
from casam_cache.store import EmbeddingStore

MARK = 0.1
KINDS: dict[str, dict[str, Any]] = {
    "exact": {"precision": "fp32", "dtype": "float16"},
    "bf16": {"precision": "bf16", "dtype": "float16"},
    "int8": {"precision": "fp32", "dtype": "int8"},
}


def measure(task: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one dataset; IoU in [0, 1].

    Raises:
        StoreError: it has no masks.
    """
    stores = {}
    for kind, chosen in KINDS.items():
        asked = EncodeOptions(
            model=options.model, checkpoint=options.checkpoint, name=kind, device=options.device, **chosen
        )
        (report,) = encode_dataset(task, folder, asked)
        stores[kind] = Path(report.store)
    row: dict[str, Any] = {"task": task.name}
    for kind in ("bf16", "int8"):
        told = compare_stores(stores[kind], stores["exact"], device=options.device)
        row |= {"masks": told["masks"], "iou": told["other_iou"]}
        row[kind] = {name: told[name] for name in ("difference", "largest")}
    identity = EmbeddingStore.open(stores["exact"]).identity
    return {**row, "attention": identity.get("attention"), "weights": identity["backbone"]["weights"]}


def markdown(report: dict[str, Any]) -> list[str]:
    """Points of IoU; the worst task in the last line."""
    rows = report["rows"]
    lines = [
        f"# What bf16 and int8 change in the frozen {report['model']}'s IoU",
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
        *([f"Without masks to compare: {', '.join(report['left_out'])}.", ""] if report["left_out"] else []),
        f"- weights {rows[0]['weights'][:12]}, attention {rows[0]['attention']}; {measured_with(report)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder with tasks/DATASET/images and masks"
    )
    parser.add_argument("--model", default="small", choices=["small", *ARCHITECTURES])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = begin(options)
    tasks = sorted(path for path in (options.data / "tasks").glob("*/") if (path / "images").is_dir())
    rows, left_out = [], []
    for task in tasks:
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(measure(task, Path(folder), options))
            except StoreError as error:
                print(f"{task.name}: {error.message}", file=sys.stderr)
                left_out.append(task.name)
    if not rows:
        sys.exit(f"{options.data}/tasks holds no dataset with masks")
    report = {"model": options.model, "rows": rows, "left_out": left_out, **provenance(device)}
    path = options.out / f"store_precision_{options.model}_{device.type}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    table = "\n".join(markdown(report)) + "\n"
    path.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
