"""Four tiny sets that look different, encoded once, and a bench over them in few lines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from casam_cache.bench.bench import Bench
from casam_cache.bench.configs import with_settings
from casam_cache.bench.recipe import read_recipe
from casam_cache.bench.results import Results
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.methods.registry import METHODS as REGISTRY

TASKS = ("amber", "cobalt", "moss")
UNSEEN = "ghost"
# Background, object, size of the image, and how many images: no two sets agree in any of them.
LOOKS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int], int]] = {
    "amber": ((150, 90, 20), (250, 220, 120), (48, 40), 12),
    "cobalt": ((10, 20, 90), (90, 140, 250), (40, 64), 14),
    "moss": ((30, 80, 30), (5, 10, 5), (56, 56), 16),
    "ghost": ((235, 235, 240), (160, 160, 160), (44, 60), 12),
}
TRAINING = {"epochs": 1, "batch_size": 2, "learning_rate": 3e-4}
# What each method is run with here, as far as it has these options.
SMALL: dict[str, Any] = {"blocks": 1, "vae_steps": 20, "buffer_size": 2, "exemplars": 2}
# What says how, when and where a result was computed, not what it is.
CIRCUMSTANCES = ("seconds", "step_seconds", "run")


def draw_set(root: Path, name: str) -> Path:
    """Two images a patient; the split goes by patient; a patient of train and one image of test have no mask."""
    background, colour, (height, width), images = LOOKS[name]
    rng = np.random.default_rng(sorted(LOOKS).index(name))
    folder = root / name
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = ["id,split,group"]
    y, x = np.mgrid[:height, :width]
    for index in range(images):
        cy, cx = rng.integers(12, height - 12), rng.integers(12, width - 12)
        shape = (y - cy) ** 2 + (x - cx) ** 2 < rng.integers(5, 11) ** 2
        group = index // 2
        split = "test" if group % 3 == 2 else "val" if group == 3 else "train"
        if index == 1 or (split == "test" and index == 4):
            shape[:] = False
        picture = np.where(shape[..., None], colour, background) + rng.integers(-12, 13, (height, width, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"i{index:03d}.png")
        Image.fromarray(shape.astype(np.uint8) * 255).save(folder / "masks" / f"i{index:03d}.png")
        rows.append(f"i{index:03d},{split},patient{group}")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


def encode_sets(data: Path, stores: Path, checkpoint: Path, **options: Any) -> None:
    """Encodes every set of a folder with the tiny SAM."""
    chosen = {
        "model": "small",
        "checkpoint": checkpoint,
        "name": "tiny",
        "device": "cpu",
        "workers": 0,
        **options,
    }
    encode_dataset(data, stores, EncodeOptions.model_validate(chosen))


def draw_and_encode(folder: Path, checkpoint: Path) -> Path:
    """All four sets, drawn into `folder`/data; returns the folder of their stores."""
    for name in LOOKS:
        draw_set(folder / "data", name)
    encode_sets(folder / "data", folder / "stores", checkpoint)
    return folder / "stores"


def copied(stores: Path, folder: Path) -> tuple[Path, Path]:
    """Data and stores of their own, for a test that changes them."""
    shutil.copytree(stores.parent / "data", folder / "data")
    shutil.copytree(stores, folder / "stores")
    return folder / "data", folder / "stores"


def plan(
    stores: Path,
    runs: Path,
    methods: Sequence[str],
    settings: Sequence[str] = (),
    **recipe: Any,
) -> Bench:
    """A small bench over the three tasks; `settings` are those of `--set`."""
    entries = [{"method": name, "set": small(name)} for name in methods]
    content = {"title": "Tiny", "tasks": list(TASKS), "methods": entries, "training": TRAINING, **recipe}
    return Bench.plan(
        with_settings(read_recipe(content, "of a test"), settings), stores, runs, model="tiny", device="cpu"
    )


def small(method: str) -> dict[str, Any]:
    """Options that make a method quick."""
    fields = REGISTRY.get(method).options_model().model_fields
    return {name: value for name, value in SMALL.items() if name in fields}


def facts(results: Results) -> list[dict[str, Any]]:
    """The rows without what may differ between two ways to the same result."""
    rows = [{k: v for k, v in row.items() if k not in CIRCUMSTANCES} for row in results.rows]
    return json.loads(json.dumps(rows))


def row_of(results: Results, label: str, order: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """The row of a configuration, order and seed."""
    [row] = [
        row
        for row in results.rows
        if row["label"] == label and row["seed"] == seed and (order is None or row["order"] == list(order))
    ]
    return row


def finished(runs: Path) -> dict[str, int]:
    """Every stage of a runs folder, `KIND/KEY`, with when its record was written."""
    return {
        f"{path.parent.parent.name}/{path.parent.name}": path.stat().st_mtime_ns
        for path in runs.glob("*/*/record.json")
    }


def kinds(stages: Sequence[str] | Mapping[str, int] | set[str]) -> dict[str, int]:
    """How many stages of each kind."""
    found: dict[str, int] = {}
    for name in sorted(stages):
        kind = name.split("/")[0]
        found[kind] = found.get(kind, 0) + 1
    return found


ORDERS = (("amber", "cobalt", "moss"), ("amber", "moss", "cobalt"))
METHODS = ("frozen", "alignment", "joint", "naive", "er", "emr", "ca-sam")
# A bench that takes every way through the code but the classifier's; small enough to be run many times.
BENCH: dict[str, Any] = {"order": ORDERS, "orders": 2, "unseen": [UNSEEN]}


@dataclass(frozen=True)
class Reference:
    """A finished bench.

    Attributes:
        stores, runs: where.
        results: of it.
        stages: every stage that was computed, with the time of its record.
    """

    stores: Path
    runs: Path
    results: Results
    stages: dict[str, int]

    @classmethod
    def run(cls, stores: Path, runs: Path) -> Reference:
        """Runs it in this process."""
        with one_thread():
            results = plan(stores, runs, METHODS, **BENCH).run()
        return cls(stores, runs, results, finished(runs))

    def copy(self, runs: Path) -> Path:
        """Its runs for a test that adds to them."""
        shutil.copytree(self.runs, runs)
        return runs


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, and on busy cores threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
