"""How many designs an hour `casam search` tries on one task, and what the search itself costs beside the fits.

    python benchmarks/search_speed.py --store casam_store --task KIDNEY --model lite_medsam --trials 60

Points of affine and depthwise Alignment Layers, with pruning, in `--jobs` processes of a thread each. Every stage
records its own seconds. What a process spends beyond them is the machinery: suggesting, journals, plans, records, and a
wait at the end of a round for the other process; a run in one process, which waits for nobody, leaves that out.
The same search again must compute nothing.

Floors: 100 trials an hour, 5 % of machinery in one process. Writes benchmarks/results/search_speed_cpu.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, measured_with, provenance, write_result

from casam_cache.engine.runs import read_record
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import open_split

SPACE = """\
kind: [affine, depthwise]
blocks: {values: [1, 2, 3], when: {kind: [depthwise]}}
learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
"""
CASAM = "import sys; from casam_cli.main import run; sys.argv[0] = 'casam'; run()"
TRIALS_AN_HOUR, MACHINERY = 100, 0.05  # floors


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Rows of one process, of `--jobs`, and of the latter again."""
    (store,) = (options.store / options.task).glob(f"{options.model or '*'}.zarr")
    images = len(list(open_split(EmbeddingStore.open(store), "train", options.task)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for jobs, trials in ((1, max(2, options.trials // 3)), (options.jobs, options.trials)):
            runs = Path(folder) / f"runs{jobs}"
            rows += [_search(options, runs, jobs, trials) for _ in range(2)]
    again = rows[1::2]
    if any(row["stages"] for row in again) or any(row["tried"] != row["trials"] for row in rows):
        sys.exit("a search of points that were tried before computed something, or not every point was tried")
    return {
        "task": options.task, "model": options.model or store.stem, "images": images, "rows": rows[::2],
        "again": again, **provenance(torch.device("cpu")),
    }  # fmt: skip


def _search(options: argparse.Namespace, runs: Path, jobs: int, trials: int) -> dict[str, Any]:
    known = set(_records(runs))
    runs.mkdir(exist_ok=True)
    (runs.parent / "space.yaml").write_text(SPACE)
    command = [
        sys.executable, "-c", CASAM, "search", "--head", "alignment", "--tasks", options.task, "--store",
        options.store, "--runs", runs, "--space", runs.parent / "space.yaml", "--trials", trials, "--jobs", jobs,
        "--device", "cpu", "--json", *(("--model", options.model) if options.model else ()),
        *(part for value in options.set for part in ("--set", value)),
    ]  # fmt: skip
    before = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds = time.perf_counter() - before
    if done.returncode:
        sys.exit(f"the search failed with {done.returncode}")
    found = json.loads(done.stdout)
    own = [read_record(path).recorded["seconds"] for path in _records(runs) if path not in known]
    states = [trial["state"] for trial in found["trials"]]
    return {
        "jobs": jobs, "trials": trials, "tried": len(states), "pruned": states.count("pruned"),
        "seconds": round(seconds, 1), "stages": len(own), "seconds_of_stages": round(sum(own), 1),
        "trials_an_hour": round(3600 * trials / seconds, 1),
        "beyond_stages": round(max(0.0, 1 - sum(own) / (jobs * seconds)), 4),
    }  # fmt: skip


def _records(runs: Path) -> list[Path]:
    return [path.parent for path in runs.glob("*/*/record.json")]


def markdown(found: dict[str, Any]) -> list[str]:
    """The table."""
    lines = [
        f"# Search: {found['task']}, {found['images']} images to train on, {found['model']}", "",
        "| processes | trials | pruned | seconds | trials an hour | in stages | beyond them | again, seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {row['jobs']} | {row['trials']} | {row['pruned']} | {row['seconds']:.0f} | {row['trials_an_hour']:.0f} | "
        f"{row['seconds_of_stages']:.0f} | {100 * row['beyond_stages']:.1f} % | {again['seconds']:.1f} |"
        for row, again in zip(found["rows"], found["again"], strict=True)
    ]
    return [
        *lines, "",
        "In stages: seconds. Beyond them: the share of the processes' time in which no stage was computed, start and "
        "imports of the command included; with several processes also waiting for each other. Again: the same command "
        "once more, which computed no stage.", "",
        f"Space:\n\n```yaml\n{SPACE}```", "", measured_with(found),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=Path("casam_store"))
    parser.add_argument("--task", required=True)
    parser.add_argument("--model")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options)
    page = markdown(found)
    write_result(options.out / "search_speed_cpu", found, page)
    print("\n".join(page))
    alone, together = found["rows"]
    if together["trials_an_hour"] < TRIALS_AN_HOUR or alone["beyond_stages"] > MACHINERY:
        sys.exit(f"below the floor: {TRIALS_AN_HOUR} trials an hour, {MACHINERY:.0%} of machinery")


if __name__ == "__main__":
    main()
