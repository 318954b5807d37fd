"""One epoch of the Alignment Layer read from the store, against the same epoch with its embeddings in memory.

    python benchmarks/epoch_from_store.py --model small --images 24
    python benchmarks/epoch_from_store.py --model vit_b --images 4 --batch 2

Phantoms are drawn, encoded into a store, and its training split is trained on: once with every embedding placed on the
device before the clock starts, once streamed, each read (and at its first reading verified) while the step before runs.
Sides take turns, every turn in a newly opened store; both end with the same weights, bit for bit, or there are no
figures. The files were just written and are read from the page cache.

Writes benchmarks/results/epoch_from_store_DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import measured_with, provenance, run_on_phantoms
from encode_throughput import load

from casam_cache.backbones.base import Backbone
from casam_cache.datasets.phantoms import TASKS, write_phantoms
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.heads.files import build_head
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import open_split
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions

SIDES = {"memory": "device", "store": "stream"}


def encoded(folder: Path, options: argparse.Namespace, backbone: Backbone) -> Path:
    """A store of phantoms of one task."""
    write_phantoms(folder / "data", seed=0, images_per_task=options.images)
    checkpoint = options.checkpoint
    if checkpoint is None and options.model != "small":
        checkpoint = folder / "seeded.pth"
        parts = {"image_encoder": backbone.encoder, "prompt_encoder": backbone.prompt_encoder}
        parts["mask_decoder"] = backbone.mask_decoder
        state = {
            f"{part}.{name}": v for part, module in parts.items() for name, v in module.state_dict().items()
        }
        torch.save(state, checkpoint)
    asked = EncodeOptions(model=options.model, checkpoint=checkpoint, name="timed", device=options.device)
    (report,) = encode_dataset(folder / "data" / "tasks" / TASKS[0].name, folder / "stores", asked)
    return Path(report.store)


def epoch(store: Path, side: str, options: argparse.Namespace, backbone: Backbone) -> FitResult:
    """One epoch from new weights."""
    view = open_split(EmbeddingStore.open(store), "train")
    training = TrainingOptions(epochs=1, batch_size=options.batch, precision=options.precision)
    head = build_head("alignment", None, backbone, seed=0)
    return fit_head(head, backbone, view, training, residency=SIDES[side])


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    best = dict.fromkeys(SIDES, float("inf"))
    with tempfile.TemporaryDirectory() as scratch:
        store = encoded(Path(scratch), options, backbone)
        for turn in range(options.repeat + 1):  # the first turn warms up
            results = {side: epoch(store, side, options, backbone) for side in SIDES}
            states = [result.head.state_dict() for result in results.values()]
            if not all(torch.equal(states[0][name], states[1][name]) for name in states[0]):
                sys.exit("the two sides ended with different weights: no figures")
            if turn:
                best = {side: min(best[side], result.seconds) for side, result in results.items()}
        pairs = results["store"].pairs
        shape = EmbeddingStore.open(store).arrays["embedding"].shape
    return {
        "model": options.model,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "batch": options.batch,
        "samples": pairs,
        "item": list(shape),
        "repeat": options.repeat,
        "seconds": {side: round(value, 4) for side, value in best.items()},
        "samples_per_second": {side: round(pairs / value, 2) for side, value in best.items()},
        "share": round(best["memory"] / best["store"], 4),
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# An epoch from the store, and with its embeddings in memory",
        "",
        "| model | embedding | batch | threads | samples | in memory, samples/s | from the store, samples/s | "
        "store of memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in rows:
        rate = row["samples_per_second"]
        lines.append(
            f"| {row['model']} | {' x '.join(map(str, row['item']))} | {row['batch']} | {row['threads']} | "
            f"{row['samples']} | {rate['memory']:.3g} | {rate['store']:.3g} | **{100 * row['share']:.1f} %** |"
        )
        notes.append(
            f"- {row['model']}: best of {row['repeat']}, weights {row['weights']}, {row['precision']}; "
            f"{measured_with(row)}"
        )
    explained = (
        "One epoch of three CAResBlocks with the default recipe; both sides in one process, taking turns, ending with "
        "the same bits. From the store, every embedding is read and its checksum verified while the step before runs."
    )
    return [*lines, "", explained, "", *notes]


if __name__ == "__main__":
    run_on_phantoms(__doc__, "epoch_from_store", measure, markdown)
