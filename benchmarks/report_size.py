"""A report of many test masks: seconds to write, bytes, and how a browser opens and scrolls its page of masks.

    python benchmarks/report_size.py
    python benchmarks/report_size.py --masks 400

Draws a set (seeded: discs on a grid, 20 objects an image of 256 x 256, 24 training images more), encodes it, fits two
steps and scores every test mask, none of which is timed. `casam report --html` is, in a process of its own. Then a real
browser (Playwright, and the Chromium on the path) opens `masks.html` from disk: time from the navigation to the first
tiles, and to all of the page's scripts; and, while it scrolls through all masks at 2,400 pixels a second for as long as
`--scroll` says, the frames that took longer than 50 ms and the longest one. Without a browser these stay blank.

Writes benchmarks/results/report_size_cpu.json and .md, a row for each number of masks.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, measured_with, provenance, record
from PIL import Image, ImageDraw

EACH, SIDE, TRAIN = 20, 256, 24
SLOW = 50.0  # ms, what is seen as a stall
CASAM = "import sys; from casam_cli.main import run; sys.argv[0] = 'casam'; run()"
SCROLL = """async ([seconds, speed]) => {
  const frames = [];
  await new Promise((done) => {
    const began = performance.now();
    let last = began;
    const step = (now) => {
      frames.push(now - last);
      last = now;
      scrollBy(0, speed * frames[frames.length - 1] / 1000);
      if (now - began > 1000 * seconds) done();
      else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  });
  return frames;
}"""


def draw(folder: Path, images: int, seed: int = 0) -> None:
    """`images/`, `masks/` (a label an object) and split.csv, an image a group."""
    rng = np.random.default_rng(seed)
    across = math.ceil(math.sqrt(EACH))
    step = SIDE / across
    lines = ["id,split,group"]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(images + TRAIN):
        texture = rng.integers(120, 220, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        image, labels = Image.fromarray(texture).resize((SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
        for index in range(EACH):
            row, column = divmod(index, across)
            x, y = ((cell + 0.5) * step + rng.uniform(-4, 4) for cell in (column, row))
            wide, high = rng.uniform(0.2, 0.4, 2) * step
            box = (x - wide, y - high, x + wide, y + high)
            ImageDraw.Draw(image).ellipse(box, fill=(90, 40, 120))
            ImageDraw.Draw(labels).ellipse(box, fill=index + 1)
        image.save(folder / "images" / f"{number:05d}.png", compress_level=1)
        labels.save(folder / "masks" / f"{number:05d}.png", compress_level=1)
        lines.append(f"{number:05d},{'train' if number < TRAIN else 'test'},g{number}")
    (folder / "split.csv").write_text("\n".join(lines) + "\n")


def casam(folder: Path, *arguments: object) -> float:
    """Seconds that a command took.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    command = [sys.executable, "-c", CASAM, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"casam {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return time.perf_counter() - start


def browse(page: Path, scroll: float) -> dict[str, Any] | None:
    """Milliseconds to open, and of the frames while scrolling; None without a browser."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    if found is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        opened.goto(page.as_uri(), wait_until="commit")
        opened.wait_for_selector(".tile .line", state="attached")
        first = time.perf_counter() - start
        opened.wait_for_load_state("load")
        whole = time.perf_counter() - start
        frames = opened.evaluate(SCROLL, [scroll, 2400])
        tiles = opened.locator(".tile").count()
        version = browser.version
        browser.close()
    return {
        "browser": f"Chromium {version}, headless",
        "first_tiles_ms": round(1000 * first),
        "loaded_ms": round(1000 * whole),
        "frames": len(frames),
        "median_ms": round(float(np.median(frames)), 1),
        "slow_frames": sum(frame > SLOW for frame in frames),
        "longest_ms": round(max(frames), 1),
        "tiles": tiles,
    }


def page(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# A report of many test masks",
        "",
        f"Discs, {EACH} an image of {SIDE} x {SIDE}. Slow frames: longer than {SLOW:.0f} ms, while scrolling.",
        "",
        "| masks | written in, s | MB | files | first tiles, ms | loaded, ms | frames | median, ms | slow"
        " | longest, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seen = row["browser"]
        told = ("first_tiles_ms", "loaded_ms", "frames", "median_ms", "slow_frames", "longest_ms")
        cells = [str(seen[name]) for name in told] if seen else [""] * len(told)
        written = (
            f"{row['masks']:,}",
            f"{row['seconds']:.0f}",
            f"{row['megabytes']:.1f}",
            f"{row['files']:,}",
        )
        lines.append(f"| {' | '.join([*written, *cells])} |")
    return [*lines, "", *(f"{row['masks']:,}: {measured_with(row)}\n" for row in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--masks", type=int, default=20_000)
    parser.add_argument("--scroll", type=float, default=20.0, help="seconds")
    parser.add_argument("--checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    images = math.ceil(options.masks / EACH)
    with tempfile.TemporaryDirectory(prefix="report_size-") as own:
        folder = Path(own)
        draw(folder / "discs", images)
        model = [
            "--model",
            "small",
            *([] if options.checkpoint is None else ["--checkpoint", options.checkpoint]),
        ]
        device = ["--device", options.device]
        casam(folder, "encode", "discs", *model, "--masks", "instances", *device)
        casam(folder, "fit", "--task", "discs", "--set", "max_steps=2", "--set", "held_out=0", *device)
        seconds = casam(folder, "report", "casam_runs", "--html", "report")
        files = [path for path in (folder / "report").rglob("*") if path.is_file()]
        row = {
            "masks": images * EACH,
            "seconds": round(seconds, 1),
            "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
            "files": len(files),
            "browser": browse(folder / "report" / "masks.html", options.scroll),
            **provenance(torch.device("cpu")),
        }
        print(record(options.out / "report_size_cpu.json", row, ("masks",), page))


if __name__ == "__main__":
    main()
