"""A folder with all that the GPU day needs on a machine without network; only the standard library is used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from revision import REVISION, revision

ROOT = Path(__file__).parents[1]
EXTRAS = "lite-medsam,benchmarks"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
BESIDE_TORCH = re.compile(r"^(nvidia-|cuda-|triton$|sympy$|mpmath$|networkx$|filelock$|fsspec$)")


def pack(folder: Path, data: Path | None, python: str | None, has: list[str]) -> None:
    """Fills `folder`: `wheels/`, `data/tasks/` and `pack.json`.

    Args:
        folder: new, or of an earlier call, whose wheels are kept.
        data: folder that holds `tasks`.
        python: version on the GPU machine, e.g. "3.12"; None: this one's.
        has: distributions that are installed there; what torch brings along counts as installed with it.

    Raises:
        SystemExit: a wheel cannot be had, or there is no `tasks`.
    """
    if data is not None and not (data / "tasks").is_dir():
        sys.exit(f"{data} holds no folder tasks")
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    for old in wheels.glob("casam_cache-*.whl"):
        old.unlink()
    _pip("wheel", "--no-deps", "--quiet", "--wheel-dir", str(wheels), str(ROOT))
    (own,) = wheels.glob("casam_cache-*.whl")
    wanted = [f"{name}=={version}" for name, version in _resolved(own, python) if not _is_there(name, has)]
    target = [] if python is None else ["--python-version", python]
    for line in wanted:
        print(line, flush=True)
    if wanted:
        _pip(
            "download", "--no-deps", "--quiet", "--only-binary=:all:", *target, "--dest", str(wheels), *wanted
        )
    if data is not None:
        shutil.copytree(data / "tasks", folder / "data" / "tasks", dirs_exist_ok=True)
    told = {"revision": revision(), "python": python, "has": has, "wheels": wanted}
    (folder / "pack.json").write_text(json.dumps(told, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:,.0f} MiB; there: python benchmarks/gpu_day.py run {folder}")


def environment(folder: Path | None) -> dict[str, str]:
    """What the scripts run in: this checkout, then the pack's wheels, unpacked once, then what is installed.

    Raises:
        SystemExit: the wheels are of another Python, or the checkout is at another revision than the pack.
    """
    path = [str(ROOT), str(ROOT / "cli")]
    here = revision()
    if folder is not None:
        told = json.loads((folder / "pack.json").read_text())
        if here and here != told["revision"]:
            sys.exit(f"{folder} was packed at {told['revision']}, this checkout is at {here}: pack again")
        here = told["revision"]
        site = folder.resolve() / f"site-{sys.version_info.major}.{sys.version_info.minor}"
        if not site.is_dir():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                half = Path(scratch) / "site"
                files = sorted(str(wheel) for wheel in (folder / "wheels").glob("*.whl"))
                _pip("install", "--quiet", "--no-index", "--no-deps", "--target", str(half), *files)
                half.rename(site)
        path.append(str(site))
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*path, *others]), REVISION: here}


def _resolved(own: Path, python: str | None) -> list[tuple[str, str]]:
    """Names and versions of what this project needs, as pip chooses them; nothing is installed."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        constraints = Path(scratch) / "constraints.txt"
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("torch==", "torchvision=="))]
        constraints.write_text("\n".join(kept) + "\n")  # the GPU machine's are its own
        target = [] if python is None else ["--python-version", python]
        _pip(
            "install", "--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:", *target, "--target",
            scratch, "--constraint", str(constraints), "--report", str(report), f"{own}[{EXTRAS}]",
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    named = ((entry["metadata"]["name"].lower(), entry["metadata"]["version"]) for entry in found)
    return sorted((name, version) for name, version in named if name != "casam-cache")


def _is_there(name: str, has: list[str]) -> bool:
    return name in has or ("torch" in has and BESIDE_TORCH.match(name) is not None)


def _pip(*arguments: str) -> None:
    done = subprocess.run([*PIP, *arguments])
    if done.returncode:
        sys.exit(f"pip {arguments[0]} ended with {done.returncode}")
