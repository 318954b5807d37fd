"""Seconds a batch of every attention form of the encoder: the race that picks the form of a store on a GPU.

    python benchmarks/attention_race.py --model small --batch 8
    python benchmarks/attention_race.py --model vit_b --batch 1

On a GPU this is what `casam encode` runs once before the first image of a new store; on a CPU, where the form is
fixed, it shows whether the fixed one is right. The forms' embeddings are compared with upstream's own chain first:
figures of different functions would be none. Official models run with seeded random weights unless --checkpoint is
given; the time does not depend on them.

Writes benchmarks/results/attention_race_DEVICE.json and .md, a row for each model, precision, batch and number of
threads.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from common import begin, measured_with, model_options, provenance, record
from encode_throughput import TOLERANCE, draw, load, ours

from casam_cache.backbones.attention import AUTO, FORMS, choose_form
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.race import race

REFERENCE = "materialised"


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    images = draw(1)
    exact = ours(FrozenEncoder(backbone, "fp32", attention=REFERENCE), images)
    differences = {}
    for form in FORMS:
        found = ours(FrozenEncoder(backbone, options.precision, attention=form), images)
        differences[form] = float((found - exact).abs().max() / exact.abs().max())
    if max(differences.values()) > TOLERANCE[options.precision]:
        sys.exit(f"the forms differ by {max(differences.values()):.1e} of the largest value: no figures")
    seconds = race(backbone, options.precision, options.batch, repeat=options.repeat)
    return {
        "model": options.model,
        "precision": options.precision,
        "batch": options.batch,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "repeat": options.repeat,
        "weights": weights,
        "seconds_per_image": {form: round(value / options.batch, 5) for form, value in seconds.items()},
        "relative_difference": differences,
        "winner": min(seconds, key=lambda form: seconds[form]),
        "used": "the winner" if device.type == "cuda" else choose_form(AUTO, device),
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    forms = list(FORMS)
    lines = [
        "# Attention forms",
        "",
        f"| model | precision | batch | threads | {' | '.join(f'{form}, s an image' for form in forms)} | "
        "winner | used |",
        "|" + "---|" * (6 + len(forms)),
    ]
    notes = []
    for row in rows:
        seconds = row["seconds_per_image"]
        reference = seconds.get(REFERENCE)
        cells = []
        for form in forms:
            ratio = f" (**{reference / seconds[form]:.2f}x**)" if reference and form in seconds else ""
            cells.append(f"{seconds[form]:.4g}{ratio}" if form in seconds else "does not fit")
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['batch']} | {row['threads']} | {' | '.join(cells)} | "
            f"{row['winner']} | {row['used']} |"
        )
        differences = ", ".join(f"{form} {value:.1e}" for form, value in row["relative_difference"].items())
        notes.append(
            f"- {row['model']}, {row['precision']}, batch {row['batch']}: best of {row['repeat']}, weights "
            f"{row['weights']}, difference from upstream's chain in fp32 / largest value: {differences}; "
            f"{measured_with(row)}"
        )
    explained = (
        "All forms in one process; in brackets how many times faster than upstream's own chain (*materialised*). "
        "On CUDA the winner is written into a new store and used again whenever it is resumed or repaired; on a "
        "CPU the form is fixed."
    )
    return [*lines, "", explained, "", *notes]


def main() -> None:
    parser = model_options(__doc__, batch=1)
    options = parser.parse_args()
    device = begin(options)
    path = options.out / f"attention_race_{device.type}.json"
    print(record(path, measure(options, device), ("model", "precision", "batch", "threads"), markdown))


if __name__ == "__main__":
    main()
