"""What the paper is about, on phantoms: tasks one after the other, and images of a kind that no task has seen.

Fine-tuning one layer on task after task forgets the first; CA-SAM keeps a layer a task, sends each image to the right
one, and images that none of them knows back to the frozen SAM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.bench.bench import Bench
from casam_cache.bench.configs import with_settings
from casam_cache.bench.predict import Predictor
from casam_cache.bench.recipe import read_recipe
from casam_cache.datasets import DatasetOptions, mask_box, read_dataset, read_image, read_masks
from casam_cache.report.bench_notes import note_bench
from casam_cache.report.bench_table import bench_table
from casam_cache.report.formats import to_markdown
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.report.pictures import Case, comparison_sheet
from casam_cache.store.files import write_file

ORDER = (
    "phantom-polyp-endoscopy", "phantom-glomeruli-pas", "phantom-nuclei-fluorescence", "phantom-organs-ct",
)  # fmt: skip
NAIVE, CA_SAM = "naive", "ca-sam"
CASES = 2  # pictures of a set


@dataclass(frozen=True)
class SequenceReport:
    """What the sequence ended with.

    Attributes:
        tables: as `casam bench` has them; IoU after each task; where images were sent.
        page: file with the tables.
        picture: the first task and the unseen sets under the frozen SAM, naive fine-tuning and CA-SAM.
    """

    tables: tuple[Table, ...]
    page: Path
    picture: Path


def run_sequence(
    out: Path,
    unseen: Sequence[str],
    first_fit: str,
    *,
    settings: Sequence[str] = (),
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> SequenceReport:
    """Learns the tasks of `ORDER` by naive fine-tuning and by CA-SAM; their fits are those of the demo.

    Args:
        out: the demo's folder, with data, stores and runs.
        unseen: names of the unseen sets.
        first_fit: run folder of the first task's own fit, where naive fine-tuning begins.
        settings: `key=value`, as the demo's fits were made with.
        device: `auto`, `cpu`, ...
        say: takes lines for a person.
    """
    recipe = read_recipe(
        {
            "title": "One task after the other", "table": "bench", "methods": ["frozen", NAIVE, CA_SAM],
            "tasks": list(ORDER), "order": [list(ORDER)], "unseen": list(unseen), "weight": "tasks",
            "defaults": "backbone",
        },
        "of the demo",
    )  # fmt: skip
    recipe = with_settings(recipe, settings)
    bench = Bench.plan(recipe, out / "store", out / "runs", model="small", device=device)
    results = bench.run(say=say)
    note_bench(bench, results)
    rows = {row["label"]: row for row in results.rows}
    tables = (bench_table(results.to_json()), _course(rows), _routes(rows[CA_SAM]))
    page = out / "sequence.md"
    write_file(page, "\n".join(map(to_markdown, tables)).encode())
    picture = out / "pictures" / "sequence.png"
    predictors = {
        "frozen SAM": Predictor(None, model="small", device=device),
        "its own layer": Predictor(first_fit, device=device),
        f"naive, after {len(ORDER)} tasks": Predictor(rows[NAIVE]["run"], device=device),
        f"CA-SAM, after {len(ORDER)} tasks": Predictor(rows[CA_SAM]["run"], device=device),
    }
    cases = _cases(out / "data" / "tasks" / ORDER[0], predictors)
    elsewhere = {name: each for name, each in predictors.items() if name != "its own layer"}
    for name in unseen:
        cases += _cases(out / "data" / "unseen" / name, elsewhere)
    comparison_sheet(cases, picture)
    return SequenceReport(tables, page, picture)


def _course(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """IoU of each task right after it was learnt, and after the last."""
    sides = [(label, when) for label in (NAIVE, CA_SAM) for when in ("then", "last")]
    words = {"then": "right after it", "last": "after the last"}
    columns = (
        Column("frozen", "frozen SAM"),
        *(Column(f"{label} {when}", f"{label}, {words[when]}") for label, when in sides),
    )
    lines = []
    for place, task in enumerate(ORDER):
        found = {"frozen": rows[NAIVE]["matrix"]["frozen_iou"][place]}
        for label, when in sides:
            matrix = rows[label]["matrix"]["iou"]
            found[f"{label} {when}"] = matrix[place if when == "then" else -1][place]
        cells = {key: Cell(f"{100 * value:.1f}", 100 * value) for key, value in found.items()}
        lines.append(Line(f"{place + 1}. {task}", cells))
    note = "IoU in percent on each task's test images, in the order in which tasks were learnt."
    return Table(
        "course", "What remains of each task", "task", (Section("", columns, tuple(lines)),), (note,)
    )


def _routes(row: Mapping[str, Any]) -> Table:
    """Where CA-SAM sent the images of each set after the last task."""
    columns = tuple(Column(name, name.removeprefix("phantom-")) for name in (*ORDER, "frozen"))
    lines = tuple(
        Line(name, {to: Cell(str(count), count) for to, count in sent.items()})
        for name, sent in row["confusion"].items()
    )
    note = (
        "Images by the layer they were sent to; frozen: within no task's threshold, so the frozen SAM answers. "
        f"{100 * row['routing_accuracy']:.0f} % of the tasks' images went to their own layer, "
        f"{100 * row['ood_accuracy']:.0f} % of the unseen sets' to the frozen SAM."
    )
    return Table("routes", "Where CA-SAM sends images", "images of", (Section("", columns, lines),), (note,))


def _cases(root: Path, predictors: Mapping[str, Predictor]) -> list[Case]:
    """A mask of each of a few test images, from its true box; with where CA-SAM sent the image."""
    dataset = read_dataset(root, DatasetOptions())
    shown = [(sample, list(read_masks(dataset, sample))) for sample in dataset.split("test")]
    shown = [(sample, masks) for sample, masks in shown if masks]
    cases = []
    for index in np.unique(
        np.linspace(0, max(0, len(shown) - 1), min(CASES, len(shown))).round().astype(int)
    ):
        sample, drawn = shown[index]
        mask = max(drawn, key=lambda each: int(each.bitmap.sum()))
        image, box = read_image(dataset, sample), mask_box(mask.bitmap)
        answers = {name: each.set_image(image).predict(boxes=box) for name, each in predictors.items()}
        routed = [answer for answer in answers.values() if answer.decision is not None]
        sent = f" -> {(routed[0].task or 'frozen').removeprefix('phantom-')}" if routed else ""
        caption = f"{root.name.removeprefix('phantom-')}{sent}"
        masks = {name: answer.mask for name, answer in answers.items()}
        cases.append(Case(caption, image, mask.bitmap, masks))
    return cases
