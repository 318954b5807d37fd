"""Datasets made of training splits alone, every third group of theirs as the test split.

    python benchmarks/validation_sets.py DATA/tasks OUT
    casam encode OUT --store STORES --model small
    casam bench --recipe benchmarks/l2p_rate.yaml --store STORES --model small

What a sequence of tasks needs (rates of a method, sizes of a buffer) is chosen there: a bench scores test splits, and
those of DATA are for the tables. Reads folders of the plain layout: images/, masks/ of the same names, split.csv with
`id,split,group`. A task with fewer than two groups in its training split is refused.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

EVERY = 3


def make(task: Path, out: Path) -> str:
    """Writes the folder of one task, and returns a line that says what is in it."""
    with open(task / "split.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    groups = sorted({row["group"] for row in rows})
    if len(groups) < 2:
        raise SystemExit(f"{task}: {len(groups)} groups in its training split; two are needed to divide it")
    tested = set(groups[::EVERY])
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True)
        named = {path.stem: path for path in sorted((task / kind).iterdir())}
        for row in rows:
            shutil.copy(named[row["id"]], out / kind)
    with open(out / "split.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "split", "group"])
        for row in rows:
            table.writerow([row["id"], "test" if row["group"] in tested else "train", row["group"]])
    images = sum(row["group"] in tested for row in rows)
    return f"{task.name}: {len(rows)} images, {images} images of {len(tested)} groups in its test split"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of datasets")
    parser.add_argument("out", type=Path, help="folder that is made")
    options = parser.parse_args()
    for table in sorted(options.data.glob("*/split.csv")):
        print(make(table.parent, options.out / table.parent.name))


if __name__ == "__main__":
    main()
