"""What training through the image costs beside training from the cache, and after how long encoding once has paid.

    python benchmarks/image_mode_cost.py ../data/tasks/Kvasir --model small --steps 12
    python benchmarks/image_mode_cost.py ../data/tasks/Kvasir --model lite_medsam --steps 3 --batch 2 --images 16

Encodes the dataset (or its first `--images` training and test images), then trains every method on its training split,
in the training loop of `casam fit`, with the same items, batch size and prompts on all sides. Each runs in a process of
its own, one after the other, of which the system says the largest resident memory, and on CUDA torch the largest it
allocated. A step is everything from one optimiser step to the next, reading its inputs included; the first is left out
and the median taken. Options are those of the backbone's own recipe, with a tenth of its learning rate for what changes
pretrained weights.

Paying: encoding the training images once takes E seconds; a method spends s a step through the image, a cached head c.
From E / (s - c) steps on the cache is ahead; in epochs, and in fits of as many steps as the backbone's recipe has. On a
CPU these are processor seconds, which other programs on the machine disturb less; on CUDA they are wall time.

With `--target IOU` a share of the groups is held out, and the table has the time of the steps to the first state that
reaches that IoU on them.

Writes benchmarks/results/image_mode_cost_DEVICE.json and .md, a row for each dataset, model, batch and number of
threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, measured_with, provenance, record

from casam_cache.backbones.devices import choose_device

CACHED = ("alignment", "decoder")
THROUGH = ("sam-decoder", "sam-lora", "msa", "sam-med2d", "sam-full")
NEW = ("alignment",)  # what has no pretrained weights to spoil
HELD_OUT, CHECKS, PRETRAINED = 0.25, 4, 0.1
KEY = ("dataset", "images", "model", "batch", "threads")


def peak_mib(device: torch.device) -> float:
    """The largest memory of this process so far: on CUDA what torch allocated there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def encoded(options: argparse.Namespace) -> dict[str, Any]:
    """Encodes the dataset; seconds of the encoder's part, and bytes of the store."""
    from casam_cache.backbones.registry import load_backbone
    from casam_cache.encode.dataset import encode_dataset
    from casam_cache.encode.options import EncodeOptions

    asked = EncodeOptions(
        model=options.model, checkpoint=options.checkpoint, name="measured", device=options.device,
        batch_size=options.batch if options.device != "cpu" else None,
    )  # fmt: skip
    load_backbone(
        options.model, options.checkpoint
    )  # what is imported and read for the first time is not counted
    began = time.process_time()
    (report,) = encode_dataset(options.data, options.stores, asked)
    processor = time.process_time() - began
    store = Path(report.store)
    return {
        "images": report.encoded,
        "wall_s": report.seconds["total"],
        "processor_s": processor,
        "bytes": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()),
    }


def trained(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Trains one method for a few steps."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from casam_cache.bench.tasks import Tasks
    from casam_cache.config import validated
    from casam_cache.methods.registry import METHODS
    from casam_cache.training.cost import training_flops
    from casam_cache.training.loop import fit_head
    from casam_cache.training.options import TrainingOptions
    from casam_cache.training.pixels import PIXELS

    made = METHODS.get(name)
    tasks = Tasks.open(options.stores, None, options.device)
    (task,) = tasks.names()
    backbone = tasks.place.backbone(task, made.needs)
    usual = backbone.recipe
    method = made(
        validated(made.Options, {key: usual[key] for key in usual.keys() & made.Options.model_fields.keys()})
    )
    items = tasks.place.items(tasks.split(task, "train").ref)
    device = tasks.place.torch_device
    head = method.build(backbone, 0).to(device)
    flops = training_flops(head, backbone)
    pixels = PIXELS in made.needs
    times: list[tuple[float, float]] = []

    def note(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter(), time.process_time()))

    hook = register_optimizer_step_post_hook(note)
    recipe = {key: usual[key] for key in usual.keys() & TrainingOptions.model_fields.keys()}
    recipe |= {
        "batch_size": options.batch, "epochs": 1, "min_steps": options.steps + 1, "max_steps": options.steps + 1,
        "held_out": HELD_OUT if options.target else 0.0, "checks": CHECKS,
    }  # fmt: skip
    if name not in NEW:
        recipe["learning_rate"] = PRETRAINED * recipe.get("learning_rate", TrainingOptions().learning_rate)
    result = fit_head(head, backbone, items, TrainingOptions.model_validate(recipe), seed=0, device=device)
    hook.remove()
    wall, processor = (
        statistics.median(after[part] - before[part] for before, after in pairwise(times)) for part in (0, 1)
    )
    found = {
        "method": name,
        "parameters": head.trained_parameters(),
        "gflop": (flops if pixels else flops - backbone.encoder_flops()) / 1e9,
        "wall_s": wall,
        "processor_s": processor,
        "peak_mib": peak_mib(device),
        "weights": backbone.fingerprint[:20],
        "train_images": len(items),
        "fit_steps": usual.get("max_steps", 0),
    }
    if options.target:
        if result.chosen is None:
            sys.exit("--target needs a training split of eight groups or more, of which some can be held out")
        checks = [[check.step, check.iou] for check in result.chosen.checks]
        reached = next((step for step, iou in checks if iou >= options.target), None)
        found |= {"frozen_iou": result.chosen.frozen, "checks": checks, "steps_to_target": reached}
    return found


def child(options: argparse.Namespace, part: str) -> dict[str, Any]:
    """A part of the measurement in a process of its own."""
    arguments = [
        options.data, "--part", part, "--stores", options.stores, "--model", options.model, "--steps", options.steps,
        "--batch", options.batch, "--device", options.device, "--threads", options.threads,
    ]  # fmt: skip
    for name in ("checkpoint", "target"):
        if getattr(options, name) is not None:
            arguments += [f"--{name}", getattr(options, name)]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{part}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{part}: {found}", file=sys.stderr, flush=True)
    return found


def first_images(data: Path, count: int, into: Path) -> Path:
    """The first images of the training and of the test split in a dataset of their own, by links."""
    from casam_cache.datasets import read_dataset

    dataset = read_dataset(data)
    rows = ["id,split,group"]
    for split in ("train", "test"):
        for sample in [one for one in dataset.samples if one.split == split][:count]:
            for part in ("images", "masks"):
                (into / part).mkdir(parents=True, exist_ok=True)
                for path in sorted((data / part).glob(f"{sample.id}.*")):
                    (into / part / path.name).symlink_to(path.resolve())
            rows.append(f"{sample.id},{split},{sample.group}")
    (into / "split.csv").write_text("\n".join(rows) + "\n")
    return into


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    with tempfile.TemporaryDirectory(prefix="image_mode_cost-") as folder:
        name = options.data.name
        if options.images:
            options.data = first_images(options.data, options.images, Path(folder) / name)
        options.stores = Path(folder) / "stores"
        encoding = child(options, "encode")
        methods = [child(options, part) for part in (*CACHED, *THROUGH)]
    unit = "wall_s" if device.type == "cuda" else "processor_s"
    first = methods[0]
    encoding["train_s"] = encoding[unit] * first["train_images"] / encoding["images"]
    for each in methods:
        against = methods[1] if each["method"] == "sam-decoder" else first
        more = each[unit] - against[unit]
        if each["method"] in THROUGH and more > 0:
            steps = encoding["train_s"] / more
            each["paid"] = {
                "against": against["method"],
                "steps": steps,
                "epochs": steps * options.batch / first["train_images"],
                "fits": steps / first["fit_steps"] if first["fit_steps"] else None,
            }
    return {
        "dataset": name,
        "images": first["train_images"],
        "model": options.model,
        "weights": first["weights"],
        "device": device.type,
        "threads": options.threads,
        "batch": options.batch,
        "steps": options.steps,
        "target": options.target,
        "unit": unit,
        "encode": encoding,
        "methods": methods,
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """A table a row."""
    lines = ["# Training through the image, and from the cache", ""]
    for row in rows:
        encoding = row["encode"]
        an_image = encoding["bytes"] / encoding["images"] / 1e6
        columns = [
            "method", "trained numbers", "GFLOP a sample", "in multiply-adds", "s a step", "processor s a step",
            "peak MiB", "encoding has paid after", *([f"time to IoU {row['target']}"] if row["target"] else []),
        ]  # fmt: skip
        lines += [
            f"## {row['model']} on {row['dataset']}, {row['images']} training images, batches of {row['batch']}",
            "",
            f"Encoding once: {encoding['images']} images in {encoding['wall_s']:.3g} s, "
            f"{encoding['processor_s']:.3g} s of processor with loading the model; {an_image:.3g} MB an image in the "
            f"cache. The training images' share is {encoding['train_s']:.3g} s.",
            "",
            f"| {' | '.join(columns)} |",
            "|---" * len(columns) + "|",
        ]
        lines += [_line(each, row) for each in row["methods"]]
        lines += ["", f"Weights {row['weights']}, {row['steps']} steps; {measured_with(row)}", ""]
    explained = (
        "*GFLOP a sample*: of a training step, forward and backward, a multiplication and an addition as two, the "
        "encoder's passes included where they are made; *in multiply-adds* as one. *encoding has paid after*: steps, "
        "epochs, and fits of the length of the backbone's recipe from which on encoding the training images once and "
        "training from the cache is less work (processor seconds on a CPU, wall time on CUDA) than this method: "
        "against `decoder` for `sam-decoder`, which computes the same, and against `alignment` for the others, which "
        "compute something else. A step is of the batch, the median without the first; peak MiB is of the whole "
        "process with torch (on CUDA what torch allocates)."
    )
    return [*lines, explained]


def _line(each: dict[str, Any], row: dict[str, Any]) -> str:
    paid, unit = each.get("paid"), row["unit"]
    told = "from the cache" if each["method"] in CACHED else "at once"
    if paid:
        fits = "" if paid["fits"] is None else f", {paid['fits']:.2g} fits"
        told = f"{paid['steps']:.3g} steps, {paid['epochs']:.2g} epochs{fits}"
    cells = [
        f"`{each['method']}`", f"{each['parameters']:,}", f"{each['gflop']:.4g}", f"{each['gflop'] / 2:.4g}",
        f"{each['wall_s']:.3g}", f"{each['processor_s']:.3g}", f"{each['peak_mib']:.0f}", told,
    ]  # fmt: skip
    if row["target"]:
        steps = each.get("steps_to_target")
        best = max((iou for _, iou in each.get("checks", ())), default=float("nan"))
        cells.append(
            f"not in {row['steps']} steps ({best:.3f})" if steps is None else f"{steps * each[unit]:.3g} s"
        )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="small")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=12, help="after a first one that does not count")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--images", type=int, help="of each split; all unless given")
    parser.add_argument("--target", type=float, help="IoU on held-out groups to be reached")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--stores", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    options.device = str(device)
    if options.part:
        print(json.dumps(encoded(options) if options.part == "encode" else trained(options, options.part)))
        return
    path = options.out / f"image_mode_cost_{device.type}.json"
    print(record(path, measure(options, device), KEY, markdown))


if __name__ == "__main__":
    main()
