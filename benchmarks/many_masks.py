"""Memory and time of datasets with many objects an image, one mask file an object.

    python benchmarks/many_masks.py
    python benchmarks/many_masks.py --sets slide cell --source OTHER/CHECKOUT --name before

Draws the sets (seeded, discs on a grid, PNG) and runs the commands of a user on each: `casam data check`, `casam encode
--model small`, and with `--fit` a fit of one epoch with its evaluation. Every command is a process of its own, of which
Linux says the largest resident memory, the processor time and the wall time. `torch` is what importing the
package's training takes alone. Wall time depends on what else the machine does; processor time much less.

slides: 6 images of 4096 x 4096 with 280 objects each. cells: 2 images of 2000 x 2000 with 2,500 each. slide and cell
are one image of each, small enough for what holds all masks at once. With `--source` the same commands run from another
checkout, e.g. of an earlier commit, on the same files.

Writes benchmarks/results/many_masks_cpu.json and .md, a row for each set and name.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, measured_with, provenance, record
from PIL import Image, ImageDraw

SETS = {  # images, side, objects, radius
    "slides": (6, 4096, 280, 28),
    "cells": (2, 2000, 2500, 14),
    "slide": (1, 4096, 280, 28),
    "cell": (1, 2000, 2500, 14),
}
CASAM = "import sys; from casam_cli.main import run; sys.argv[0] = 'casam'; run()"
TORCH = "import casam_cache.training.loop"
# The peak of the process itself: what the system adds up for a child begins with that of its parent.
PEAK = """
import atexit, pathlib
def note():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    pathlib.Path({path!r}).write_text(next(line for line in lines if line.startswith("VmHWM")).split()[1])
atexit.register(note)
"""


def draw(folder: Path, images: int, side: int, objects: int, radius: float, seed: int = 0) -> None:
    """`images/N.png`, and `masks/N/K.png` for every object."""
    rng = np.random.default_rng(seed)
    across = math.ceil(math.sqrt(objects))
    step = side / across
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        texture = rng.integers(150, 255, (max(1, side // 8), max(1, side // 8), 3), dtype=np.uint8)
        image = Image.fromarray(texture).resize((side, side))
        masks = folder / "masks" / str(number)
        masks.mkdir(parents=True)
        for index in range(objects):
            row, column = divmod(index, across)
            x, y = ((cell + 0.5) * step + rng.uniform(-3, 3) for cell in (column, row))
            wide, high = rng.uniform(0.7, 1.2, 2) * radius
            box = (x - wide, y - high, x + wide, y + high)
            ImageDraw.Draw(image).ellipse(box, fill=(90, 40, 120))
            mask = Image.new("L", (side, side))
            ImageDraw.Draw(mask).ellipse(box, fill=255)
            mask.save(masks / f"{index:04d}.png", compress_level=1)
        image.save(folder / "images" / f"{number}.png", compress_level=1)


def run(code: str, arguments: list[str], source: Path | None, folder: Path) -> dict[str, float]:
    """Peak resident memory in MiB, processor and wall seconds of `python -c code arguments`.

    Raises:
        SystemExit: it failed.
    """
    environment = dict(os.environ)
    if source is not None:
        environment["PYTHONPATH"] = f"{source}{os.pathsep}{source / 'cli'}"
    start = time.perf_counter()
    output, peak = folder / "output.txt", folder / "peak.txt"
    code = PEAK.format(path=str(peak)) + code
    actions = [
        (os.POSIX_SPAWN_OPEN, stream, str(output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2)
    ]
    command = [sys.executable, "-c", code, *arguments]
    child = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"casam {' '.join(arguments)} failed:\n{output.read_text()}")
    return {
        "peak_mib": round(int(peak.read_text()) / 1024),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(wall, 1),
    }


def measure(
    name: str, shape: tuple[int, int, int, float], options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """What each command takes on one set."""
    root = folder / name
    if not root.is_dir():
        draw(root, *shape)
        time.sleep(4)  # what was just written is not remembered, see `casam_cache.datasets.labels`
    stores, runs, sheet = folder / "stores", folder / "runs", folder / "sheet"
    shutil.rmtree(stores, ignore_errors=True)
    model = [
        "--model",
        "small",
        *([] if options.checkpoint is None else ["--checkpoint", options.checkpoint]),
    ]
    commands = {
        "data check": ["data", "check", str(root), "--sheets", str(sheet)],
        "encode": ["encode", str(root), "--store", str(stores), *model, "--device", options.device],
    }
    if options.fit:
        commands["fit"] = [
            "fit", "--task", name, "--store", str(stores), "--runs", str(runs), "--epochs", "1",
            "--device", options.device,
        ]  # fmt: skip
    found = {"torch": run(TORCH, [], options.source, folder)}
    for title, arguments in commands.items():
        found[title] = run(CASAM, arguments, options.source, folder)
    return found


def page(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Many masks an image, one file an object",
        "",
        "Peak resident memory of the process, processor time, wall time.",
        "",
        "| set | what | | MiB | processor, s | wall, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        images, side, objects, _ = row["shape"]
        title = f"{row['set']}: {images} x {side} x {side}, {objects} objects each"
        for what, each in row["commands"].items():
            figures = f"{each['peak_mib']:.0f} | {each['processor_s']:.1f} | {each['wall_s']:.1f}"
            lines.append(f"| {title} | {what} | {row['name']} | {figures} |")
    return [*lines, "", *(f"{row['set']}, {row['name']}: {measured_with(row)}\n" for row in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=["slides", "cells"], choices=sorted(SETS))
    parser.add_argument("--share", type=float, default=1.0, help="of the side and of the number of objects")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--source", type=Path, help="another checkout whose code is measured")
    parser.add_argument("--name", default="now")
    parser.add_argument("--checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder", type=Path, help="where sets lie or are drawn; by default they are removed again"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many_masks-") as own:
        for name in options.sets:
            images, side, objects, radius = SETS[name]
            share = options.share
            shape = (images, round(side * share), max(1, round(objects * share)), radius * share)
            commands = measure(name, shape, options, options.folder or Path(own))
            made = provenance(torch.device("cpu"))
            for path, shown in ((options.source, "OTHER"), (options.folder, "FOLDER")):
                if path is not None:  # where they lie on this machine says nothing
                    made["command"] = made["command"].replace(str(path), shown)
            row = {"set": name, "name": options.name, "shape": shape, "commands": commands, **made}
            print(record(options.out / "many_masks_cpu.json", row, ("set", "name"), page))


if __name__ == "__main__":
    main()
