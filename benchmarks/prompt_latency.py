"""How long a prompt takes: the first one on an image, the next one, and one on an image that a store holds.

    python benchmarks/prompt_latency.py --model small
    python benchmarks/prompt_latency.py --model vit_b --repeat 2

Phantoms are drawn and encoded into a store. Each side then prompts images of it with the true boxes: `SamPredictor` of
segment_anything (where the backbone is one of its models), micro-sam on embeddings that it precomputed into a file
(where it is installed: `pip install micro-sam`), our `Predictor` on the pixels, and ours on the stored embedding.
*First* is from the image's pixels or id to the mask at the image's size, *next* is a further prompt on the same image.
Every side is loaded before the clock starts, and sides take turns. Ours must give SamPredictor's low-res logits with
the exact embedding, and from the store those of the pixels to the bit, or there are no figures. micro-sam stretches
each channel of an image to 0 to 255 before it encodes it, so its masks are of other pixels: only its time is compared.

Writes benchmarks/results/prompt_latency_DEVICE.json and .md.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import begin, measured_with, model_options, provenance, record, synchronise
from encode_throughput import load
from peers import predictor, upstream_sam

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.base import Backbone
from casam_cache.backbones.sam import backbone_state
from casam_cache.bench.predict import Predictor
from casam_cache.datasets import load_image
from casam_cache.datasets.phantoms import TASKS, write_phantoms
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.store import EmbeddingStore

TOLERANCE = 1e-4  # of the largest logit; the tests hold 1e-5, with random weights of both sides in float32
Sides = dict[str, tuple[Callable[[int], object], Callable[[np.ndarray], np.ndarray]]]


def sides(
    backbone: Backbone, store: EmbeddingStore, images: list[np.ndarray], device: str, scratch: Path
) -> tuple[Sides, Predictor]:
    """For each side, what sets image i, and what gives the low-res logits of a box; and the rounded one of ours."""
    exact, rounded, stored = (
        Predictor(store=store.path, device=device, dtype=dtype) for dtype in ("float32", None, None)
    )

    def ours(side: Predictor) -> Callable[[np.ndarray], np.ndarray]:
        return lambda box: side.predict(boxes=box, multimask=False).low_res[0]

    found: Sides = {
        "ours, pixels": (lambda i: exact.set_image(images[i]), ours(exact)),
        "ours, stored": (lambda i: stored.set_item(store, store.ids[i]), ours(stored)),
    }
    if isinstance(getattr(backbone, "architecture", None), Architecture):
        sam = predictor(upstream_sam(backbone).to(backbone.device))
        found["SamPredictor"] = (
            lambda i: sam.set_image(images[i]),
            lambda box: sam.predict(box=box, multimask_output=False)[2],
        )
        if importlib.util.find_spec("micro_sam"):
            found["micro-sam, precomputed"] = micro_sam(predictor(sam.model), images, scratch)
    return found, rounded


def micro_sam(
    sam: Any, images: list[np.ndarray], folder: Path
) -> tuple[Callable[[int], object], Callable[[np.ndarray], np.ndarray]]:
    """micro-sam on its own precomputed embeddings, one file an image: read, then prompted, by its own functions."""
    from micro_sam.prompt_based_segmentation import segment_from_box
    from micro_sam.util import precompute_image_embeddings, set_precomputed

    sam._hash, sam.model_type, sam.model_name = "seeded", "vit_b", "vit_b"  # as its own loader leaves them

    def embeddings(i: int) -> Any:
        return precompute_image_embeddings(
            sam, images[i], folder / f"micro_sam_{i}.zarr", ndim=2, verbose=False
        )

    for i in range(len(images)):
        embeddings(i)

    def ask(box: np.ndarray) -> np.ndarray:
        rows_first = np.asarray(box)[[1, 0, 3, 2]]
        return segment_from_box(sam, rows_first, return_all=True)[2]

    return lambda i: set_precomputed(sam, embeddings(i)), ask


def encoded(folder: Path, options: argparse.Namespace, backbone: Any) -> Path:
    """A store of phantoms of one task, with the backbone's weights."""
    write_phantoms(folder / "data", seed=0, images_per_task=max(6, options.images))
    checkpoint = options.checkpoint
    if checkpoint is None and options.model in ARCHITECTURES:
        checkpoint = folder / "seeded.pth"
        torch.save(backbone_state(backbone), checkpoint)
    asked = EncodeOptions(model=options.model, checkpoint=checkpoint, name="timed", device=options.device)
    (report,) = encode_dataset(folder / "data" / "tasks" / TASKS[0].name, folder / "stores", asked)
    return Path(report.store)


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row of the results."""
    backbone, weights = load(options, device)
    with tempfile.TemporaryDirectory() as scratch:
        store = EmbeddingStore.open(encoded(Path(scratch), options, backbone))
        annotations = store.annotations
        rows = [row for row in range(len(annotations)) if len(annotations.masks_of(row))][: options.images]
        root = Path(scratch) / "data" / "tasks" / store.path.parent.name
        items = [int(annotations.item[row]) for row in rows]
        boxes = {
            item: annotations.box[annotations.masks_of(row)[0]] for item, row in zip(items, rows, strict=True)
        }
        images = [load_image(root / path) for path in store.paths]
        found, rounded = sides(backbone, store, images, options.device, Path(scratch))
        check(found, rounded, images, boxes)
        taken: dict[str, dict[str, list[float]]] = {side: {"first": [], "next": []} for side in found}
        for turn in range(options.repeat + 1):  # the first turn warms up
            for item, box in boxes.items():
                for side, (put, ask) in found.items():
                    first, after = prompted(device, put, ask, item, box)
                    if turn:
                        taken[side]["first"].append(first)
                        taken[side]["next"].append(after)
    return {
        "model": options.model,
        "threads": torch.get_num_threads(),
        "weights": weights,
        "images": len(boxes),
        "repeat": options.repeat,
        "micro_sam": metadata.version("micro-sam") if importlib.util.find_spec("micro_sam") else None,
        "seconds": {
            side: {name: round(float(np.median(values)), 5) for name, values in both.items()}
            for side, both in taken.items()
        },
        **provenance(device),
    }


def prompted(
    device: torch.device,
    put: Callable[[int], object],
    ask: Callable[[np.ndarray], object],
    item: int,
    box: np.ndarray,
) -> tuple[float, float]:
    """Seconds of the first prompt on an image, and of another one."""
    synchronise(device)
    start = time.perf_counter()
    put(item)
    ask(box)
    synchronise(device)
    middle = time.perf_counter()
    ask(box / 2)
    synchronise(device)
    return middle - start, time.perf_counter() - middle


def check(found: Sides, rounded: Predictor, images: list[np.ndarray], boxes: dict[int, np.ndarray]) -> None:
    """Stops where the sides do not give the same."""
    for item, box in boxes.items():
        for put, _ in found.values():
            put(item)
        logits = {side: ask(box) for side, (_, ask) in found.items()}
        again = rounded.set_image(images[item]).predict(boxes=box, multimask=False).low_res[0]
        if not np.array_equal(again, logits["ours, stored"]):
            sys.exit("the stored embedding gives another mask than the pixels: no figures")
        if "SamPredictor" in logits:
            theirs = logits["SamPredictor"]
            difference = float(np.abs(logits["ours, pixels"] - theirs).max() / np.abs(theirs).max())
            if not difference <= TOLERANCE:
                sys.exit(f"ours and SamPredictor differ by {difference:.1e}: no figures")


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the rows."""
    lines = [
        "# How long a prompt takes",
        "",
        "| model | threads | side | first prompt on an image, s | next prompt, s |",
        "|---|---|---|---|---|",
    ]
    notes = []
    for row in rows:
        for side, seconds in row["seconds"].items():
            lines.append(
                f"| {row['model']} | {row['threads']} | {side} | {seconds['first']:.3g} | {seconds['next']:.3g} |"
            )
        notes.append(
            f"- {row['model']}: median over {row['images']} images and {row['repeat']} turns, weights "
            f"{row['weights']}, float32{', micro-sam ' + row['micro_sam'] if row.get('micro_sam') else ''}; "
            f"{measured_with(row)}"
        )
    explained = (
        "One box a prompt, from the image's pixels (or its id in the store) to the mask at the image's size; the next "
        "prompt is another box on the same image. All sides in one process, taking turns; the embedding from the store "
        "gives the masks of the pixels to the bit."
    )
    return [*lines, "", explained, "", *notes]


def main() -> None:
    """The command line."""
    parser = model_options(__doc__, batch=1)
    for action in parser._actions:  # any backbone that is installed, not only segment_anything's
        if action.dest == "model":
            action.choices = None
    parser.add_argument("--images", type=int, default=6)
    options = parser.parse_args()
    device = begin(options)
    path = options.out / f"prompt_latency_{device.type}.json"
    print(record(path, measure(options, device), ("model", "threads"), markdown))


if __name__ == "__main__":
    main()
