"""Fits of every task with the paper's recipe on one GPU, and how long a bench takes with several processes on it.

    python benchmarks/gpu_fits.py --data DATA --scratch DIR --device cuda
    python benchmarks/gpu_fits.py --data DATA --scratch DIR --device cuda --jobs 1 2 4 8

DATA holds the folder `tasks`; without it phantoms are drawn. Stores and runs stay in DIR: what was cut short goes on,
and each task's row is written as soon as it is there. *Memory* is the most that torch held on the GPU during the fit
and its scoring. With `--jobs` the same `casam bench` of CA-SAM runs once with each number of processes, in a folder of
runs of its own; all must say the same Last-IoU within 0.01.

Writes benchmarks/results/gpu_fits_DEVICE.json and .md, or gpu_jobs_DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, measured_with, provenance, record

from casam_cache.backbones.devices import choose_device
from casam_cache.bench.fit import fit_task
from casam_cache.datasets import find_tasks
from casam_cache.datasets.phantoms import write_phantoms
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions

SAME = 0.01


def stores_of(options: argparse.Namespace) -> tuple[Path, list[str], float]:
    """Folder of stores, the tasks, and the images a second of those that were encoded now (0: none)."""
    data = options.data or options.scratch / "drawn"
    if options.data is None and not data.exists():
        write_phantoms(data, seed=0, images_per_task=options.images)
    asked = EncodeOptions(model=options.model, device=options.device)
    roots = find_tasks(data / "tasks")[: options.tasks]
    reports = [encode_dataset(root, options.scratch / "stores", asked)[0] for root in roots]
    seconds = sum(report.seconds.get("total", 0.0) for report in reports)
    rate = sum(report.encoded for report in reports) / seconds if seconds else 0.0
    return options.scratch / "stores", [report.task for report in reports], rate


def fit(options: argparse.Namespace, device: torch.device, path: Path) -> str:
    """Every task, a row each."""
    stores, tasks, rate = stores_of(options)
    table = ""
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    written = {(row["task"], row["model"], row["recipe"]) for row in rows}
    for task in tasks:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = time.monotonic()
        report = fit_task(
            task, stores, options.scratch / "runs", model=options.model, recipe=options.recipe, options=options.set,
            device=options.device,
        )  # fmt: skip
        if not report.computed and (task, options.model, options.recipe) in written:
            continue  # timed in an earlier call
        row = {
            "task": task, "model": options.model, "recipe": options.recipe, "set": options.set, "steps": report.steps,
            "seconds": round(time.monotonic() - start, 2) if report.computed else None,
            "seconds_per_step": report.step_seconds, "encoded_images_per_second": round(rate, 2) or None,
            "frozen": report.frozen["iou"].mean, "fitted": report.test["iou"].mean,
            **provenance(device),
        }  # fmt: skip
        table = record(path, row, ("task", "model", "recipe"), fits_page)
    return table


def fits_page(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# Fits on a GPU",
        "",
        "| task | recipe | steps | s a step | s with scoring | peak GPU memory, MiB | frozen IoU | fitted IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in rows:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.4g}"
        lines.append(
            f"| {row['task']} | {row['recipe']} | {row['steps']} | {row['seconds_per_step']:.4g} | {seconds} | "
            f"{row.get('peak_gpu_memory_mib', '')} | {100 * row['frozen']:.2f} | {100 * row['fitted']:.2f} |"
        )
        rate = row["encoded_images_per_second"]
        encoded = f", encoded with the others at {rate:.4g} images/s" if rate else ""
        notes.append(f"- {row['task']}: {row['model']}{encoded}; {measured_with(row)}")
    return [*lines, "", *notes]


def bench(options: argparse.Namespace, device: torch.device, path: Path) -> str:
    """The same bench with each number of processes."""
    stores, tasks, _ = stores_of(options)
    table, last = "", list[float]()
    for jobs in options.jobs:
        runs = options.scratch / f"runs-of-{jobs}-jobs"
        shutil.rmtree(runs, ignore_errors=True)
        code = "from casam_cli.main import run; run()"
        command = [
            sys.executable, "-c", code, "bench", "--methods", "ca-sam", "--tasks", ",".join(tasks), "--order",
            ",".join(tasks), "--store", str(stores), "--runs", str(runs), "--model", options.model, "--device",
            options.device, "--jobs", str(jobs), "--epochs", "1", "--unseen", "none", "--json",
            *(part for entry in options.set for part in ("--set", entry)),
        ]  # fmt: skip
        start = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"casam bench --jobs {jobs} ended with {done.returncode}")
        (found,) = json.loads(done.stdout)["results"]
        last.append(found["last_iou"])
        if max(last) - min(last) > SAME:
            sys.exit(f"the benches differ: Last-IoU {last}: no figures")
        row = {
            "jobs": jobs, "model": options.model, "tasks": len(tasks), "seconds": round(time.monotonic() - start, 1),
            "last_iou": found["last_iou"], **provenance(device),
        }  # fmt: skip
        row.pop("peak_gpu_memory_mib", None)  # of this process, which waits
        table = record(path, row, ("jobs", "model", "tasks"), jobs_page)
        shutil.rmtree(runs)
    return table


def jobs_page(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = ["# `casam bench --jobs` on one GPU", "", "| jobs | tasks | s | Last-IoU |", "|---|---|---|---|"]
    lines += [
        f"| {row['jobs']} | {row['tasks']} | {row['seconds']:.4g} | {100 * row['last_iou']:.2f} |"
        for row in rows
    ]
    notes = [f"- {row['jobs']} jobs: {row['model']}, CA-SAM, one epoch; {measured_with(row)}" for row in rows]
    return [*lines, "", *notes]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--model", default="lite_medsam")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tasks", type=int, help="only so many")
    parser.add_argument("--images", type=int, default=24, help="of a drawn task")
    parser.add_argument("--jobs", type=int, nargs="+", help="time benches instead")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = choose_device(options.device)
    options.scratch.mkdir(parents=True, exist_ok=True)
    run, name = (bench, "gpu_jobs") if options.jobs else (fit, "gpu_fits")
    print(run(options, device, options.out / f"{name}_{device.type}.json"))


if __name__ == "__main__":
    main()
