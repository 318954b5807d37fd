"""Head training with compiled steps (`compiled=true`; on CUDA replayed as graphs) against the same fit as it is.

    python benchmarks/compiled_step.py --model small --images 24
    python benchmarks/compiled_step.py --model vit_b --images 12 --device cuda --precision bf16

Phantoms are drawn and encoded; the Alignment Layer is fitted on one task with every embedding on the device. The first
epoch of each side pays for compilation and warm-up and is told apart; the fastest of the others is what counts. After
the first epoch the two losses must agree to 1e-3 (1e-2 in bf16), or there are no figures.

Writes benchmarks/results/compiled_step_DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import begin, measured_with, model_options, provenance, record
from encode_throughput import load
from epoch_from_store import encoded

from casam_cache.backbones.sam import Backbone
from casam_cache.heads.files import build_head
from casam_cache.store import EmbeddingStore
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.stored import open_split

SIDES = {"plain": False, "compiled": True}
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-2}


def timed(
    store: Path, compiled: bool, options: argparse.Namespace, backbone: Backbone
) -> tuple[FitResult, list[float]]:
    """A fit, and the seconds of each of its epochs."""
    view = open_split(EmbeddingStore.open(store), "train")
    training = TrainingOptions(
        epochs=1 + options.repeat, batch_size=options.batch, precision=options.precision, compiled=compiled
    )
    ends = [time.perf_counter()]
    result = fit_head(
        build_head("alignment", None, backbone, seed=0), backbone, view, training, residency="device",
        on_epoch=lambda *_: ends.append(time.perf_counter()),
    )  # fmt: skip
    return result, [after - before for before, after in pairwise(ends)]


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    with tempfile.TemporaryDirectory() as scratch:
        store = encoded(Path(scratch), options, backbone)
        found = {name: timed(store, compiled, options, backbone) for name, compiled in SIDES.items()}
    losses = {name: result.history[0].loss for name, (result, _) in found.items()}
    difference = abs(losses["compiled"] / losses["plain"] - 1)
    if difference > TOLERANCE[options.precision]:
        sys.exit(f"the losses of the two sides differ by {difference:.1e}: no figures")
    steps = found["plain"][0].steps // (1 + options.repeat)
    best = {name: min(seconds[1:]) / steps for name, (_, seconds) in found.items()}
    return {
        "model": options.model,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "batch": options.batch,
        "steps": steps,
        "repeat": options.repeat,
        "seconds_per_step": {name: round(value, 5) for name, value in best.items()},
        "first_epoch_seconds": {name: round(seconds[0], 2) for name, (_, seconds) in found.items()},
        "ratio": round(best["plain"] / best["compiled"], 3),
        "loss_difference": difference,
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# A step of head training, compiled and as it is",
        "",
        "| model | precision | batch | threads | as it is, s a step | compiled, s a step | ratio | "
        "first epoch, s (compiled) | loss differs by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in rows:
        step, first = row["seconds_per_step"], row["first_epoch_seconds"]
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['batch']} | {row['threads']} | {step['plain']:.3g} | "
            f"{step['compiled']:.3g} | **{row['ratio']:.2f}x** | {first['plain']:.3g} ({first['compiled']:.3g}) | "
            f"{row['loss_difference']:.1e} |"
        )
        notes.append(
            f"- {row['model']}, {row['precision']}: the fastest of {row['repeat']} epochs of {row['steps']} steps "
            f"after the first, weights {row['weights']}; {measured_with(row)}"
        )
    return [*lines, "", *notes]


def main() -> None:
    parser = model_options(__doc__, batch=6)
    parser.add_argument("--images", type=int, default=24)
    options = parser.parse_args()
    device = begin(options)
    path = options.out / f"compiled_step_{device.type}.json"
    print(record(path, measure(options, device), ("model", "batch", "precision", "threads"), markdown))


if __name__ == "__main__":
    main()
