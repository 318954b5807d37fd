"""A fit on the CPU with freed memory kept by the process (as `casam` does) against glibc's defaults.

    casam encode ../data/tasks/Kvasir --store STORES
    python benchmarks/freed_memory.py STORES --task Kvasir --model lite_medsam

Both sides fit the same layer in processes of their own, in turn; their weights must be equal, bit for bit. Seconds are
of the clock and of the processor (own and the system's), each the least of the rounds, and memory is the largest that
was resident.

Writes benchmarks/results/freed_memory_cpu.json and .md, a row for each model and number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, measured_with, provenance, record

KEY = ("model", "task", "steps", "threads")


def fitted(options: argparse.Namespace, kept: bool) -> dict[str, Any]:
    """In a process of its own: the fit, then what it took."""
    if kept:
        from casam_cli.freed_memory import keep_freed_memory

        if not keep_freed_memory():
            raise SystemExit("this C library, or the environment, leaves nothing to set")
    from casam_cache import fit_task
    from casam_cache.fingerprint import digest_file

    torch.set_num_threads(options.threads)
    steps = options.steps
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = fit_task(
            options.task, options.stores, Path(folder), model=options.model,
            options=[f"min_steps={steps}", f"max_steps={steps}", "held_out=0"],
        )  # fmt: skip
        seconds = time.perf_counter() - start
        weights = digest_file(Path(report.run) / "head.safetensors")
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds, "user": used.ru_utime, "system": used.ru_stime, "mib": used.ru_maxrss / 1024,
        "weights": weights,
    }  # fmt: skip


def measured(kept: bool) -> dict[str, Any]:
    """The same command as ours in a new process, for one side."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, *sys.argv[1:], "--side", "kept" if kept else "default"]
    done = subprocess.run(command, env=clean, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The page: default against kept."""
    lines = [
        "| model | task | steps | threads | clock, s | ratio | processor, s | of it the system's, s | memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        used = [row[f"user_{side}"] + row[f"system_{side}"] for side in ("default", "kept")]
        lines.append(
            f"| {row['model']} | {row['task']} | {row['steps']} | {row['threads']} "
            f"| {row['seconds_default']} to {row['seconds_kept']} | {row['ratio']} | {used[0]:.1f} to {used[1]:.1f} "
            f"| {row['system_default']} to {row['system_kept']} | {row['mib_default']} to {row['mib_kept']} |"
        )
    notes = [f"{row['model']}: {measured_with(row)}" for row in rows]
    return [
        *lines,
        "",
        "glibc's defaults to freed memory kept; a whole fit with its scoring, imports left out of the clock; the "
        "weights are equal, bit for bit.",
        "",
        *notes,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--model", default="lite_medsam")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("kept", "default"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(fitted(options, options.side == "kept")))
        return
    rounds = [{kept: measured(kept) for kept in (False, True)} for _ in range(options.rounds)]
    if len({side["weights"] for pair in rounds for side in pair.values()}) != 1:
        raise SystemExit("the two sides learnt different weights")
    row: dict[str, Any] = {"model": options.model, "task": options.task, "steps": options.steps}
    row["threads"] = options.threads
    for what in ("seconds", "user", "system"):
        default, kept = (min(pair[kept][what] for pair in rounds) for kept in (False, True))
        row |= {f"{what}_default": round(default, 2), f"{what}_kept": round(kept, 2)}
    row["ratio"] = round(row["seconds_default"] / row["seconds_kept"], 3)
    for kept in (False, True):
        row[f"mib_{'kept' if kept else 'default'}"] = round(max(pair[kept]["mib"] for pair in rounds))
    row |= provenance(torch.device("cpu"))
    print(record(RESULTS / "freed_memory_cpu.json", row, KEY, markdown))


if __name__ == "__main__":
    main()
