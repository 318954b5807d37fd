"""The nine-task table: frozen SAM against a fitted Alignment Layer on each task of a folder of stores.

    casam encode DATA --store STORES
    python benchmarks/frozen_vs_fitted.py STORES --runs RUNS --out benchmarks/results/NAME

Writes NAME.md and NAME.json; what is in RUNS already is not computed again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from casam_cache import __version__, fit_task
from casam_cache.report.fit_table import fit_table
from casam_cache.report.formats import to_markdown, to_text
from casam_cache.store import find_stores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("casam_runs"))
    parser.add_argument("--model", default="small")
    parser.add_argument("--tasks", nargs="*", help="all that are there unless named")
    parser.add_argument("--method", default="alignment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tasks = options.tasks or sorted(
        path.parent.name for path in find_stores(options.stores, backbone=options.model)
    )
    start = time.monotonic()
    reports = []
    for task in tasks:
        report = fit_task(
            task, options.stores, options.runs, method=options.method, options=options.set,
            seed=options.seed, model=options.model,
        )  # fmt: skip
        reports.append(report)
        print(
            f"{task}: IoU {report.frozen['iou'].mean:.4f} -> {report.test['iou'].mean:.4f}, run {report.run}",
            flush=True,
        )
    table = fit_table(reports)
    made = {
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.monotonic() - start, 1),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "casam-cache": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "command": f"frozen_vs_fitted.py --method {options.method} --seed {options.seed} "
        + " ".join(f"--set {entry}" for entry in options.set),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    notes = [f"{name}: {value}" for name, value in made.items()]
    options.out.with_suffix(".md").write_text("\n".join([to_markdown(table), *notes]) + "\n")
    results = [{**r.to_json(), "run": Path(r.run).name, "outcomes": Path(r.outcomes).name} for r in reports]
    options.out.with_suffix(".json").write_text(json.dumps({**made, "results": results}, indent=1) + "\n")
    print(to_text(table))


if __name__ == "__main__":
    main()
