"""A training step of the Alignment Layer from cached embeddings, against the same step with the frozen encoder inside.

    python benchmarks/cached_vs_end_to_end.py --model small --batch 6
    python benchmarks/cached_vs_end_to_end.py --model vit_b --batch 2 --steps 1

Both sides take turns in one process and start from the same weights. End to end, a step starts from uint8 images in
memory: resize, encode, round to float16 as a store does; cached, it starts from those float16 embeddings in memory.
Then both run the same head, decoder, loss, backward pass and Adam. The weights after all steps must be the same bits,
on a GPU, whose sums have no fixed order, within a twentieth of what training changed: figures of two different
computations would be none. The floor is arithmetic: FLOPs with the encoder over those without.

Writes benchmarks/results/cached_vs_end_to_end_DEVICE.json and .md, a row for each model, batch and number of threads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import begin, measured_with, model_options, provenance, record, synchronise
from encode_throughput import draw, load, ours

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.prompts import Prompts
from casam_cache.heads.base import Head, run_head
from casam_cache.heads.files import build_head
from casam_cache.training.cost import training_flops
from casam_cache.training.losses import segmentation_loss
from casam_cache.training.options import TrainingOptions

Step = Callable[[int], None]
TOLERANCE = 0.05  # on a GPU


class Side:
    """A head in training, and how its embeddings come about.

    Args:
        backbone: frozen.
        embed: the float16 (B, C, g, g) embeddings of a step.
    """

    def __init__(self, backbone: Backbone, embed: Callable[[int], torch.Tensor]) -> None:
        self.backbone, self.embed = backbone, embed
        self.head: Head = build_head("alignment", None, backbone, seed=0).to(backbone.device).train()
        self.optimiser = torch.optim.Adam(self.head.trained(), lr=1e-4, fused=True)
        side = backbone.image_size
        boxes = torch.tensor([[side * 0.2, side * 0.2, side * 0.7, side * 0.6]])
        with torch.no_grad():
            self.sparse, self.dense = backbone.embed_prompts(Prompts(boxes=boxes).to(backbone.device))

    def step(self, number: int) -> None:
        """One optimiser step."""
        embedding = self.embed(number).float()
        count, device = len(embedding), embedding.device
        low = self.backbone.low_res
        target = torch.zeros((count, low, low), dtype=torch.bool, device=device)
        target[:, low // 4 : low // 2, low // 4 : low // 2] = True
        weight = torch.ones((count, low, low), device=device)
        sparse, dense = (part.expand(count, *part.shape[1:]) for part in (self.sparse, self.dense))
        _, low_res, iou = run_head(
            self.head, self.backbone, {"embedding": embedding}, None, sparse.contiguous(), dense.contiguous()
        )
        loss = segmentation_loss(low_res[:, 0], iou[:, 0], target, weight, TrainingOptions()).total
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


def apart(one: Head, other: Head, backbone: Backbone) -> float:
    """Norm of the difference of two trained heads' weights over that of what training changed."""
    begun = build_head("alignment", None, backbone, seed=0).to(backbone.device)
    flat = [
        torch.cat([weight.detach().flatten() for weight in head.trained()]) for head in (one, other, begun)
    ]
    return float((flat[0] - flat[1]).norm() / (flat[0] - flat[2]).norm())


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    encoder = FrozenEncoder(backbone, options.precision)
    batches = [draw(options.batch) for _ in range(options.steps)]

    def encoded(number: int) -> torch.Tensor:
        with torch.no_grad():
            return ours(encoder, batches[number]).to(torch.float16)

    stored = [encoded(number).clone() for number in range(options.steps)]
    sides = {"cached": Side(backbone, lambda number: stored[number]), "end_to_end": Side(backbone, encoded)}
    best = {name: np.full(options.steps, np.inf) for name in sides}
    for turn in range(options.repeat + 1):  # the first turn warms up
        for number in range(options.steps):
            for name, side in sides.items():
                synchronise(device)
                start = time.perf_counter()
                side.step(number)
                synchronise(device)
                if turn:
                    best[name][number] = min(best[name][number], time.perf_counter() - start)
    difference = apart(*(side.head for side in sides.values()), backbone)
    if not difference <= (0 if device.type == "cpu" else TOLERANCE):
        sys.exit(f"the two sides ended with different weights ({difference:.1e}): no figures")
    seconds = {name: float(found.mean()) for name, found in best.items()}
    whole = training_flops(sides["cached"].head, backbone)
    step = whole - backbone.encoder_flops()
    return {
        "model": options.model,
        "precision": options.precision,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "batch": options.batch,
        "steps": options.steps,
        "repeat": options.repeat,
        "seconds_per_step": {name: round(value, 5) for name, value in seconds.items()},
        "ratio": round(seconds["end_to_end"] / seconds["cached"], 3),
        "gflop_per_image": {"step": round(step / 1e9, 3), "encoder": round((whole - step) / 1e9, 3)},
        "floor_ratio": round(whole / step, 3),
        "difference": difference,
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# A training step from the cache, and with the frozen encoder inside",
        "",
        "| model | batch | threads | cached, s a step | end to end, s a step | ratio | by arithmetic | "
        "GFLOP an image: step, encoder |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in rows:
        seconds, flop = row["seconds_per_step"], row["gflop_per_image"]
        lines.append(
            f"| {row['model']} | {row['batch']} | {row['threads']} | {seconds['cached']:.3g} | "
            f"{seconds['end_to_end']:.3g} | **{row['ratio']:.2f}x** | {row['floor_ratio']:.2f}x | "
            f"{flop['step']:.3g}, {flop['encoder']:.4g} |"
        )
        notes.append(
            f"- {row['model']}: {row['steps']} steps, best of {row['repeat']}, weights {row['weights']}, "
            f"{row['precision']}; {measured_with(row)}"
        )
    explained = (
        "Three CAResBlocks, one box prompt an image, Adam; both sides in one process, taking turns, ending with the "
        "same weights, on a CPU bit for bit. *by arithmetic*: FLOPs with the encoder over those without. The cached "
        "side reads embeddings from memory."
    )
    return [*lines, "", explained, "", *notes]


def main() -> None:
    parser = model_options(__doc__, batch=6)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    device = begin(options)
    path = options.out / f"cached_vs_end_to_end_{device.type}.json"
    print(record(path, measure(options, device), ("model", "batch", "precision", "threads"), markdown))


if __name__ == "__main__":
    main()
