"""A picture right after a fit of proposals: worst, median and best images, true and found objects over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from casam_cache.bench.found_objects import InstancePredictor
from casam_cache.bench.instances import InstanceReport
from casam_cache.engine.runs import read_record
from casam_cache.report.fit_sheet import EACH, FOLDER
from casam_cache.report.pictures import draw_objects, png
from casam_cache.report.segmentation_sheet import chosen_tiles, sheet
from casam_cache.store import EmbeddingStore
from casam_cache.store.files import make_directory, write_file
from casam_cache.training.instance_scores import image_scores, read_instances
from casam_cache.training.items import ItemMask, open_split


def instance_sheet(report: InstanceReport, device: str = "auto") -> tuple[Path, str]:
    """Writes RUNS/pictures/instances-KEY.png, KEY that of the scores. Colours tell objects apart, not classes.

    Args:
        report: of the fit.
        device: where the few images are predicted again: `auto`, `cpu`, `cuda`, ...

    Returns:
        The file, and what is said where images could not be read and outlines stand alone; else empty.

    Raises:
        CasamError: the fit, its store or its backbone cannot be used, or the file cannot be written.
    """
    run, outcomes = Path(report.run), Path(report.outcomes)
    store = EmbeddingStore.open(Path(read_record(run).recorded["store"]))
    predictor = InstancePredictor(run, store=store.path, device=device)
    items = open_split(store, report.evaluate, report.task)
    places = {item.id: index for index, item in enumerate(items)}

    def drawn(name: str, image: np.ndarray) -> list[Image.Image]:
        truth = true_objects(items.masks(places[name]), *image.shape[:2])
        found = predictor.predict_item(store, name).labels
        return [draw_objects(image, labels, []) for labels in (truth, found)]

    rows, said = chosen_tiles(store, items, image_scores(read_instances(outcomes)), "mSA", drawn)
    rule = (
        f"{report.task}, {report.head}, {report.evaluate} images by mSA: {EACH} lowest, {EACH} nearest the median, "
        f"{EACH} highest; a colour an object"
    )
    path = run.parent.parent / FOLDER / f"instances-{outcomes.name}.png"
    make_directory(path.parent)
    write_file(path, png(sheet(rows, rule, {})))
    return path, said


def true_objects(masks: Sequence[ItemMask], height: int, width: int) -> np.ndarray:
    """uint16 (H, W): the true objects numbered from 1; where two overlap the smaller one has the pixel."""
    labels = np.zeros((height, width), np.uint16)
    cutouts = [mask.cutout for mask in masks]
    for number in sorted(range(len(cutouts)), key=lambda one: -cutouts[one].area):
        cutout = cutouts[number]
        rows, columns = cutout.pixels.shape
        part = labels[cutout.top : cutout.top + rows, cutout.left : cutout.left + columns]
        part[cutout.pixels] = number + 1
    return labels
