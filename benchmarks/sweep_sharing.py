"""What sharing stages saves in a finished sweep: stages and seconds, with and without it.

    casam bench --recipe recipes/table1_cpu.yaml
    python benchmarks/sweep_sharing.py casam_runs

Every stage's seconds were recorded when it was computed. A framework without sharing would run each result's stages
for itself, so its bill is the sum over results; the plan runs each distinct stage once, which is the floor: nothing it
runs could be left out. Both sums are over the same records, and the results are the same by construction: there is one
implementation of every stage.

Writes benchmarks/results/sweep_sharing.json and .md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, provenance

from casam_cache.bench.bench import Bench, distinct
from casam_cache.bench.recipe import read_recipe
from casam_cache.bench.results import read_results
from casam_cache.bench.tables import Tables
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage


def measure(runs: Path, stores: Path) -> dict[str, Any]:
    """The newest bench of a runs folder, its stages by kind."""
    results = read_results(runs)[-1]
    bench = Bench.plan(
        read_recipe(results["recipe"], "of the results"), stores, runs, model=results["model"], lenient=True
    )
    entries, tables = bench.entries(bench.recipe.evaluate), Tables(Runs(runs))
    kinds: dict[str, dict[str, float]] = {}

    def count(stage: Stage, side: str) -> None:
        entry = kinds.setdefault(
            stage.kind, {"requested": 0, "distinct": 0, "requested_seconds": 0.0, "distinct_seconds": 0.0}
        )
        entry[side] += 1
        entry[f"{side}_seconds"] += tables.runs.recorded(stage).get("seconds", 0.0)

    for entry in entries:
        for stage in entry.stages:
            count(stage, "requested")
    for stage in distinct(entries):
        count(stage, "distinct")
    totals = {
        name: round(sum(entry[name] for entry in kinds.values()), 1)
        for name in ("requested", "distinct", "requested_seconds", "distinct_seconds")
    }
    return {
        "title": results["title"],
        "methods": len(bench.groups),
        "orders": len(bench.orders),
        "seeds": bench.recipe.seeds,
        "tasks": len(bench.orders[0].tasks),
        "kinds": {
            kind: {name: round(value, 1) for name, value in kinds[kind].items()} for kind in sorted(kinds)
        },
        "totals": totals,
        "ratio": round(totals["requested_seconds"] / totals["distinct_seconds"], 3),
        **provenance(torch.device("cpu")),
    }


def markdown(found: dict[str, Any]) -> list[str]:
    """The table."""
    lines = [
        f"# Sharing in one sweep: {found['title']}",
        "",
        f"{found['methods']} methods, {found['orders']} orders, {found['seeds']} seeds, {found['tasks']} tasks.",
        "",
        "| stage | without sharing | distinct | seconds without sharing | seconds | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for kind, entry in {**found["kinds"], "all": found["totals"]}.items():
        spent = entry["distinct_seconds"]
        ratio = f"{entry['requested_seconds'] / spent:.2f}x" if spent else ""
        lines.append(
            f"| {kind} | {entry['requested']:.0f} | {entry['distinct']:.0f} | {entry['requested_seconds']:.0f} | "
            f"{spent:.0f} | {ratio} |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return [
        *lines,
        "",
        "Seconds are those recorded by each stage on one thread. Without sharing: every result (method, order, seed) "
        "runs its own stages, sharing nothing with any other result, and scores the frozen SAM once itself.",
        "",
        f"{found['date']}, {found['hardware']}; {versions}; `{found['command']}`",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--store", type=Path, default=Path("casam_store"))
    options = parser.parse_args()
    found = measure(options.runs, options.store)
    path = RESULTS / "sweep_sharing.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    lines = markdown(found)
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
