"""The encoder of LiteMedSAM: ours against upstream's own modules, on the same images, in one run.

    python benchmarks/tinyvit_speed.py
    python benchmarks/tinyvit_speed.py --device cuda --images 32

Upstream encodes image after image with all threads, and once as many images at a time as there are threads, one each,
which its authors' scripts do not do; on a GPU once as one batch. Ours encodes a batch as `casam encode` does. Sides
take turns; the embeddings must agree to 1e-5 of the largest value (1e-4 on a GPU), or there are no figures. The floor
is the arithmetic of an image at the rate of this machine's own float32 products.

Writes benchmarks/results/tinyvit_speed_DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, matmul_gflops, measured_with, provenance, synchronise
from torch import Tensor

from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.registry import load_backbone

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from upstream_lite import upstream_lite

TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8, help="in a batch")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device, threads = choose_device(options.device), torch.get_num_threads()
    on_gpu = device.type != "cpu"
    backbone = load_backbone("lite_medsam", device=device)
    encoder = FrozenEncoder(backbone)
    with upstream_lite() as modeling:
        reference = modeling.build_lite_medsam()
    reference.load_state_dict(torch.load(backbone.checkpoint, weights_only=True))
    theirs = reference.eval().to(device).image_encoder
    side, count = backbone.image_size, options.images
    drawn = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    pixels, sizes = torch.from_numpy(drawn), torch.full((count, 2), side)
    images = backbone.normalise(pixels.to(device), sizes.to(device))

    @torch.inference_mode()
    def one(image: Tensor) -> Tensor:
        return theirs(image)

    def upstream() -> Tensor:
        return torch.cat([one(image) for image in images.split(1)])

    def upstream_side_by_side() -> Tensor:
        def alone(image: Tensor) -> Tensor:
            torch.set_num_threads(1)
            return one(image)

        try:
            with ThreadPoolExecutor(threads) as pool:
                return torch.cat(list(pool.map(alone, images.split(1))))
        finally:
            torch.set_num_threads(threads)

    def ours() -> Tensor:
        return encoder(pixels, sizes)["embedding"]

    together = {"upstream, one batch": lambda: one(images)} if on_gpu else {}
    cores = {} if on_gpu else {"upstream, an image a core": upstream_side_by_side}
    sides = {"upstream": upstream, **cores, **together, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    before = torch.backends.cudnn.allow_tf32  # ours computes without: the same for both
    torch.backends.cudnn.allow_tf32 = False
    expected = upstream()
    difference = float((ours() - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE * (10 if on_gpu else 1):
        raise SystemExit(f"the embeddings differ by {difference:.1e} of the largest value")
    rates = []
    for _ in range(options.repeat):
        rates.append(matmul_gflops(device, torch.float32))
        for name, run in sides.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            seconds[name].append((time.perf_counter() - start) / count)
    torch.backends.cudnn.allow_tf32 = before
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = backbone.encoder_flops() / 1e9 / max(rates)
    made = {
        **provenance(device), "images": count, "repeat": options.repeat, "weights": backbone.fingerprint,
        "seconds_an_image": seconds, "medians": medians, "difference": difference,
        "gflop": backbone.encoder_flops() / 1e9,
        "product_gflops": max(rates), "floor": floor,
    }  # fmt: skip
    lines = ["| encoder | seconds an image, median | upstream / this |", "|---|---|---|"]
    lines += [
        f"| {name} | {value:.3g} | {medians['upstream'] / value:.2f} |" for name, value in medians.items()
    ]
    lines += [
        f"| floor: {made['gflop']:.1f} GFLOP at {made['product_gflops']:.0f} GFLOP/s | {floor:.3g} | "
        f"{medians['upstream'] / floor:.2f} |",
        "",
        f"Embeddings agree within {difference:.1e} of the largest value. {measured_with(made)}",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"tinyvit_speed_{device.type}.json"
    path.write_text(json.dumps(made, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
