"""Where the time goes in encoding and in a training step: upstream's way beside ours, by kind of operation.

    python benchmarks/profile_time.py --model small
    python benchmarks/profile_time.py --model vit_b --batch 1

*encode* is one batch through the encoder: `segment_anything`'s own, and ours. *fit* is one step of the Alignment Layer
from embeddings in memory: image after image through upstream's prompt encoder and decoder, as its predictor does it,
and ours, prompts embedded once and the decoder run over all images at once. Both sides are checked to compute the same:
embeddings, and the gradients of the head, within 1e-4 of the largest value.

Times are the profiler's own times of operations on the device, best of the repetitions; what Python does between them
is not in them, so the seconds without the profiler stand beside. Writes benchmarks/results/profile_time_DEVICE.json
and .md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import begin, measured_with, model_options, provenance, record, synchronise
from encode_throughput import draw, load, ours
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.prompts import Prompts
from casam_cache.heads.base import run_head
from casam_cache.heads.files import build_head

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from upstream_sam import upstream_sam

KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "convolution", "aten::linear"),
    "fused attention": ("scaled_dot_product", "flash", "efficient_attention"),
    "softmax": ("softmax",),
    "norms": ("norm", "aten::rsqrt", "aten::var", "aten::mean", "aten::pow"),
    "moving data": (
        "copy", "clone", "cat", "contiguous", "index", "fill", "zero", "constant_pad", "empty", "gather", "roll",
        "select_backward", "slice_backward",
    ),
}  # fmt: skip
REST = "element by element, and the rest"


def kind_of(name: str) -> str:
    """The kind of an operation by its name in the profile."""
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return REST


def profiled(run: Callable[[], object], device: torch.device, repeat: int) -> tuple[float, dict[str, float]]:
    """Seconds of a call without the profiler, and the seconds of its operations by kind."""
    run()
    clock = []
    for _ in range(repeat):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        clock.append(time.perf_counter() - start)
    kinds: dict[str, float] = {}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    for _ in range(repeat):
        with profile(activities=activities) as recorded:
            run()
            synchronise(device)
        found = dict.fromkeys([*KINDS, REST], 0.0)
        for event in recorded.key_averages():
            if event.device_type != torch.autograd.DeviceType.CPU:
                continue  # a kernel, whose time its operation has already
            own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            found[kind_of(event.key)] += own / 1e6
        if not kinds or sum(found.values()) < sum(kinds.values()):
            kinds = found
    return min(clock), kinds


def sides(options: argparse.Namespace, device: torch.device) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """What to profile: part -> before and after -> a call that returns what must be the same."""
    backbone, options.weights = load(options, device)
    encoder, sam = FrozenEncoder(backbone, options.precision), upstream_sam(backbone).to(device)
    images = draw(options.batch)
    embedding = ours(encoder, images).float()
    side, grid = backbone.image_size, backbone.grid
    box = torch.tensor([[side * 0.2, side * 0.2, side * 0.7, side * 0.6]], device=device)
    with torch.no_grad():
        sparse, dense = backbone.embed_prompts(Prompts(boxes=box))
        sparse, dense = (part.expand(options.batch, *part.shape[1:]).contiguous() for part in (sparse, dense))
        place = sam.prompt_encoder.get_dense_pe()
    pixels = torch.zeros((options.batch, 3, side, side), device=device)
    sizes = torch.full((options.batch, 2), side, device=device)
    shown = pixels.to(torch.uint8)
    head = build_head("alignment", None, backbone, seed=0).to(device).train()
    target = torch.zeros((options.batch, 4 * grid, 4 * grid), device=device)
    target[:, grid : 2 * grid, grid : 2 * grid] = 1

    def gradients(low_res: Tensor) -> Tensor:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(low_res, target)
        found = torch.autograd.grad(loss, list(head.trained()))
        return torch.cat([part.flatten() for part in found])

    def one_by_one() -> Tensor:
        masks = []
        for image in embedding:
            asked, spread = sam.prompt_encoder(points=None, boxes=box, masks=None)
            low_res, _ = sam.mask_decoder(
                image_embeddings=head(image[None]),
                image_pe=place,
                sparse_prompt_embeddings=asked,
                dense_prompt_embeddings=spread,
                multimask_output=False,
            )
            masks.append(low_res[:, 0])
        return gradients(torch.cat(masks))

    def together() -> Tensor:
        return gradients(run_head(head, backbone, {"embedding": embedding}, None, sparse, dense)[1][:, 0])

    def upstream_encoder() -> Tensor:
        with torch.inference_mode():
            found: Tensor = sam.image_encoder(backbone.normalise(shown, sizes))
            return found

    return {
        "encode": {"before": upstream_encoder, "after": lambda: encoder(shown, sizes)["embedding"]},
        "fit": {"before": one_by_one, "after": together},
    }


def measure(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row for encode and one for fit."""
    rows = []
    for part, ways in sides(options, device).items():
        first, second = (way().float() for way in ways.values())
        difference = float((first - second).abs().max() / first.abs().max())
        if difference > 1e-4:
            sys.exit(f"{part}: the two sides differ by {difference:.1e} of the largest value: no figures")
        found = {name: profiled(way, device, options.repeat) for name, way in ways.items()}
        rows.append(
            {
                "part": part,
                "model": options.model,
                "precision": options.precision,
                "threads": torch.get_num_threads(),
                "weights": options.weights,
                "batch": options.batch,
                "repeat": options.repeat,
                "seconds": {name: round(clock, 5) for name, (clock, _) in found.items()},
                "kinds": {
                    name: {k: round(v, 5) for k, v in kinds.items()} for name, (_, kinds) in found.items()
                },
                "difference": difference,
                **provenance(device),
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    columns = [*KINDS, REST]
    lines = [
        "# Where the time goes",
        "",
        f"| model | part | batch | threads | side | seconds | {' | '.join(columns)} |",
        "|---|---|---|---|---|---|" + "---|" * len(columns),
    ]
    notes = []
    for row in rows:
        for side, seconds in row["seconds"].items():
            kinds = row["kinds"][side]
            whole = sum(kinds.values())
            cells = [f"{kinds[name]:.3g} s ({100 * kinds[name] / whole:.0f} %)" for name in columns]
            lines.append(
                f"| {row['model']} | {row['part']} | {row['batch']} | {row['threads']} | {side} | **{seconds:.3g}** | "
                f"{' | '.join(cells)} |"
            )
        notes.append(
            f"- {row['model']}, {row['part']}, {row['precision']}: best of {row['repeat']}, weights {row['weights']}, "
            f"sides apart by {row['difference']:.1e} of the largest value; {measured_with(row)}"
        )
    explained = (
        "*before* is `segment_anything` itself: its encoder; and for *fit* its prompt encoder and decoder, image after "
        "image, under the same Alignment Layer. *seconds* are without the profiler; the rest is the profiler's own "
        "time of each kind of operation, with its share of their sum."
    )
    return [*lines, "", explained, "", *notes]


def main() -> None:
    options = model_options(__doc__, batch=6).parse_args()
    device = begin(options)
    if options.precision != "fp32":
        sys.exit("upstream's side runs in fp32 only: a profile of bf16 would compare two things")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    path, table = options.out / f"profile_time_{device.type}.json", ""
    for row in measure(options, device):
        table = record(path, row, ("part", "model", "batch", "precision", "threads"), markdown)
    print(table)


if __name__ == "__main__":
    main()
