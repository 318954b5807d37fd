"""A picture right after a fit without prompts: worst, median and best images, true and predicted classes over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from casam_cache.bench.class_maps import ClassMapPredictor
from casam_cache.bench.segmentation import SegmentationReport
from casam_cache.datasets.contact_sheet import COLOURS
from casam_cache.encode.source_images import SourceImages
from casam_cache.engine.runs import read_record
from casam_cache.errors import CasamError
from casam_cache.printable import printable
from casam_cache.report.fit_sheet import EACH, FOLDER, TILE, chosen_rows
from casam_cache.report.pictures import LETTER, draw_objects, png
from casam_cache.report.tiles import NO_IMAGE
from casam_cache.store import EmbeddingStore
from casam_cache.store.files import make_directory, write_file
from casam_cache.training.class_maps import classes_of, true_map
from casam_cache.training.items import Items, open_split
from casam_cache.training.outcomes import Outcomes, read_outcomes

LINE, MARGIN = 16, 6  # pixels


def image_scores(outcomes: Outcomes) -> dict[str, float]:
    """The mean Dice over the classes of each image by its id; NaN where it has none and none was predicted."""
    values: dict[str, list[float]] = {name: [] for name in outcomes.item}
    for name, value in zip(outcomes.item, outcomes.scores["dice"], strict=True):
        if np.isfinite(value):
            values[name].append(value)
    return {name: float(np.mean(found)) if found else float("nan") for name, found in values.items()}


def segmentation_sheet(report: SegmentationReport, device: str = "auto") -> tuple[Path, str]:
    """Writes RUNS/pictures/segmentation-KEY.png, KEY that of the scores.

    Args:
        report: of the fit.
        device: where the few maps are predicted again: `auto`, `cpu`, `cuda`, ...

    Returns:
        The file, and what is said where images could not be read and outlines stand alone; else empty.

    Raises:
        CasamError: the fit, its store or its backbone cannot be used, or the file cannot be written.
    """
    run, outcomes = Path(report.run), Path(report.outcomes)
    store = EmbeddingStore.open(Path(read_record(run).recorded["store"]))
    predictor = ClassMapPredictor(run, store=store.path, device=device)
    items = open_split(store, report.evaluate, report.task)
    classes = tuple(sorted({*predictor.classes, *classes_of(items)}))
    scores = image_scores(read_outcomes(outcomes))
    places = {item.id: index for index, item in enumerate(items)}

    def drawn(name: str, image: np.ndarray) -> list[Image.Image]:
        item, masks = items.item(places[name]), items.masks(places[name])
        truth = np.array([0, *classes])[true_map(masks, item.geometry, classes)]
        found = predictor.predict_item(store, name).labels
        return [draw_objects(image, labels, []) for labels in (truth, found)]

    rows, said = chosen_tiles(store, items, scores, "Dice", drawn)
    rule = f"{report.task}, {report.head}, {report.evaluate} images by the mean Dice of their classes: {EACH} lowest, "
    path = run.parent.parent / FOLDER / f"segmentation-{outcomes.name}.png"
    make_directory(path.parent)
    legend = {number: report.class_names.get(number, f"class {number}") for number in classes}
    write_file(path, png(sheet(rows, f"{rule}{EACH} nearest the median, {EACH} highest", legend)))
    return path, said


def chosen_tiles(
    store: EmbeddingStore,
    items: Items,
    scores: Mapping[str, float],
    measure: str,
    drawn: Callable[[str, np.ndarray], list[Image.Image]],
) -> tuple[list[tuple[str, list[Image.Image]]], str]:
    """Worst, median and best images with what is drawn over each, as tiles below a caption.

    Args:
        store: of the images.
        items: what was scored.
        scores: of each image by its id; those that are NaN are never shown.
        measure: of the scores, for captions.
        drawn: pictures of an image of that id, uint8 (H, W, 3).

    Returns:
        Rows for `sheet`, and what is said where images could not be read and outlines stand alone; else empty.
    """
    said, source = "", None
    try:
        source = SourceImages(store)
    except CasamError as error:
        said = error.message
    names, geometries = list(scores), {item.id: item.geometry for item in items}
    rows: list[tuple[str, list[Image.Image]]] = []
    for kind, row in chosen_rows(list(scores.values())):
        name = names[row]
        geometry = geometries[name]
        image = np.full((geometry.height, geometry.width, 3), NO_IMAGE, np.uint8)
        if source is not None:
            try:
                image = source.read(store.index(name))
            except CasamError as error:
                said = error.message
        height = max(1, round(TILE * image.shape[0] / image.shape[1]))
        tiles = [each.resize((TILE, height)) for each in (Image.fromarray(image), *drawn(name, image))]
        rows.append((f"{kind}: {name}, {measure} {100 * scores[name]:.1f}", tiles))
    return rows, said


def sheet(rows: list[tuple[str, list[Image.Image]]], note: str, legend: dict[int, str]) -> Image.Image:
    """A row an image: as it is, with its true classes, with the predicted ones; the colours of classes above."""
    width = 3 * (TILE + MARGIN) + MARGIN
    height = 3 * LINE + sum(tiles[0].height + LINE + MARGIN for _, tiles in rows)
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 2), printable(note)[: width // LETTER], fill=(200, 200, 200))
    left = MARGIN
    for number, name in legend.items():
        shown = printable(name)
        draw.text((left, 2 + LINE), shown, fill=COLOURS[(number - 1) % len(COLOURS)])
        left += LETTER * (len(shown) + 3)
    for column, title in enumerate(("image", "truth", "predicted")):
        draw.text((MARGIN + column * (TILE + MARGIN), 2 + 2 * LINE), title, fill=(255, 255, 255))
    top = 3 * LINE
    for caption, tiles in rows:
        for column, tile in enumerate(tiles):
            picture.paste(tile, (MARGIN + column * (TILE + MARGIN), top))
        draw.text((MARGIN, top + tiles[0].height + 1), printable(caption), fill=(200, 200, 200))
        top += tiles[0].height + LINE + MARGIN
    return picture
