"""micro-sam and ours on the same files: precomputation, the same again, after a kill, prompts, memory, disk.

    python -m venv ~/peer && ~/peer/bin/pip install micro-sam==1.8.14 imageio    # 7 GB
    python benchmarks/micro_sam_peer.py --peer-python ~/peer/bin/python --threads 2

micro-sam is in an environment of its own. Seeded random weights are written as a checkpoint and seeded images as PNG;
each side runs in a process of its own (`micro_sam_sides`), with the same threads and device in float32, and the sides
take turns. micro-sam writes a zarr file an image through `precompute_image_embeddings`, ours a store through
`encode_dataset`.

- *precompute*: from weights and images on disk to embeddings on disk, by image; *process* has the start of Python too.
- *again*: the process once more when everything is there.
- *killed*: the process gets SIGKILL once it says that half of the images are there; run again, it encodes so many.
- *prompts*: a box on an image whose embedding is on disk, and the next one on the same image.

micro-sam stretches each channel to 0 to 255 before it encodes; the images are such that this changes no pixel. Where
embeddings or logits of the two differ by more than float16 rounding explains, there are no figures.

The ratio of precomputation has a floor (`--floor`). Writes benchmarks/results/micro_sam_peer_DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import begin, measured_with, model_options, provenance, record
from encode_throughput import load
from micro_sam_sides import PROMPTS
from PIL import Image

from casam_cache.backbones.sam import backbone_state

FLOOR = 1.0  # of micro-sam's seconds an image over ours
TOLERANCE = {"embedding": 2e-3, "logits": 2e-2}  # of the largest value; the store rounds to float16
SIZES = ((768, 1024), (512, 512), (1200, 900))
SIDES = ("ours", "micro_sam")


def unchanged() -> np.ndarray:
    """The largest value up to each of 0 to 255 that micro-sam's stretching leaves as it is: uint8 (256,)."""
    values = np.arange(256, dtype=np.float32)
    kept = (values / (values.max() + np.float32(1e-7)) * 255).astype(np.uint8) == values
    return np.maximum.accumulate(np.where(kept, np.arange(256), 0)).astype(np.uint8)


def draw(folder: Path, count: int) -> None:
    """Images with a bright ellipse, its mask and its box, for both sides."""
    rng, table = np.random.default_rng(0), unchanged()
    for name in ("images", "masks"):
        (folder / "data" / name).mkdir(parents=True)
    boxes = {}
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        y, x = np.mgrid[:height, :width]
        middle, radii = (
            rng.uniform(0.35, 0.65, 2) * (height, width),
            rng.uniform(0.1, 0.3, 2) * (height, width),
        )
        inside = ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2 <= 1
        pixels = rng.normal(90, 25, (height, width, 3)) + 80 * inside[..., None]
        pixels = table[np.clip(pixels, 0, 255).astype(np.uint8)]
        pixels[0, 0], pixels[-1, -1] = 0, 255
        name = f"image{index:03d}"
        Image.fromarray(pixels).save(folder / "data" / "images" / f"{name}.png")
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "data" / "masks" / f"{name}.png")
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        boxes[name] = [int(v) for v in (columns[0], rows[0], columns[-1], rows[-1])]
    (folder / "boxes.json").write_text(json.dumps(boxes))


class Runner:
    """Runs a side in a process of its own."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._folder = folder
        self._python = {"ours": sys.executable, "micro_sam": str(options.peer_python)}
        self._asked = [
            str(folder), "--checkpoint", str(options.checkpoint), "--model", options.model, "--device", options.device,
            "--threads", str(torch.get_num_threads()),
        ]  # fmt: skip
        threads = {name: str(torch.get_num_threads()) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._environment = {"ours": {**os.environ, **threads}}
        without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._environment["micro_sam"] = {**without, **threads}

    def _start(self, side: str, action: str, *more: str) -> subprocess.Popen[str]:
        command = [self._python[side], str(Path(__file__).with_name("micro_sam_sides.py")), side, action]
        log = (self._folder / f"{side}.log").open("w")
        with log:
            return subprocess.Popen(
                [*command, *self._asked, *more],
                env=self._environment[side],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def run(self, side: str, action: str) -> dict[str, Any]:
        """What it says of itself, and `process`: seconds from the start of Python to its end."""
        began = time.perf_counter()
        process = self._start(side, action)
        said = process.communicate()[0].splitlines()
        if process.returncode or not said:
            words = (self._folder / f"{side}.log").read_text().strip().splitlines()
            sys.exit(f"no figures: {side} failed: {words[-1] if words else 'without a word'}")
        return {**json.loads(said[-1]), "process": time.perf_counter() - began}

    def kill(self, side: str, half: int) -> int:
        """Begins to encode, and ends by SIGKILL once `half` images are said to be there; how many were."""
        process = self._start(side, "encode", "--kill-at", str(half))
        said = process.communicate()[0].splitlines()
        if process.returncode != -signal.SIGKILL:
            sys.exit(f"no figures: {side} was not killed, its exit code is {process.returncode}")
        return int(said[-1])

    def clean(self, side: str) -> None:
        """Removes what a side wrote."""
        shutil.rmtree(self._folder / side, ignore_errors=True)

    def disk(self, side: str) -> dict[str, int]:
        """Bytes of what a side wrote: `zarr`, and `once`, what a folder holds once whatever the number of images."""
        found, root = {"zarr": 0, "once": 0}, self._folder / side
        for path in root.rglob("*"):
            if path.is_file():
                zarr = any(part.endswith(".zarr") for part in path.relative_to(root).parts)
                found["zarr" if zarr else "once"] += path.stat().st_size
        return found


def check_peer(python: Path) -> None:
    """Ends with a line where micro-sam is not in that environment."""
    try:
        done = subprocess.run([str(python), "-c", "import micro_sam"], capture_output=True, text=True)
        reason = "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    except OSError as error:
        reason = str(error)
    if reason:
        sys.exit(
            f"no figures: micro-sam is not in that environment ({reason}): {python} -m pip install micro-sam"
        )


def differences(folder: Path) -> dict[str, float]:
    """Largest max|ours - theirs| / max|theirs| over the images, of embeddings and low-res logits."""
    found = dict.fromkeys(TOLERANCE, 0.0)
    with np.load(folder / "ours.npz") as ours, np.load(folder / "micro_sam.npz") as theirs:
        for name in theirs.files:
            own, other = ours[name].squeeze().astype(np.float64), theirs[name].squeeze().astype(np.float64)
            if own.shape != other.shape:
                sys.exit(f"no figures: {name} is {own.shape} here, {other.shape} in micro-sam")
            part = name.partition("/")[0]
            found[part] = float(np.maximum(found[part], np.abs(own - other).max() / np.abs(other).max()))
    for part, difference in found.items():
        if not difference <= TOLERANCE[part]:
            sys.exit(f"the sides' {part} differ by {difference:.1e} of the largest value: no figures")
    return found


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    times: dict[str, dict[str, list[float]]] = {
        side: {
            "precompute": [],
            "processor": [],
            "process": [],
            "again": [],
            "first": [],
            "next": [],
            "peak": [],
        }
        for side in SIDES
    }
    killed, versions = {}, {}
    gpu: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.checkpoint is None:
            options.checkpoint = folder / "weights.pth"
            torch.save(backbone_state(backbone), options.checkpoint)
        del backbone
        draw(folder, options.images)
        runner = Runner(options, folder)
        for turn in range(options.repeat):
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                runner.clean(side)
                whole = runner.run(side, "encode")
                again, asked = runner.run(side, "encode"), runner.run(side, "prompt")
                if (whole["encoded"], again["encoded"]) != (options.images, 0):
                    sys.exit(f"no figures: {side} encoded {whole['encoded']}, then {again['encoded']} images")
                versions[side] = {**asked["versions"], **whole["versions"]}
                if "gpu_mib" in whole:
                    gpu[side] = round(max(gpu.get(side, 0.0), whole["gpu_mib"]))
                taken = {
                    "precompute": whole["seconds"] / options.images,
                    "processor": whole["processor"] / options.images, "process": whole["process"],
                    "again": again["process"], "first": asked["first"], "next": asked["next"],
                    "peak": whole["peak_mib"],
                }  # fmt: skip
                for name, value in taken.items():
                    times[side][name].append(value)
                print(f"{side}: {whole['seconds']:.1f} s", file=sys.stderr)
        difference = differences(folder)
        disk = {side: runner.disk(side) for side in SIDES}
        for side in SIDES:
            runner.clean(side)
            there = runner.kill(side, options.images // 2)
            killed[side] = {"there": there, "encoded_again": runner.run(side, "encode")["encoded"]}
    best = {side: {name: min(values) for name, values in found.items()} for side, found in times.items()}
    return {
        "model": options.model,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "images": options.images,
        "repeat": options.repeat,
        "seconds": {
            side: {name: round(value, 4) for name, value in found.items() if name != "peak"}
            for side, found in best.items()
        },
        "seconds_of_each_turn": {
            side: [round(value, 3) for value in found["precompute"]] for side, found in times.items()
        },
        "ratio": round(best["micro_sam"]["precompute"] / best["ours"]["precompute"], 3),
        "processor_ratio": round(best["micro_sam"]["processor"] / best["ours"]["processor"], 3),
        "peak_mib": {side: round(max(found["peak"])) for side, found in times.items()},
        **({"gpu_mib": gpu} if gpu else {}),
        "bytes_per_image": {side: found["zarr"] // options.images for side, found in disk.items()},
        "bytes_once": {side: found["once"] for side, found in disk.items()},
        "killed": killed,
        "relative_difference": difference,
        "side_versions": versions,
        **provenance(device),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# micro-sam and ours",
        "",
        "| model | threads | side | precompute, s an image | ratio | processor s an image | ratio | whole process, s | "
        "again, s | first prompt, s | "
        "next prompt, s | peak MiB | MiB an image on disk | killed at, encoded again |",
        "|---" * 14 + "|",
    ]
    notes = []
    for row in rows:
        for side in SIDES:
            seconds, killed = row["seconds"][side], row["killed"][side]
            ratio, of_processor = (
                f"**{row[name]:.2f}x**" if side == "ours" else "" for name in ("ratio", "processor_ratio")
            )
            lines.append(
                f"| {row['model']} | {row['threads']} | {side.replace('_', '-')} | {seconds['precompute']:.3g} | "
                f"{ratio} | {seconds['processor']:.3g} | {of_processor} | "
                f"{seconds['process']:.3g} | {seconds['again']:.3g} | {seconds['first']:.3g} | "
                f"{seconds['next']:.3g} | {row['peak_mib'][side]:,} | {row['bytes_per_image'][side] / 2**20:.3g} | "
                f"{killed['there']} of {row['images']}, {killed['encoded_again']} |"
            )
        sides = "; ".join(
            f"{side.replace('_', '-')} with "
            + ", ".join(f"{name} {version}" for name, version in found.items())
            for side, found in row["side_versions"].items()
        )
        if gpu := row.get("gpu_mib"):
            sides += f"; peak MiB of the GPU {gpu['ours']:,} (ours), {gpu['micro_sam']:,} (micro-sam)"
        once = f"once a folder {row['bytes_once']['ours'] / 2**20:.3g} MiB of ours"
        apart = ", ".join(f"{name} {value:.1e}" for name, value in row["relative_difference"].items())
        notes.append(
            f"- {row['model']}: {row['images']} images, best of {row['repeat']} turns, weights {row['weights']}, "
            f"float32; {sides}; {once}; largest difference: {apart}; {measured_with(row)}"
        )
    explained = (
        "A process for each side, in its own environment, on the same checkpoint and PNG files, taking turns. "
        "*Precompute* is from weights and images on disk to embeddings on disk (micro-sam: float32, a zarr "
        "file an image; ours: float16, a store), *whole process* has the start of Python and its imports too, "
        "*again* is the whole process when everything is there. Other programs on the machine disturb "
        "*processor*, the time of all threads of the precomputation, less than the clock. Prompts: a box on "
        f"an image whose embedding is on disk, and another one on it; the median over images and {PROMPTS} "
        "rounds, from a loaded model. *Killed*: images that were said to be there at SIGKILL, and those that "
        "the next run put through the encoder (ours commits every ten seconds of work, micro-sam each image). "
        "Beside its stores ours keeps the weights of prompt encoder and mask decoder, once a folder; the "
        "column is without them. The environments hold different versions of torch, as their packages ask "
        "for: what that is worth is part of the ratio."
    )
    return [*lines, "", explained, "", *notes]


def main() -> None:
    parser = model_options(__doc__, batch=1)
    parser.set_defaults(model="vit_b", repeat=2)
    parser.add_argument("--peer-python", type=Path, required=True, help="of the environment of micro-sam")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--floor", type=float, default=FLOOR)
    options = parser.parse_args()
    if options.precision != "fp32":
        parser.error("micro-sam encodes in fp32 only")
    check_peer(options.peer_python)
    device = begin(options)
    options.device = str(device)
    row = measure(options, device)
    row["command"] = row["command"].replace(str(options.peer_python), "PYTHON")
    path = options.out / f"micro_sam_peer_{device.type}.json"
    print(record(path, row, ("model", "threads"), markdown))
    if row["ratio"] < options.floor:
        sys.exit(f"below the floor: {row['ratio']:.2f} of micro-sam's speed, {options.floor:g} asked for")


if __name__ == "__main__":
    main()
