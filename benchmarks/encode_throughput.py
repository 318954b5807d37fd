"""Images a second of our encoder and of what users could pick instead (`peers`), on the same images.

    python benchmarks/encode_throughput.py --model small --images 8
    python benchmarks/encode_throughput.py --model vit_b --images 2

Every side starts from a uint8 RGB image in memory and ends with its embedding; they take turns, and each
batch's time is the best of the repetitions. Beside the time on the clock stands the processor time of all
threads, which other programs on the same machine disturb less (threads that wait for one another spin, so
--threads 1 gives the cleanest). The embeddings are compared too: figures of two different functions would be
none. Official models run with seeded random weights unless --checkpoint is given; the time does not depend on
them.

Writes benchmarks/results/encode_throughput_DEVICE.json and .md, a row for each model, precision and number of
threads.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import begin, matmul_gflops, measured_with, model_options, provenance, record, synchronise
from peers import SIDES, Side, peers

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.attention import choose_form
from casam_cache.backbones.base import Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.registry import load_backbone
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.geometry import Geometry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from upstream_sam import relative_difference

TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}


def draw(count: int, height: int = 768, width: int = 1024) -> list[np.ndarray]:
    """Seeded uint8 RGB images: waves under noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    images = []
    for _ in range(count):
        periods = rng.uniform(8, 80, (3, 2))
        waves = np.stack([np.sin(y / down) * np.cos(x / across) for down, across in periods], axis=-1)
        images.append(np.clip(128 + 80 * waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8))
    return images


def ours(encoder: FrozenEncoder, images: list[np.ndarray]) -> torch.Tensor:
    """Resize, stack and encode one batch: float32 (B, C, g, g)."""
    backbone = encoder.backbone
    resized = [
        resize_for_encoder(image, Geometry.fit(*image.shape[:2], backbone.image_size, backbone.patch_size))
        for image in images
    ]
    pixels, sizes = stack_inputs(resized, backbone.image_size)
    return encoder(torch.from_numpy(pixels), torch.from_numpy(sizes))["embedding"]


def take_turns(
    sides: dict[str, Side],
    batches: list[list[np.ndarray]],
    repeat: int,
    device: torch.device,
) -> tuple[dict[str, list[float]], float]:
    """For each side (seconds, processor seconds) for all batches; the largest difference of the first to another."""
    difference = 0.0
    best = {name: np.full((len(batches), 2), np.inf) for name in sides}
    for turn in range(repeat + 1):  # the first turn warms up
        for index, batch in enumerate(batches):
            embeddings = []
            for name, side in sides.items():
                synchronise(device)
                start = np.array([time.perf_counter(), time.process_time()])
                embeddings.append(side(batch))
                synchronise(device)
                taken = np.array([time.perf_counter(), time.process_time()]) - start
                if turn:
                    best[name][index] = np.minimum(best[name][index], taken)
            for other in embeddings[1:]:
                difference = float(
                    np.maximum(difference, relative_difference(embeddings[0], other))
                )  # keeps NaN
    return {name: found.sum(axis=0).tolist() for name, found in best.items()}, difference


def load(options: argparse.Namespace, device: torch.device) -> tuple[Backbone, str]:
    """The backbone, and what its weights are."""
    if options.checkpoint is None and options.model in ARCHITECTURES:
        seeded = seeded_backbone(ARCHITECTURES[options.model], seed=0, name=options.model)
        return seeded.to(device), "seeded random"
    backbone = load_backbone(options.model, options.checkpoint, device=device)
    return backbone, f"fingerprint {backbone.fingerprint[:12]}"


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    encoder = FrozenEncoder(backbone, options.precision, attention=options.attention)
    others, packages = peers(backbone, options.precision == "bf16")
    sides = {"ours": lambda batch: ours(encoder, batch), **others}
    images = draw(options.images)
    batches = [images[start : start + options.batch] for start in range(0, len(images), options.batch)]
    with torch.inference_mode():
        rate = matmul_gflops(device, torch.bfloat16 if options.precision == "bf16" else torch.float32)
        seconds, difference = take_turns(sides, batches, options.repeat, device)
    if not difference <= TOLERANCE[options.precision]:
        sys.exit(f"the sides differ by {difference:.1e} of the largest value: no figures")
    gflop = backbone.encoder_flops() / 1e9
    speed = {name: len(images) / clock for name, (clock, _) in seconds.items()}
    processor = {name: value / len(images) for name, (_, value) in seconds.items()}
    return {
        "model": options.model,
        "precision": options.precision,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "attention": choose_form(options.attention, backbone.device),
        "weights": weights,
        "images": len(images),
        "batch": options.batch,
        "repeat": options.repeat,
        "images_per_second": {name: round(value, 4) for name, value in speed.items()},
        "ratio": round(speed["ours"] / speed["segment_anything"], 3),
        "processor_seconds_per_image": {name: round(value, 4) for name, value in processor.items()},
        "processor_ratio": round(processor["segment_anything"] / processor["ours"], 3),
        "gflop_per_image": round(gflop, 3),
        "gflop_per_second": {name: round(value * gflop, 1) for name, value in speed.items()},
        "matmul_gflop_per_second": round(rate, 1),
        "bound_images_per_second": round(rate / gflop, 4),
        "relative_difference": difference,
        **provenance(device, **packages),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows; a peer that was not there and the CUDA column stay empty."""
    lines = [
        "# Encoder throughput",
        "",
        f"| model | precision | threads | ours, images/s | {' | '.join(f'`{name}` | ratio' for name in SIDES)} | "
        "processor s an image (`segment_anything`) | ratio | GFLOP an image | GFLOP/s | matmul GFLOP/s | "
        "bound, images/s | difference | CUDA images/s |",
        "|---" * (12 + 2 * len(SIDES)) + "|",
    ]
    notes = []
    for row in rows:
        speed = row["images_per_second"]
        processor = row["processor_seconds_per_image"]
        beside = " | ".join(
            f"{speed[name]:.3g} | **{speed['ours'] / speed[name]:.2f}x**" if name in speed else " | "
            for name in SIDES
        )
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['threads']} | {speed['ours']:.3g} | {beside} | "
            f"{processor['ours']:.3g} ({processor['segment_anything']:.3g}) | **{row['processor_ratio']:.2f}x** | "
            f"{row['gflop_per_image']:.4g} | {row['gflop_per_second']['ours']:.0f} | "
            f"{row['matmul_gflop_per_second']:.0f} | "
            f"{row['bound_images_per_second']:.3g} | {row['relative_difference']:.1e} | |"
        )
        notes.append(
            f"- {row['model']}, {row['precision']}: {row['images']} images in batches of {row['batch']}, best of "
            f"{row['repeat']}, attention {row['attention']}, weights {row['weights']}; "
            f"{measured_with(row)}"
        )
    explained = (
        "All sides in one process, taking turns, from the same uint8 images to the embeddings; *difference* is the "
        "largest max|ours - theirs| / max|theirs| over all of them. *bound* is this machine's own matrix-product rate "
        "in the same run divided by the arithmetic an image needs. A load average above the number of threads means "
        "that other programs ran too: then the processor time is the better guide, and best with one thread. "
        "`segment_anything` is SamPredictor in float32, image by image, whatever the row says; the others run in the "
        "row's precision on batches of its size."
    )
    return [*lines, "", explained, "", *notes]


def main() -> None:
    parser = model_options(__doc__, batch=1)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--attention", default="auto")
    options = parser.parse_args()
    device = begin(options)
    path = options.out / f"encode_throughput_{device.type}.json"
    print(record(path, measure(options, device), ("model", "precision", "threads"), markdown))


if __name__ == "__main__":
    main()
