"""Zero-shot quality of the small SAM on real sets and phantoms, beside baselines that need no model.

    python benchmarks/small_sam/quality.py --data DATA --out benchmarks/results/small_sam_quality

DATA holds `tasks/NAME` and `ood/NAME` (or `unseen/NAME`) dataset folders. One object is one mask: classes where a set
has several, connected components where it has one value. Scores are at original resolution; intervals resample groups
(patients). Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import BASELINES, filled_box, filled_ellipse, otsu_in_box
from quality_table import RESOLVED, SCORES, table

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.prompts import Prompts, concatenate_prompts, upscale
from casam_cache.backbones.registry import load_backbone
from casam_cache.datasets import (
    Dataset,
    DatasetOptions,
    interior_point,
    mask_box,
    read_dataset,
    read_image,
    read_masks,
)
from casam_cache.datasets.phantoms import write_phantoms
from casam_cache.fingerprint import digest_file, generator
from casam_cache.geometry import Geometry
from casam_cache.metrics.intervals import difference_interval, mean_interval
from casam_cache.metrics.overlap import iou
from casam_cache.routers.choice import RouterChoice
from casam_cache.routers.fit import FitRequest, fit_routers
from casam_cache.routers.fitted import TaskRouters
from casam_cache.routers.registry import ROUTERS
from casam_cache.routers.routing import FALLBACK

KINDS = ("centroid", "mahalanobis", "vae")
SIZES = (0, 4, 8, 16, 32, 64, 10**6)  # of a box, input pixels; 2 of them are a low-res pixel
PARTS = {"tasks": "task", "ood": "unseen", "unseen": "unseen"}


@dataclass
class Scores:
    """One row a mask, as columns, and one pooled embedding an image.

    Attributes:
        part: task or unseen. mode: how masks were taken from the files.
        images: images used. available: images there are in that split.
        size: geometric mean of the sides of each mask's box, input pixels.
        groups: group of each mask. image_groups: group of each image.
    """

    part: str
    mode: str
    available: int
    images: int = 0
    groups: list[str] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCORES})
    guess: list[float] = field(default_factory=list)
    size: list[float] = field(default_factory=list)
    pooled: list[np.ndarray] = field(default_factory=list)
    image_groups: list[str] = field(default_factory=list)


def find_sets(roots: list[Path]) -> Iterator[tuple[str, str, Path]]:
    """Name, part and folder of every dataset under the given data folders."""
    for root in roots:
        for folder, part in PARTS.items():
            for path in sorted((root / folder).glob("*/")):
                if (path / "images").is_dir():
                    yield path.name, part, path


def open_set(path: Path) -> Dataset:
    """The dataset with one object a mask: its classes, or the components of its only value."""
    dataset = read_dataset(path, DatasetOptions())
    if len(dataset.values.foreground) <= 1:
        dataset = read_dataset(path, DatasetOptions(masks="components"))
    return dataset


def score_set(
    backbone: Backbone, encoder: FrozenEncoder, path: Path, part: str, split: str, images: int, masks: int
) -> Scores:
    """Score up to `images` images of one split, `masks` masks of each, evenly or randomly chosen with a seed.

    An unseen set is used whole: it has nothing to hold out.
    """
    dataset = open_set(path)
    samples = dataset.samples if part == "unseen" else dataset.split(split)
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(images, len(samples))).round().astype(int))
    scores = Scores(part, dataset.mask_mode, len(samples))
    for number in chosen:
        sample = samples[number]
        image = read_image(dataset, sample)
        geometry, embedding = embed(backbone, encoder, image)
        rows, columns = geometry.valid_grid
        scores.images += 1
        scores.pooled.append(embedding[0, :, :rows, :columns].mean((1, 2)).numpy())
        scores.image_groups.append(sample.group)
        found = list(read_masks(dataset, sample, image.shape[:2]))
        order = generator("quality-masks", sample.id).permutation(len(found))[:masks]
        if len(order):
            add_rows(
                scores, backbone, image, geometry, embedding, [found[i].bitmap for i in order], sample.group
            )
    return scores


@torch.inference_mode()
def embed(backbone: Backbone, encoder: FrozenEncoder, image: np.ndarray) -> tuple[Geometry, torch.Tensor]:
    """Geometry and embedding (1, C, g, g) of one image."""
    architecture = backbone.architecture
    height, width = image.shape[:2]
    geometry = Geometry.fit(height, width, architecture.image_size, architecture.patch_size)
    pixels, sizes = stack_inputs([resize_for_encoder(image, geometry)], architecture.image_size)
    return geometry, encoder(torch.from_numpy(pixels), torch.from_numpy(sizes))["embedding"]


@torch.inference_mode()
def add_rows(
    scores: Scores,
    backbone: Backbone,
    image: np.ndarray,
    geometry: Geometry,
    embedding: torch.Tensor,
    truths: list[np.ndarray],
    group: str,
) -> None:
    """Prompt every true mask with its tight box and its innermost point and append its scores."""
    boxes = np.stack([mask_box(truth) for truth in truths])
    points = np.stack([interior_point(truth) for truth in truths])
    index = torch.zeros(len(truths), dtype=torch.long)
    box_prompts = Prompts(boxes=torch.from_numpy(geometry.boxes_to_input(boxes)))
    point_prompts = Prompts(
        points=torch.from_numpy(geometry.to_input(points))[:, None],
        labels=torch.ones(len(truths), 1, dtype=torch.long),
    )
    both = backbone.embed_prompts(concatenate_prompts([box_prompts, point_prompts]))
    single, quality = backbone.decode(embedding, torch.cat([index, index]), *both, False)
    several, chance = backbone.decode(embedding, index, *backbone.embed_prompts(point_prompts), True)
    best = several[torch.arange(len(truths)), chance.argmax(1)]
    low_res = torch.cat([single[:, 0], best])
    boxed, pointed, chosen = (
        (upscale(low_res, geometry) > 0).numpy().reshape(3, len(truths), *image.shape[:2])
    )
    for place, truth in enumerate(truths):
        row = {
            "sam_box": boxed[place], "sam_point_single": pointed[place], "sam_point": chosen[place],
            "box": filled_box(boxes[place], truth.shape), "ellipse": filled_ellipse(boxes[place], truth.shape),
            "otsu": otsu_in_box(image, boxes[place], truth),
        }  # fmt: skip
        for name, mask in row.items():
            scores.columns[name].append(iou(mask, truth))
        scores.guess.append(float(quality[place, 0]))
        sides = boxes[place, 2:] - boxes[place, :2] + 1
        scores.size.append(float(np.sqrt(sides.prod())) * geometry.input_width / geometry.width)
        scores.groups.append(group)


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's rank correlation; zero where one side is constant."""
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(spearmanr(first, second).statistic)


def summarise(name: str, scores: Scores) -> dict[str, Any]:
    """One set as JSON data, IoU in [0, 1] with intervals over groups."""
    means = {
        column: mean_interval(values, scores.groups).to_json() for column, values in scores.columns.items()
    }
    best = max(BASELINES, key=lambda column: float(means[column]["mean"] or 0))
    box = scores.columns["sam_box"]
    return {
        "set": name, "part": scores.part, "mode": scores.mode, "images": scores.images,
        "available": scores.available, "masks": len(scores.groups), "iou": means, "best_baseline": best,
        "above_ellipse": difference_interval(box, scores.columns["ellipse"], scores.groups).to_json(),
        "above_best": difference_interval(box, scores.columns[best], scores.groups).to_json(),
        "rank_correlation": rank_correlation(scores.guess, box) if len(box) > 2 else None,
    }  # fmt: skip


def by_size(sets: Iterable[Scores]) -> list[dict[str, Any]]:
    """Means over all masks of some sets whose box is of about one size: some sets are full of specks."""
    sizes = np.concatenate([scores.size for scores in sets])
    columns = {name: np.concatenate([scores.columns[name] for scores in sets]) for name in SCORES}
    found = []
    for low, high in pairwise(SIZES):
        chosen = (sizes >= low) & (sizes < high)
        if chosen.any():
            means = {name: float(values[chosen].mean()) for name, values in columns.items()}
            found.append({"from": low, "masks": int(chosen.sum()), "iou": means})
    return found


def resolved(sets: dict[str, Scores]) -> dict[str, Any]:
    """Means over sets of their masks whose box has at least `RESOLVED` input pixels, a mean over masks for each set."""
    means: dict[str, list[float]] = {name: [] for name in SCORES}
    left_out = []
    for own, scores in sets.items():
        chosen = np.array(scores.size) >= RESOLVED
        if not chosen.any():
            left_out.append(own)
            continue
        for name in SCORES:
            means[name].append(float(np.array(scores.columns[name])[chosen].mean()))
    found = {name: float(np.mean(values)) for name, values in means.items() if values}
    return {"sets": len(sets) - len(left_out), "left_out": left_out, "iou": found}


def routing(
    train: dict[str, Scores], test: dict[str, np.ndarray], unseen: dict[str, np.ndarray]
) -> dict[str, Any]:
    """How well the package's routers tell tasks apart by mean-pooled embeddings (N, C), and what they reject.

    Nearest centroid, Mahalanobis distance in one shrunk covariance of all tasks, and a variational autoencoder a task,
    with the package's own options. A task's threshold is the 97th percentile of scores held out by group.
    """
    names = sorted(train)
    found: dict[str, Any] = {}
    for kind in KINDS:
        router = ROUTERS.get(kind)
        choice = RouterChoice(router, router.Options(), threshold="p97")
        requests = [
            FitRequest(np.stack(train[name].pooled), train[name].image_groups, choice, 0, name)
            for name in names
        ]
        routers = TaskRouters(fit_routers(requests))
        right = {
            name: float((routers.route(routers.scores(test[name]), fallback=False) == place).mean())
            for place, name in enumerate(names)
        }
        total = sum(len(test[name]) for name in names)
        rejected = {
            name: float((routers.route(routers.scores(vectors)) == FALLBACK).mean())
            for name, vectors in {**unseen, **{f"(test) {n}": v for n, v in test.items()}}.items()
        }
        found[kind] = {
            "accuracy": sum(right[n] * len(test[n]) for n in names) / total, "by_task": right, "rejected": rejected,
        }  # fmt: skip
    return found


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", default=[], help="a folder of tasks/ and ood/")
    parser.add_argument("--out", type=Path, help="writes OUT.json and OUT.md")
    parser.add_argument("--checkpoint", type=Path, help="default: the bundled weights")
    parser.add_argument("--split", default="test", choices=("train", "test"))
    parser.add_argument("--images", type=int, default=10**6, help="most images of a set")
    parser.add_argument("--masks", type=int, default=10**6, help="most masks of an image")
    parser.add_argument("--phantoms", type=int, default=12, help="images in each phantom set, 0 for none")
    parser.add_argument("--skip-unseen", action="store_true", help="leave unseen sets alone (while choosing)")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    backbone = load_backbone("small", options.checkpoint)
    encoder = FrozenEncoder(backbone)
    results: dict[str, dict[str, Scores]] = {}
    trains: dict[str, dict[str, Scores]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        sources = {"real": options.data}
        if options.phantoms:
            write_phantoms(Path(scratch) / "phantoms", seed=1, images_per_task=options.phantoms)
            sources["phantom"] = [Path(scratch) / "phantoms"]
        for source, roots in sources.items():
            for name, part, path in find_sets(roots):
                if part == "unseen" and options.skip_unseen:
                    continue
                scores = score_set(
                    backbone, encoder, path, part, options.split, options.images, options.masks
                )
                results.setdefault(source, {})[name] = scores
                print(f"{name}: box {100 * np.mean(scores.columns['sam_box']):.1f}", flush=True)
                if part == "task" and options.split == "test":
                    train = score_set(backbone, encoder, path, part, "train", options.images, 0)
                    trains.setdefault(source, {})[name] = train
    report = build_report(results, trains, options, time.monotonic() - began)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table(report))
    print(table(report))


def build_report(
    results: dict[str, dict[str, Scores]],
    trains: dict[str, dict[str, Scores]],
    options: argparse.Namespace,
    seconds: float,
) -> dict[str, Any]:
    """Everything measured as JSON data."""
    rows, means, routes = [], {}, {}
    for source, sets in results.items():
        own = [summarise(name, scores) for name, scores in sets.items()]
        rows += own
        means[source] = {
            "sets": len(own),
            "iou": {c: float(np.mean([row["iou"][c]["mean"] for row in own])) for c in SCORES},
            "above_ellipse": float(np.mean([row["above_ellipse"]["mean"] for row in own])),
            "sets_above_best": sum(row["above_best"]["mean"] > 0 for row in own),
            "rank": rank_correlation(
                [g for s in sets.values() for g in s.guess],
                [v for s in sets.values() for v in s.columns["sam_box"]],
            ),
            "by_size": by_size(sets.values()),
            "resolved": resolved(sets),
        }
        if source in trains:
            test = {n: np.stack(s.pooled) for n, s in sets.items() if s.part == "task"}
            unseen = {n: np.stack(s.pooled) for n, s in sets.items() if s.part == "unseen"}
            routes[source] = routing(trains[source], test, unseen)
    limits = [
        f"at most {n} {what}"
        for n, what in ((options.images, "images a set"), (options.masks, "masks an image"))
        if n < 10**6
    ]
    path = options.checkpoint or Path(__file__).parents[2] / "casam_cache" / "weights" / "small.safetensors"
    return {
        "split": options.split, "sets": rows, "means": means, "routing": routes, "weights": digest_file(path),
        "note": ("Subsampled: " + ", ".join(limits) + "." if limits else "Every image and mask was used.")
        + f" {seconds:.0f} s on {torch.get_num_threads()} CPU threads.",
    }  # fmt: skip


if __name__ == "__main__":
    main()
