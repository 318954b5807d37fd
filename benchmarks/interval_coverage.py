"""How often the 95 % intervals of `casam_cache.metrics.intervals` hold the true mean, in a simulation.

    python benchmarks/interval_coverage.py

Groups differ as patients do, and masks within a group differ less. Group means are normal, or skewed as IoU is (beta
4, 1), or as gains are (exponential); sizes are equal, uniform from 1 to 20, or heavy-tailed up to 60; one task, or
three tasks that differ. Beside ours: the percentile bootstrap of groups, which most tools print.

Writes benchmarks/results/interval_coverage.json and .md.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from common import measured_with, provenance, write_result

from casam_cache.metrics.intervals import mean_interval

GROUPS = (2, 3, 4, 6, 8, 16, 32, 100)
MEANS = {"normal": 0.0, "skewed as IoU": 0.8, "skewed as gains": 1.0}
SIZES = ("equal", "1 to 20", "heavy-tailed")
RESAMPLES = 1000


def drawn(rng: np.random.Generator, kind: str, sizes: str, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (M,) and the group of each."""
    counts = {
        "equal": np.full(groups, 8),
        "1 to 20": rng.integers(1, 21, groups),
        "heavy-tailed": np.ceil(3 * rng.pareto(1.2, groups) + 0.01).clip(1, 60).astype(int),
    }[sizes]
    centres = {
        "normal": rng.normal(0, 0.1, groups),
        "skewed as IoU": rng.beta(4, 1, groups),
        "skewed as gains": rng.exponential(1.0, groups),
    }[kind]
    within = 0.1 if kind != "skewed as gains" else 1.0
    member = np.repeat(np.arange(groups), counts)
    return centres[member] + rng.normal(0, within, len(member)), member


def bootstrap(rng: np.random.Generator, values: np.ndarray, member: np.ndarray) -> tuple[float, float]:
    """Percentiles of means over groups drawn with replacement."""
    sums, counts = np.bincount(member, weights=values), np.bincount(member)
    picked = rng.integers(0, len(sums), size=(RESAMPLES, len(sums)))
    means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def coverage(kind: str, sizes: str, groups: int, tasks: int, repeats: int) -> dict[str, object]:
    """Percent of repeats in which ours, and the bootstrap, held the true mean; ours is null where it prints none."""
    rng = np.random.default_rng([groups, tasks, *map(ord, kind + sizes)])
    ours, theirs, printed = 0, 0, 0
    truth = MEANS[kind] + float(np.mean(np.arange(tasks)))
    for _ in range(repeats):
        values, names, of_task = [], [], []
        for task in range(tasks):
            own, member = drawn(rng, kind, sizes, groups)
            values.append(own + task)
            names += [f"{task}/{each}" for each in member]
            of_task += [str(task)] * len(member)
        column = np.concatenate(values)
        found = mean_interval(column, names, tasks=of_task)
        if not math.isnan(found.low):
            printed += 1
            ours += found.low <= truth <= found.high
        if tasks == 1:
            low, high = bootstrap(rng, column, member)
            theirs += low <= truth <= high
    return {
        "groups": groups, "means": kind, "sizes": sizes, "tasks": tasks,
        "printed": printed / repeats, "ours": 100 * ours / printed if printed else None,
        "bootstrap": 100 * theirs / repeats if tasks == 1 else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "interval_coverage")
    options = parser.parse_args()
    rows = [
        coverage(kind, sizes, groups, tasks, options.repeats)
        for tasks in (1, 3)
        for kind in MEANS
        for sizes in SIZES
        for groups in GROUPS
        if tasks == 1 or groups in (4, 8, 32)
    ]
    made = {**provenance(torch.device("cpu")), "repeats": options.repeats, "rows": rows}
    lines = ["| tasks | group means | sizes | groups | ours | bootstrap |", "|---|---|---|---|---|---|"]
    for row in rows:
        ours, theirs = ("none" if row[side] is None else f"{row[side]:.1f}" for side in ("ours", "bootstrap"))
        theirs = "" if row["tasks"] != 1 else theirs
        lines.append(
            f"| {row['tasks']} | {row['means']} | {row['sizes']} | {row['groups']} | {ours} | {theirs} |"
        )
    error = 100 * math.sqrt(0.05 * 0.95 / options.repeats)
    lines += [
        "",
        f"Percent of {options.repeats} simulations (standard error {error:.1f}) in which the 95 % interval held the "
        f"true mean; none: too few groups, nothing is printed. {measured_with(made)}",
    ]
    write_result(options.out, made, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
