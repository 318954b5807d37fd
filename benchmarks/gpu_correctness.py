"""Does a GPU compute what the CPU does? Embeddings in every precision and form of attention, and a training step.

    python benchmarks/gpu_correctness.py --models small vit_b lite_medsam --device cuda

The reference is this machine's CPU in fp32, with upstream's own chain of attention. A *training step* is one step of
the Alignment Layer from the CPU's embeddings, rounded as a store does: its gradients, largest difference over largest
value. Official models run with seeded random weights. A row that is beyond its tolerance is written too, and then the
script ends with 1.

Writes benchmarks/results/gpu_correctness_DEVICE.json and .md, a row for each model and precision.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from cached_vs_end_to_end import Side
from common import RESULTS, measured_with, provenance, record
from encode_throughput import draw, load, ours

from casam_cache.backbones.attention import FORMS
from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.encoder import FrozenEncoder

REFERENCE = "materialised"
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
STEP_TOLERANCE = 1e-2  # convolutions of a training step may use TF32


def forms_of(backbone: Backbone) -> tuple[str, ...]:
    """Forms of attention that an encoder can be asked for; of one without, its only way."""
    return tuple(FORMS) if "attention" in backbone.settings else ("own",)


def encode(backbone: Backbone, precision: str, form: str, images: list[Any]) -> torch.Tensor:
    """Embeddings, float32 (B, C, g, g), on the CPU."""
    settings = {} if form == "own" else {"attention": form}
    return ours(FrozenEncoder(backbone, precision, **settings), images).float().cpu()


def step(backbone: Backbone, embedding: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of the Alignment Layer's weights in one step from these embeddings, on the CPU."""
    side = Side(backbone, lambda number: embedding.to(backbone.device))
    side.step(0)
    found = [weight.grad for weight in side.head.trained() if weight.grad is not None]
    return [gradient.detach().float().cpu() for gradient in found]


def difference(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def measure(options: argparse.Namespace, model: str, device: torch.device) -> list[dict[str, Any]]:
    """A row for each precision."""
    chosen = argparse.Namespace(model=model, checkpoint=None)
    on_cpu, weights = load(chosen, torch.device("cpu"))
    images = draw(options.images)
    form = REFERENCE if "attention" in on_cpu.settings else "own"
    exact = encode(on_cpu, "fp32", form, images)
    gradients = step(on_cpu, exact.half())
    on_device, _ = load(chosen, device)
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    there = step(on_device, exact.half())
    apart = max(float((a - b).abs().max()) for a, b in zip(there, gradients, strict=True)) / largest
    rows = []
    for precision in options.precisions:
        found = {
            form: difference(encode(on_device, precision, form, images), exact)
            for form in forms_of(on_device)
        }
        worst = max(found.values())
        agrees = worst <= TOLERANCE[precision] and apart <= STEP_TOLERANCE
        rows.append(
            {
                "model": model, "precision": precision, "weights": weights, "images": len(images),
                "relative_difference": found, "gradient_difference": apart, "agrees": bool(agrees),
                **provenance(device),
            }
        )  # fmt: skip
    return rows


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# The GPU against the CPU",
        "",
        "| model | precision | embedding, by form of attention | gradients of a step | agrees |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        forms = ", ".join(f"{form} {value:.1e}" for form, value in row["relative_difference"].items())
        said = "yes" if row["agrees"] else "**no**"
        lines.append(
            f"| {row['model']} | {row['precision']} | {forms} | {row['gradient_difference']:.1e} | {said} |"
        )
    explained = (
        "Largest difference from the CPU's fp32, with upstream's own chain of attention, over the largest value. "
        f"Agreement: {TOLERANCE['fp32']:.0e} in fp32, {TOLERANCE['bf16']:.0e} in bf16, gradients {STEP_TOLERANCE:.0e}."
    )
    notes = [
        f"- {row['model']}, {row['precision']}: weights {row['weights']}; {measured_with(row)}"
        for row in rows
    ]
    return [*lines, "", explained, "", *notes]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["small", "vit_b", "lite_medsam"])
    parser.add_argument("--precisions", nargs="+", default=list(TOLERANCE), choices=list(TOLERANCE))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = choose_device(options.device)
    path = options.out / f"gpu_correctness_{device.type}.json"
    wrong = []
    for model in options.models:
        for row in measure(options, model, device):
            table = record(path, row, ("model", "precision"), markdown)
            if not row["agrees"]:
                wrong.append(f"{row['model']} in {row['precision']}")
    print(table)
    if wrong:
        sys.exit(f"beyond the tolerance: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
