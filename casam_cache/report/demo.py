"""The main job on phantoms: draw, encode, fit each task, compare with the frozen SAM; then one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.bench.fit import FitReport, fit_task
from casam_cache.bench.predict import Predictor
from casam_cache.datasets import DatasetOptions, find_tasks, mask_box, read_dataset, read_image, read_masks
from casam_cache.datasets.phantoms import write_phantoms
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.report import EncodeReport
from casam_cache.report.demo_sequence import ORDER, SequenceReport, run_sequence
from casam_cache.report.fit_table import fit_table
from casam_cache.report.formats import to_markdown
from casam_cache.report.pictures import Case, comparison_sheet
from casam_cache.store.files import write_file
from casam_cache.training.loop import FitProgress

CASES = 3
DRAWN = "drawn.json"
TITLE = "Frozen SAM against fitted Alignment Layers, on phantoms"


@dataclass(frozen=True)
class DemoReport:
    """What the demo made.

    Attributes:
        encoded: one report a task, the unseen ones after the nine.
        fits: one report a task.
        table: file with the comparison table.
        pictures: one picture a task: image, truth, frozen, fitted.
        sequence: the tasks learnt one after the other.
    """

    encoded: Sequence[EncodeReport]
    fits: Sequence[FitReport]
    table: Path
    pictures: Sequence[Path]
    sequence: SequenceReport

    def to_json(self) -> dict[str, Any]:
        return {
            "encoded": [report.to_json() for report in self.encoded],
            "fits": [report.to_json() for report in self.fits],
            "table": str(self.table),
            "pictures": [str(path) for path in self.pictures],
            "sequence": {"page": str(self.sequence.page), "picture": str(self.sequence.picture)},
        }


def run_demo(
    out: Path,
    *,
    images: int = 24,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    on_encode: Callable[[str, int, int, str, float | None], None] | None = None,
    on_fit: Callable[[str, FitProgress], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> DemoReport:
    """Does the main job in one folder; what an earlier run finished there is found again.

    Args:
        out: folder for phantoms, stores, runs, table and pictures.
        images: phantoms a task.
        epochs: of each fit; None: the small model's own recipe.
        seed: of phantoms and fits.
        device: `auto`, `cpu`, `cuda`, ...
        on_encode: progress of encoding, called with (task, images done, images, note, images/s).
        on_fit: progress of fitting, called with the task's name.
        say: takes lines for a person.

    Raises:
        CasamError: from any of the steps.
    """
    data = out / "data"
    if not (data / DRAWN).exists():
        say(f"drawing phantoms into {data}")
        write_phantoms(data, seed=seed, images_per_task=images)
        drawn = json.dumps({"seed": seed, "images_per_task": images}) + "\n"
        write_file(data / DRAWN, drawn.encode())
    encoded = [
        report
        for part in ("tasks", "unseen")
        for report in encode_dataset(
            data / part,
            out / "store",
            EncodeOptions(model="small"),
            progress=on_encode,
            on_task=lambda r: say(r.describe()),
        )
    ]
    fits, pictures = [], []
    for root in find_tasks(data / "tasks"):

        def shown(progress: FitProgress, task: str = root.name) -> None:
            if on_fit is not None:
                on_fit(task, progress)

        report = fit_task(
            root.name,
            out / "store",
            out / "runs",
            options=[] if epochs is None else [f"epochs={epochs}"],
            seed=seed,
            device=device,
            on_fit=shown,
        )
        fits.append(report)
        say(f"{root.name}: IoU {100 * report.frozen['iou'].mean:.1f} -> {100 * report.test['iou'].mean:.1f}")
        picture = out / "pictures" / f"{root.name}.png"
        picture.parent.mkdir(exist_ok=True)
        comparison_sheet(compare(root, report, device), picture)
        pictures.append(picture)
    table = out / "table.md"
    write_file(table, to_markdown(fit_table(fits, title=TITLE)).encode())
    names = [root.name for root in find_tasks(data / "unseen")]
    first = next(fit for fit in fits if fit.task == ORDER[0])
    told = [] if epochs is None else [f"epochs={epochs}"]
    sequence = run_sequence(out, names, first.run, settings=told, device=device, say=say)
    return DemoReport(encoded, fits, table, pictures, sequence)


def compare(root: Path, report: FitReport, device: str = "auto", cases: int = CASES) -> list[Case]:
    """A few test masks of a task, evenly chosen, predicted by the frozen SAM and by a fit.

    Args:
        root: dataset folder, read with the options that follow from the files themselves.
        report: the fit.
        device: `auto`, `cpu`, `cuda`, ...
        cases: how many.
    """
    dataset = read_dataset(root, DatasetOptions())
    fitted, frozen = Predictor(report.run, device=device), Predictor(None, model=report.model, device=device)
    masks = [
        (sample, mask) for sample in dataset.split(report.evaluate) for mask in read_masks(dataset, sample)
    ]
    chosen = [masks[index] for index in np.unique(np.linspace(0, len(masks) - 1, cases).round().astype(int))]
    rows = []
    for sample, mask in chosen:
        image, box = read_image(dataset, sample), mask_box(mask.bitmap)
        sides = {"frozen SAM": frozen, "fitted": fitted}
        found = {name: side.set_image(image).predict(boxes=box).mask for name, side in sides.items()}
        rows.append(Case(f"{sample.id} class {mask.class_id}", image, mask.bitmap, found))
    return rows
