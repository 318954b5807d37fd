"""K fits one after the other, against one pack of the same K fits over the same embeddings.

    python benchmarks/pack.py --model small --packs 2 4 8
    python benchmarks/pack.py --model vit_b --batch 1 --device cuda --precision bf16

Both sides take turns in one process: the same heads (three CAResBlocks), seeds and learning rates, the same embeddings
in memory, the same samples, masks and prompts. Before any figure, both sides' first step is compared at equal weights:
losses and gradients have to agree within 1e-5 (fp32, TF32 off), and after training the IoU of every head within 0.2
points; in bf16 both are written down only. What a pack saves is launches and small batches, not arithmetic: *floor* is
the arithmetic of all K fits at the rate of this device's own matrix product, and no pack can be faster than that.

Writes pack_DEVICE.json and .md into benchmarks/results, a row for each model, pack, batch, precision and threads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from common import begin, matmul_gflops, measured_with, model_options, provenance, record, synchronise
from encode_throughput import draw, load, ours
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.geometry import Geometry
from casam_cache.heads.alignment import AlignmentLayer
from casam_cache.heads.files import build_head
from casam_cache.training.cost import training_flops
from casam_cache.training.data import Item, ItemMask, ItemsInMemory
from casam_cache.training.evaluate import evaluate
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.pack import PackRequest, fit_pack

STEP_TOLERANCE = 1e-5
IOU_POINTS = 0.2
RATES = (1e-4, 3e-4)


def encoded_view(backbone: Backbone, count: int) -> ItemsInMemory:
    """Drawn images through the frozen encoder, each with one rectangle as its mask."""
    rng = np.random.default_rng(0)
    encoder = FrozenEncoder(backbone, "fp32")
    architecture = backbone.architecture
    embeddings, items, bitmaps = [], [], []
    for index, image in enumerate(draw(count)):
        with torch.no_grad():
            embeddings.append(ours(encoder, [image])[0].to(torch.float16).cpu().numpy())
        height, width = image.shape[:2]
        y, x = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
        box = np.array([x, y, x + width // 3, y + height // 3], dtype=np.float32)
        bitmap = np.zeros((height, width), dtype=bool)
        bitmap[y : y + height // 3 + 1, x : x + width // 3 + 1] = True
        geometry = Geometry.fit(height, width, architecture.image_size, architecture.patch_size)
        items.append(Item(f"image {index}", "drawn", f"image {index}", geometry, 1))
        bitmaps.append([ItemMask(bitmap, 1, 1, box, box[:2] + 5)])
    return ItemsInMemory("drawn", items, np.stack(embeddings), bitmaps)


def requests(backbone: Backbone, count: int, options: TrainingOptions) -> list[PackRequest]:
    """New fits: seeds 0, 1, ... and two learning rates in turn."""
    return [
        PackRequest(
            build_head("alignment", None, backbone, seed),
            options.model_copy(update={"learning_rate": RATES[seed % len(RATES)]}),
            seed,
        )
        for seed in range(count)
    ]


def alone(asked: Sequence[PackRequest], backbone: Backbone, view: ItemsInMemory) -> list[FitResult]:
    """One after the other."""
    return [fit_head(one.head, backbone, view, one.options, seed=one.seed) for one in asked]


class Grouped(nn.Module):
    """K Alignment Layers of default options with stacked weights: one grouped convolution for all of them.

    The other way to run a pack's heads, raced here against the branches that `fit_pack` uses.

    Args:
        heads: K of equal shape.
    """

    def __init__(self, heads: Sequence[AlignmentLayer]) -> None:
        super().__init__()
        self.count, self.eps = len(heads), heads[0].blocks[0].norm.eps
        names = [name for name, _ in heads[0].blocks[0].named_parameters()]
        self.blocks = nn.ModuleList(
            nn.ParameterDict(
                {
                    name.replace(".", "_"): torch.cat([b.get_parameter(name) for b in blocks]).detach()
                    for name in names
                }
            )
            for blocks in zip(*(head.blocks for head in heads), strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, K * C, g, g) -> (B, K * C, g, g)."""
        x = x.contiguous(memory_format=torch.channels_last)
        k = self.count
        for p in self.blocks:
            u = F.conv2d(F.relu(x), p["conv1_weight"], p["conv1_bias"], padding=1, groups=k)
            u = F.conv2d(F.relu(u), p["conv2_weight"], p["conv2_bias"], padding=1, groups=k)
            means = u.mean(dim=(2, 3)).unflatten(1, (k, -1))  # (B, K, C)
            gate = F.conv1d(means, p["gate_weight"], padding=p["gate_weight"].shape[-1] // 2, groups=k)
            y = (u * gate.sigmoid().flatten(1)[..., None, None] + x).permute(0, 2, 3, 1).unflatten(3, (k, -1))
            y = F.layer_norm(y, y.shape[-1:], eps=self.eps)
            y = y * p["norm_weight"].unflatten(0, (k, -1)) + p["norm_bias"].unflatten(0, (k, -1))
            x = y.flatten(3).permute(0, 3, 1, 2)
        return x


def race_heads(backbone: Backbone, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of forward and backward of K heads alone, as branches and grouped, after seeing that they agree."""
    device, architecture = backbone.device, backbone.architecture
    heads = [build_head("alignment", {"init": "random"}, backbone, seed).to(device) for seed in range(count)]
    grouped = Grouped(heads).to(device)
    shape = (count, options.batch, architecture.channels, architecture.grid, architecture.grid)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    side_by_side = x.transpose(0, 1).flatten(1, 2).contiguous()

    def branches() -> torch.Tensor:
        return torch.cat([head(own) for head, own in zip(heads, x, strict=True)])

    sides = {"branches": branches, "grouped": lambda: grouped(side_by_side)}
    with torch.no_grad():
        one = branches()
        other = sides["grouped"]().unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)
    if float((one - other).norm() / one.norm()) > STEP_TOLERANCE:
        sys.exit("grouped heads compute something else than branches: no figures")
    best = dict.fromkeys(sides, np.inf)
    for turn in range(options.repeat + 1):
        for name, run in sides.items():
            synchronise(device)
            start = time.perf_counter()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16"):
                out = run()
            out.float().square().mean().backward()
            synchronise(device)
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: round(seconds, 6) for name, seconds in best.items()}


@contextmanager
def gradients(kept: dict[int, torch.Tensor]) -> Iterator[None]:
    """Keeps every parameter's gradient as it is before an optimiser's step."""

    def keep(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimiser.param_groups:
            kept.update({id(p): p.grad.clone() for p in group["params"] if p.grad is not None})

    hook = register_optimizer_step_pre_hook(keep)
    try:
        yield
    finally:
        hook.remove()


def compare_step(
    backbone: Backbone, view: ItemsInMemory, count: int, options: TrainingOptions
) -> dict[str, float]:
    """Largest relative differences of the first step's losses, and of its gradients (by norm, of each tensor)."""
    first = options.model_copy(update={"max_steps": 1})
    kept: dict[int, torch.Tensor] = {}
    singles, packed = requests(backbone, count, first), requests(backbone, count, first)
    with gradients(kept):
        one, many = alone(singles, backbone, view), fit_pack(packed, backbone, view)
    losses = [abs(b.history[0].loss / a.history[0].loss - 1) for a, b in zip(one, many, strict=True)]
    slopes = [0.0]
    for a, b in zip(singles, packed, strict=True):
        for p, q in zip(a.head.trained(), b.head.trained(), strict=True):
            if size := float(kept[id(p)].norm()):
                slopes.append(float((kept[id(p)] - kept[id(q)]).norm()) / size)
    return {"loss": max(losses), "gradient": max(slopes)}


def measure(
    options: argparse.Namespace, count: int, backbone: Backbone, weights: str, view: ItemsInMemory
) -> dict[str, Any]:
    """One row of the results."""
    device = backbone.device
    training = TrainingOptions(epochs=options.epochs, batch_size=options.batch, precision=options.precision)
    step = compare_step(backbone, view, count, training)
    if options.precision == "fp32" and max(step.values()) > STEP_TOLERANCE:
        sys.exit(f"a pack of {count} computes something else than alone ({step}): no figures")
    best = {"alone": np.inf, "pack": np.inf}
    ended: dict[str, list[FitResult]] = {}
    for turn in range(options.repeat + 1):  # the first turn warms up
        ended["alone"] = alone(requests(backbone, count, training), backbone, view)
        ended["pack"] = fit_pack(requests(backbone, count, training), backbone, view)
        if turn:
            best["alone"] = min(best["alone"], sum(result.seconds for result in ended["alone"]))
            best["pack"] = min(best["pack"], ended["pack"][0].seconds)
    scores = {
        side: [evaluate(result.head, backbone, view).summary()["iou"] for result in results]
        for side, results in ended.items()
    }
    apart = 100 * max(abs(float(a) - float(b)) for a, b in zip(scores["alone"], scores["pack"], strict=True))
    if options.precision == "fp32" and apart > IOU_POINTS:
        sys.exit(f"heads of a pack of {count} end {apart:.2f} points of IoU from alone: no figures")
    steps = ended["pack"][0].steps
    flops = training_flops(ended["alone"][0].head, backbone) - backbone.encoder_flops()
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    floor = count * ended["alone"][0].pairs * flops / (1e9 * matmul_gflops(device, dtype)) / steps
    seconds = {side: value / steps for side, value in best.items()}
    return {
        "model": options.model,
        "pack": count,
        "batch": options.batch,
        "precision": options.precision,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "images": len(view),
        "steps": steps,
        "repeat": options.repeat,
        "seconds_per_step_of_all": {side: round(value, 6) for side, value in seconds.items()},
        "floor_seconds": round(floor, 6),
        "ratio": round(seconds["alone"] / seconds["pack"], 3),
        "ratio_at_the_floor": round(seconds["alone"] / floor, 3),
        "first_step_difference": {name: float(f"{value:.2g}") for name, value in step.items()},
        "iou_points_apart": round(apart, 4),
        "heads_alone_seconds": race_heads(backbone, count, options),
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# K fits one after the other, and as one pack",
        "",
        "| model | K | batch | precision | threads | alone, s | pack, s | ratio | floor, s | ratio at the floor | "
        "first step apart: loss, gradient | IoU points apart | heads alone: branches, grouped, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in sorted(rows, key=lambda row: (row["model"], row["precision"], row["batch"], row["pack"])):
        seconds, apart = row["seconds_per_step_of_all"], row["first_step_difference"]
        heads = row["heads_alone_seconds"]
        lines.append(
            f"| {row['model']} | {row['pack']} | {row['batch']} | {row['precision']} | {row['threads']} | "
            f"{seconds['alone']:.3g} | {seconds['pack']:.3g} | **{row['ratio']:.2f}x** | "
            f"{row['floor_seconds']:.3g} | {row['ratio_at_the_floor']:.2f}x | "
            f"{apart['loss']:.1e}, {apart['gradient']:.1e} | {row['iou_points_apart']:.3f} | "
            f"{heads['branches']:.3g}, {heads['grouped']:.3g} |"
        )
        notes.append(
            f"- {row['model']}, K = {row['pack']}: {row['steps']} steps on {row['images']} images, best of "
            f"{row['repeat']}, weights {row['weights']}; {measured_with(row)}"
        )
    explained = (
        "Seconds are those of one step of all K fits: training alone, without preparing masks and reading embeddings, "
        "which a pack does once instead of K times. Both sides in one process, taking turns. *floor*: FLOPs of head "
        "and decoder at the rate of this device's own matrix product; a pack saves launches and fills small batches, "
        "it computes as much. *heads alone*: forward and backward of the K heads as `fit_pack` runs them, side by "
        "side, and as one grouped convolution over stacked weights."
    )
    return [*lines, "", explained, "", *notes]


def main() -> None:
    parser = model_options(__doc__, batch=6)
    parser.add_argument("--packs", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    device = begin(options)
    torch.backends.cudnn.allow_tf32 = False  # 1e-5 is a statement about fp32
    backbone, weights = load(options, device)
    view = encoded_view(backbone, options.images)
    path, table = options.out / f"pack_{device.type}.json", ""
    for count in options.packs:
        row = measure(options, count, backbone, weights, view)
        table = record(path, row, ("model", "pack", "batch", "precision", "threads"), markdown)
    print(table)


if __name__ == "__main__":
    main()
