"""What `casam predict` writes of an image that is larger than a tile.

NAME.tif            a tiled TIFF of the image's size: the mask (0 and 255) of one object that was asked for by options,
                    else a label map; of a run without prompts the map of classes
NAME.json           scores, areas, prompts, and by what
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.bench.class_maps import ClassMapPredictor
from casam_cache.bench.predict import Predictor
from casam_cache.bench.prompt_file import ObjectPrompt
from casam_cache.bench.stitched import StitchedObject, stitch
from casam_cache.bench.tiled_image import LargeImage
from casam_cache.fingerprint import finite_json
from casam_cache.report.label_canvas import LabelCanvas
from casam_cache.store.files import write_file

Progress = Callable[[int, int], None]
BINARY = 255


def large_files(out: Path) -> list[Path]:
    """Every file that is written."""
    return [out, out.with_suffix(".json")]


def write_objects(
    image: LargeImage,
    predictor: Predictor,
    prompts: Sequence[ObjectPrompt],
    out: Path,
    *,
    label_map: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predicts the objects of a large image by prompts and writes its files; returns what is said of it.

    Args:
        image: the image.
        predictor: its head and backbone.
        prompts: one an object, with numbers.
        out: NAME.tif.
        label_map: whether it holds object numbers, not 0 and 255.
        progress: called with (tiles done, tiles).

    Raises:
        OptionError: a prompt is wrong for this image.
        ImageError: it cannot be read.
        StoreError: the files cannot be written.
    """
    found: dict[int, StitchedObject] = {}
    tasks: Counter[str] = Counter()
    scores = np.full(max(prompt.number for prompt in prompts) + 1, -np.inf)
    area = 0
    with LabelCanvas(out.parent, image.size, np.uint16) as canvas:
        for one in stitch(
            predictor, image, prompts, on_tile=progress, on_task=lambda task: tasks.update([task])
        ):
            number = one.prompt.number
            # What is kept is not the mask, of which there may be thousands.
            found[number] = one.without_mask()
            scores[number] = one.score
            if one.mask is None:
                continue
            mask = one.mask
            height, width = mask.pixels.shape
            labels = canvas.read(mask.left, mask.top, width, height)
            wins = mask.pixels & ((labels == 0) | (scores[labels] < one.score))
            area += int(np.count_nonzero(wins & (labels == 0)))
            labels[wins] = number
            canvas.write(mask.left, mask.top, labels)
        canvas.save(out, None if label_map else BINARY)
    report = {
        **_described(image, out),
        "head": "routed" if predictor.routed else predictor.head,
        "task": predictor.task,
        "predicted_iou": float(np.mean([one.score for one in found.values()])),
        "area": area,
        "objects": [
            {
                "object": prompt.number,
                "score": found[prompt.number].score,
                "area": found[prompt.number].area,
                "tiles": found[prompt.number].tiles,
                **prompt.to_json(),
            }
            for prompt in prompts
        ],
    }
    if predictor.routed:
        report["routed"] = {task or "frozen SAM": count for task, count in sorted(tasks.items())}
    _write_report(out, report)
    return report


def write_classes(
    image: LargeImage, predictor: ClassMapPredictor, out: Path, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Predicts the map of classes of a large image and writes its files; returns what is said of it.

    Each pixel is of the tile in whose core it lies, as in scores of whole images.

    Args:
        image: the image.
        predictor: its head.
        out: NAME.tif.
        progress: called with (tiles done, tiles).

    Raises:
        ImageError: it cannot be read.
        StoreError: the files cannot be written.
    """
    areas: Counter[int] = Counter()
    small = max(predictor.classes, default=0) <= 255
    tiles = image.tiles
    with LabelCanvas(out.parent, image.size, np.uint8 if small else np.uint16) as canvas:
        for done, tile in enumerate(tiles, start=1):
            labels = image.classes(predictor, tile).labels[tile.core_inside]
            numbers, counts = np.unique(labels, return_counts=True)
            areas.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
            canvas.write(tile.core[0], tile.core[1], labels)
            if progress is not None:
                progress(done, len(tiles))
        canvas.save(out, BINARY if len(predictor.classes) == 1 else None)
    report = {
        **_described(image, out),
        "head": predictor.head,
        "task": predictor.task,
        "area": sum(areas[number] for number in predictor.classes),
        "classes": [
            {"class": number, "name": predictor.class_names.get(number), "area": areas[number]}
            for number in predictor.classes
        ],
    }
    _write_report(out, report)
    return report


def _described(image: LargeImage, out: Path) -> dict[str, Any]:
    height, width = image.size
    grid = {"side": image.grid.side, "overlap": image.grid.overlap, "count": len(image.tiles)}
    return {
        "image": image.name, "mask": str(out), "overlay": None, "height": height, "width": width, "tiles": grid,
    }  # fmt: skip


def _write_report(out: Path, report: dict[str, Any]) -> None:
    write_file(out.with_suffix(".json"), (json.dumps(finite_json(report), indent=1) + "\n").encode())
