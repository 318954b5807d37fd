"""`casam doctor`: what this machine has and what will be used."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from casam_cli import console

PACKAGES = ("casam-cache", "torch", "segment-anything", "zarr", "numpy", "pillow", "safetensors")


def doctor(json_: bool = console.JsonOption) -> None:
    """Say what this machine has, and what casam will use of it."""
    report = examine()
    if json_:
        console.print_json(report)
        return
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in report.items():
        if isinstance(value, dict):
            value = "\n".join(f"{key}: {entry}" for key, entry in value.items())
        table.add_row(name, str(value))
    console.out.print(table)


def examine() -> dict[str, Any]:
    """Python, packages, processors, memory, accelerators, checkpoints on disk, and the choices that follow."""
    import torch

    from casam_cache.backbones.devices import choose_device, choose_precision, describe_device
    from casam_cache.backbones.registry import weights_here
    from casam_cache.store.bucket_room import room

    device = choose_device("auto")
    held, limit = room()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "buckets_gib": {"here": round(held / 2**30, 1), "at most": round(limit / 2**30, 1)},
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "mps": bool(torch.backends.mps.is_available()),
        "checkpoints": weights_here(),
        "will_use": {
            "device": describe_device(device),
            "encoder precision": choose_precision("auto", device),
            "store": str(Path("casam_store").resolve()),
            "runs": str(Path("casam_runs").resolve()),
        },
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
