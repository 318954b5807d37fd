"""Head training with compiled steps (`compiled=true`; on CUDA replayed as graphs) against the same fit as it is.

    python benchmarks/compiled_step.py --model small --images 24
    python benchmarks/compiled_step.py --model vit_b --images 12 --device cuda --precision bf16

Phantoms are drawn and encoded; the Alignment Layer is fitted on one task with every embedding on the device, twice by
each side in turn. The first epoch of a fit pays for compilation and warm-up and is told apart; the fastest other one
counts. What training has changed by the last epoch must be the same: where the losses of the two sides differ by more
than a hundredth of what was gained since the first epoch (a tenth in bf16), there are no figures.

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
from common import measured_with, provenance, run_on_phantoms
from encode_throughput import load
from epoch_from_store import encoded

from casam_cache.backbones.base import Backbone
from casam_cache.heads.files import build_head
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import open_split
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions

SIDES = {"plain": False, "compiled": True}
TOLERANCE = {"fp32": 1e-2, "bf16": 1e-1}
TURNS = 2


def timed(
    store: Path, compiled: bool, options: argparse.Namespace, backbone: Backbone
) -> tuple[FitResult, float]:
    """A fit, and the seconds of the fastest of its epochs but the first."""
    view = open_split(EmbeddingStore.open(store), "train")
    training = TrainingOptions(
        epochs=1 + options.repeat, batch_size=options.batch, precision=options.precision, compiled=compiled,
        learning_rate=1e-3,
    )  # fmt: skip
    ends: list[float] = []
    result = fit_head(
        build_head("alignment", None, backbone, seed=0), backbone, view, training, residency="device",
        on_epoch=lambda *_: ends.append(time.perf_counter()),
    )  # fmt: skip
    return result, min(after - before for before, after in pairwise(ends))


def gap(plain: FitResult, compiled: FitResult) -> float:
    """How far the last losses are apart, as a share of what training has changed since the first epoch."""
    gained = abs(plain.history[0].loss - plain.history[-1].loss)
    return abs(plain.history[-1].loss - compiled.history[-1].loss) / gained


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    found: dict[str, FitResult] = {}
    epochs = dict.fromkeys(SIDES, float("inf"))
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        store = encoded(Path(scratch), options, backbone)
        for _ in range(TURNS):
            for name, compiled in SIDES.items():
                found[name], fastest = timed(store, compiled, options, backbone)
                epochs[name] = min(epochs[name], fastest)
                first.setdefault(name, max(0.0, found[name].seconds - options.repeat * fastest))
    difference = gap(found["plain"], found["compiled"])
    if not difference <= TOLERANCE[options.precision]:
        sys.exit(f"the two sides end {difference:.1e} of what was gained apart: no figures")
    steps = found["plain"].steps // (1 + options.repeat)
    best = {name: seconds / steps for name, seconds in epochs.items()}
    return {
        "model": options.model,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "batch": options.batch,
        "steps": steps,
        "repeat": options.repeat,
        "seconds_per_step": {name: round(value, 5) for name, value in best.items()},
        "first_epoch_seconds": {name: round(seconds, 2) for name, seconds in first.items()},
        "ratio": round(best["plain"] / best["compiled"], 3),
        "difference": difference,
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# A step of head training, compiled and as it is",
        "",
        "| model | precision | batch | threads | as it is, s a step | compiled, s a step | ratio | "
        "first epoch, s (compiled) | difference of what was gained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in rows:
        step, first = row["seconds_per_step"], row["first_epoch_seconds"]
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['batch']} | {row['threads']} | {step['plain']:.3g} | "
            f"{step['compiled']:.3g} | **{row['ratio']:.2f}x** | {first['plain']:.3g} ({first['compiled']:.3g}) | "
            f"{row['difference']:.1e} |"
        )
        notes.append(
            f"- {row['model']}, {row['precision']}: the fastest of {TURNS * row['repeat']} epochs of "
            f"{row['steps']} steps after the first, weights {row['weights']}; {measured_with(row)}"
        )
    return [*lines, "", *notes]


if __name__ == "__main__":
    run_on_phantoms(__doc__, "compiled_step", measure, markdown)
