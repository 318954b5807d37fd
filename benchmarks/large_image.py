"""Memory and time of slides that are cut into tiles: encoded, fitted, predicted and stitched.

    python benchmarks/large_image.py
    python benchmarks/large_image.py --side 6000 --tile 512

Draws two slides of SIDE x SIDE and two of a quarter of that side (seeded; rounded cells on a grid, the image a tiled
TIFF compressed as JPEG, as scanners write them, the mask one of numbers, compressed without loss; a tile at a time)
and runs the commands of a user on each pair, one slide for training and one for testing: `casam encode --tile`, `casam
fit`, `casam predict` with a box for each cell, `casam fit --head fcn` and `casam predict` without prompts. Every
command is a process of its own, of which Linux says the largest resident memory, the processor time and the wall time;
`torch` is what importing the package's training takes alone.

Memory is not to grow with the image: exit code 1 where a command on slides takes more than a quarter and 100 MiB beyond
what it takes on those of a quarter of the side, which have a sixteenth of the pixels and of the cells.

What `casam predict` wrote is compared with the true mask a tile at a time, object by object, beside what `casam fit`
says of whole images.

Writes benchmarks/results/large_image_cpu.json and .md, a row a side.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from common import RESULTS, measured_with, provenance, record

from casam_cache.datasets.images import load_array
from casam_cache.datasets.tiles import Grid

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
DRAWN = 512  # side of the tiles of the files
GROWTH, ROOM = 1.25, 100  # share, and MiB


class Slide:
    """A slide of cells on a grid; any rectangle of it can be drawn alone."""

    def __init__(self, side: int, tile: int, seed: int) -> None:
        self.side, self.seed = side, seed
        step = 2 * tile // 5
        self.step, self.across = step, side // step
        rng = np.random.default_rng(seed)
        shape = (self.across, self.across)
        middle = (np.arange(self.across) + 0.5) * step
        self.x = middle[None, :] + rng.uniform(-0.1, 0.1, shape) * step
        self.y = middle[:, None] + rng.uniform(-0.1, 0.1, shape) * step
        self.wide, self.tall = rng.uniform(0.12, 0.34, (2, *shape)) * step
        self.there = rng.random(shape) < 0.6

    def labels(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """uint16 (height, width): numbers of cells from 1, row by row of their grid."""
        found = np.zeros((height, width), np.uint16)
        columns, rows = np.arange(x, x + width), np.arange(y, y + height)
        for row in range(max(0, y // self.step - 1), min(self.across, (y + height) // self.step + 2)):
            for column in range(max(0, x // self.step - 1), min(self.across, (x + width) // self.step + 2)):
                if self.there[row, column]:
                    across = ((columns - self.x[row, column]) / self.wide[row, column]) ** 2
                    down = ((rows - self.y[row, column]) / self.tall[row, column]) ** 2
                    found[across[None, :] + down[:, None] < 1] = row * self.across + column + 1
        return found

    def image(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """uint8 RGB (height, width, 3): stained cells on tissue of patches."""
        rng = np.random.default_rng([self.seed, x, y])
        coarse = rng.integers(-18, 18, (height // 8 + 1, width // 8 + 1, 3))
        tissue = np.array([225, 190, 215]) + np.kron(coarse, np.ones((8, 8, 1), int))[:height, :width]
        stained = np.where(self.labels(x, y, width, height)[..., None] > 0, tissue - [110, 120, 70], tissue)
        return stained.clip(0, 255).astype(np.uint8)

    def boxes(self) -> Iterator[tuple[int, float, float, float, float]]:
        """Number and box of each cell, inside the slide."""
        for row, column in np.argwhere(self.there):
            x, y = self.x[row, column], self.y[row, column]
            wide, tall = self.wide[row, column], self.tall[row, column]
            edges = np.clip(np.round([x - wide, y - tall, x + wide, y + tall]), 0, self.side - 1)
            yield (int(row * self.across + column + 1), *edges.tolist())


def draw(folder: Path, side: int, tile: int) -> None:
    """Two slides with their masks and splits, and prompts for the second."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for seed, name in enumerate(("trained", "tested")):
        slide = Slide(side, tile, seed)
        places = [(x, y) for y in range(0, side, DRAWN) for x in range(0, side, DRAWN)]
        image = (slide.image(x, y, DRAWN, DRAWN) for x, y in places)
        labels = (slide.labels(x, y, DRAWN, DRAWN) for x, y in places)
        tifffile.imwrite(
            folder / "images" / f"{name}.tif", image, shape=(side, side, 3), dtype=np.uint8,
            tile=(DRAWN, DRAWN), photometric="rgb", compression="jpeg",
        )  # fmt: skip
        tifffile.imwrite(
            folder / "masks" / f"{name}.tif", labels, shape=(side, side), dtype=np.uint16,
            tile=(DRAWN, DRAWN), photometric="minisblack", compression="zlib",
        )  # fmt: skip
    (folder / "split.csv").write_text("id,split,group\ntrained,train,trained\ntested,test,tested\n")
    with (folder.parent / "prompts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object", "x0", "y0", "x1", "y1"])
        writer.writerows(slide.boxes())


def run(code: str, arguments: list[str], folder: Path) -> tuple[dict[str, float], str]:
    """Peak resident memory in MiB, processor and wall seconds of `python -c code arguments`, and what it printed.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    printed, said, peak = folder / "printed.txt", folder / "said.txt", folder / "peak.txt"
    actions = [
        (os.POSIX_SPAWN_OPEN, stream, str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream, path in ((1, printed), (2, said))
    ]
    command = [sys.executable, "-c", PEAK.format(path=str(peak)) + code, *arguments]
    child = os.posix_spawn(sys.executable, command, dict(os.environ), file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"casam {' '.join(arguments)} failed:\n{said.read_text()[-2000:]}")
    measured = {
        "peak_mib": round(int(peak.read_text()) / 1024),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(wall, 1),
    }
    return measured, printed.read_text()


def measure(side: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What each command takes on slides of one side, and how good what it made is."""
    root, stores, runs = folder / "slides", folder / "stores", folder / "runs"
    drawing = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
    drawing += f"from large_image import draw; draw(Path({str(root)!r}), {side}, {options.tile})"
    model = [
        "--model",
        "small",
        *([] if options.checkpoint is None else ["--checkpoint", str(options.checkpoint)]),
    ]
    common = [
        "--task",
        "slides",
        "--store",
        str(stores),
        "--runs",
        str(runs),
        "--device",
        options.device,
        "--json",
    ]
    tested = str(root / "images" / "tested.tif")
    commands: dict[str, dict[str, float]] = {}

    def casam(title: str, *arguments: str) -> dict[str, Any]:
        commands[title], printed = run(CASAM, list(arguments), folder)
        print(f"{side}: {title} {commands[title]}", file=sys.stderr)
        found: dict[str, Any] = json.loads(printed)
        return found

    commands["torch"], _ = run(TORCH, [], folder)
    commands["drawing"], _ = run(drawing, [], folder)
    tiles = ["--tile", str(options.tile), "--overlap", str(options.overlap)]
    encoded = casam(
        "encode", "encode", str(root), "--store", str(stores), *model, *tiles, "--masks", "instances",
        "--device", options.device, "--json",
    )["tasks"][0]  # fmt: skip
    fitted = casam("fit", "fit", *common, *options.fit)
    predicted = casam(
        "predict, a box a cell", "predict", tested, "--run", fitted["run"], "--prompts", str(folder / "prompts.csv"),
        "--out", str(folder / "cells.tif"), "--device", options.device, "--json",
    )  # fmt: skip
    head = casam("fit --head fcn", "fit", *common, "--head", "fcn", *options.head)
    mapped = casam(
        "predict, without prompts", "predict", tested, "--run", head["run"], "--out", str(folder / "map.tif"),
        "--device", options.device, "--json",
    )  # fmt: skip
    slide = Slide(side, options.tile, 1)
    return {
        "side": side, "tile": options.tile, "overlap": options.overlap, "slides": 2,
        "files_mib": round(sum(path.stat().st_size for path in root.rglob("*.tif")) / 2**20),
        "encoded": encoded["encoded"], "masks": encoded["masks"], "commands": commands,
        "tiles": {"masks": fitted["test"]["masks"], "frozen": fitted["frozen"]["iou"], "fitted": fitted["test"]["iou"]},
        "whole": {
            "objects": fitted["whole_images"]["fitted"]["masks"],
            "frozen": fitted["whole_images"]["frozen"]["iou"], "fitted": fitted["whole_images"]["fitted"]["iou"],
        },
        "written": {"objects": len(predicted["objects"]), "iou": written_iou(slide, folder / "cells.tif")},
        "map": {"tiles": mapped["tiles"]["count"], "iou": head["whole_images"][0]["iou"]["mean"]},
    }  # fmt: skip


def written_iou(slide: Slide, path: Path) -> float:
    """Mean IoU of the cells in the label map that was written, a tile at a time."""
    count = slide.across**2 + 1
    both, wanted, found = np.zeros((3, count), np.int64)
    for tile in Grid(2048, 0).tiles((slide.side, slide.side)):
        truth = slide.labels(*tile.box)
        labels = load_array(path.with_name(f"{path.name}#tile={','.join(map(str, tile.box))}"))
        wanted += np.bincount(truth.ravel(), minlength=count)
        found += np.bincount(labels.ravel(), minlength=count)
        both += np.bincount(truth[truth == labels], minlength=count)
    own = np.flatnonzero(wanted[1:]) + 1
    return float(np.mean(both[own] / (wanted[own] + found[own] - both[own])))


def grown(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each command whose memory grows with the slides."""
    small, large = sorted(rows, key=lambda row: row["side"])
    lines = []
    for title, taken in large["commands"].items():
        before = small["commands"][title]["peak_mib"]
        if taken["peak_mib"] > GROWTH * before + ROOM:
            lines.append(
                f"{title}: {before} MiB at {small['side']}, {taken['peak_mib']} MiB at {large['side']}"
            )
    return lines


def page(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Slides cut into tiles",
        "",
        "Peak resident memory of the process, processor time and wall time of each command, on two slides (one for "
        "training, one for testing).",
        "",
        "| slides | tiles | command | MiB | processor, s | wall, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["side"]):
        name = f"{row['side']:,} x {row['side']:,}"
        for title, taken in row["commands"].items():
            figures = " | ".join(str(taken[part]) for part in ("peak_mib", "processor_s", "wall_s"))
            lines.append(
                f"| {name} | {row['encoded']} of {row['tile']}, overlap {row['overlap']} | {title} | {figures} |"
            )
    lines += [
        "",
        "Mean IoU, percent: of the pieces of cells in tiles and of whole cells, as `casam fit` scores them, of the "
        "cells in the TIFF that `casam predict` wrote, and of all cells as one class without prompts, in the whole "
        "slide.",
        "",
        "| slides | pieces | frozen | fitted | cells | frozen | fitted | written | without prompts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["side"]):
        tiles, whole = row["tiles"], row["whole"]
        shares = [tiles["frozen"], tiles["fitted"], whole["frozen"], whole["fitted"], row["written"]["iou"]]
        one, two, three, four, five = (f"{100 * share:.1f}" for share in shares)
        name = f"{row['side']:,} x {row['side']:,}"
        lines.append(
            f"| {name} | {tiles['masks']:,} | {one} | {two} | {whole['objects']:,} | {three} "
            f"| {four} | {five} | {100 * row['map']['iou']:.1f} |"
        )
    for row in sorted(rows, key=lambda row: row["side"]):
        lines += ["", f"- {row['side']:,}: {row['files_mib']:,} MiB of files; {measured_with(row)}"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--overlap", type=int, default=256)
    parser.add_argument(
        "--fit", action="append", default=[], help="a further option of casam fit: --fit=--epochs=1"
    )
    parser.add_argument("--head", action="append", default=[], help="a further option of casam fit --head")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for side in (options.side // 4, options.side):
        with tempfile.TemporaryDirectory() as folder:
            row = {**measure(side, options, Path(folder)), **provenance(torch.device("cpu"))}
        rows.append(row)
        table = record(options.out / "large_image_cpu.json", row, ("side", "tile"), page)
    print(table)
    wrong = grown(rows)
    for line in wrong:
        print(f"memory grows with the slides: {line}", file=sys.stderr)
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
