"""What every benchmark writes beside its figures: where, with what, when and how they were measured."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from casam_cache import __version__

RESULTS = Path(__file__).parent / "results"


def provenance(device: torch.device, **packages: str) -> dict[str, Any]:
    """Hardware, versions, command and date, as JSON data. The load says whether the machine was ours alone."""
    hardware = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    if device.type == "cuda":
        hardware += f", {torch.cuda.get_device_name(device)}"
    return {
        "date": time.strftime("%Y-%m-%d"),
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
