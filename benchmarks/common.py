"""What every benchmark writes beside its figures: where, with what, when and how they were measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from revision import revision

from casam_cache import __version__
from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.devices import choose_device
from casam_cache.fingerprint import finite_json

RESULTS = Path(__file__).parent / "results"


def provenance(device: torch.device, **packages: str) -> dict[str, Any]:
    """Hardware, versions, command and date, as JSON data. The load says whether the machine was ours alone."""
    hardware = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    if device.type == "cuda":
        hardware += f", {torch.cuda.get_device_name(device)}"
    memory = {}
    if device.type == "cuda":
        memory = {"peak_gpu_memory_mib": round(torch.cuda.max_memory_allocated(device) / 2**20)}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "revision": revision(),
        **memory,
        "hardware": hardware,
        "load": round(os.getloadavg()[0], 1),
        "versions": {
            "casam-cache": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            **packages,
        },
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def matmul_gflops(device: torch.device, dtype: torch.dtype, rows: int = 4096, width: int = 1024) -> float:
    """The rate of this device's own matrix product now, GFLOP/s: what a floor in FLOPs is divided by."""
    left = torch.randn(rows, width, device=device, dtype=dtype)
    right = torch.randn(width, 4 * width, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        left @ right
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * width * 4 * width / best / 1e9


def synchronise(device: torch.device) -> None:
    """Wait for what was started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def merge_rows(path: Path, row: dict[str, Any], key: Sequence[str]) -> list[dict[str, Any]]:
    """Put a row into a JSON file of rows, in place of the one with the same key, and return all of them."""
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    names = [[old[part] for part in key] for old in rows]
    own = [row[part] for part in key]
    if own in names:
        rows[names.index(own)] = row
    else:
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return rows


def measured_with(row: dict[str, Any]) -> str:
    """Date, hardware, versions and command of a row that holds its `provenance`, as a note under a table."""
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    if row.get("revision"):
        versions += f", revision {row['revision']}"
    if "peak_gpu_memory_mib" in row:
        versions += f", at most {row['peak_gpu_memory_mib']:,} MiB of GPU memory"
    return f"{row['date']}, {row['hardware']}, load average {row['load']}; {versions}; `{row['command']}`"


def model_options(description: str | None, batch: int) -> argparse.ArgumentParser:
    """The options of every benchmark that runs a model; `batch` images a step unless told otherwise."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small", choices=["small", *ARCHITECTURES])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def begin(options: argparse.Namespace) -> torch.device:
    """Sets the threads asked for; returns the device."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return choose_device(options.device)


def record(
    path: Path, row: dict[str, Any], key: Sequence[str], markdown: Callable[[list[dict[str, Any]]], list[str]]
) -> str:
    """Puts a row into `path` (JSON), writes the table of all rows beside it, and returns the table."""
    table = "\n".join(markdown(merge_rows(path, row, key)))
    path.with_suffix(".md").write_text(table + "\n")
    return table


def write_result(name: Path, made: dict[str, Any], page: Sequence[str]) -> None:
    """Writes NAME.json, null where a number is undefined, and NAME.md beside it.

    Args:
        name: without an ending.
        made: what was measured, with its provenance.
        page: lines of the page.
    """
    name.parent.mkdir(parents=True, exist_ok=True)
    name.with_suffix(".json").write_text(json.dumps(finite_json(made), indent=1) + "\n")
    name.with_suffix(".md").write_text("\n".join(page) + "\n")


def run_on_phantoms(
    description: str | None,
    name: str,
    measure: Callable[[argparse.Namespace, torch.device], dict[str, Any]],
    markdown: Callable[[list[dict[str, Any]]], list[str]],
) -> None:
    """The command line of a benchmark that trains on phantoms: one row into `name`_DEVICE.json, the table printed."""
    parser = model_options(description, batch=6)
    parser.add_argument("--images", type=int, default=24)
    options = parser.parse_args()
    device = begin(options)
    path = options.out / f"{name}_{device.type}.json"
    print(record(path, measure(options, device), ("model", "batch", "precision", "threads"), markdown))
