"""A picture right after a fit: worst, median and best of its masks, the frozen SAM's beside the fitted ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from casam_cache.bench.fit import FitReport
from casam_cache.cutout import Cutout
from casam_cache.encode.source_images import SourceImages
from casam_cache.errors import CasamError
from casam_cache.report.html.fits import ScoredFit, scored_fits
from casam_cache.report.html.masks import MaskCase, ScoredMasks
from casam_cache.report.pictures import Case, comparison_png
from casam_cache.report.tiles import image_tile, mask_tile, square_around
from casam_cache.store.files import disk_errors, make_directory, write_file

FOLDER = "pictures"
EACH = 2  # masks of each kind
TILE = 240  # pixels
RULE = (
    f"by their IoU: the {EACH} lowest, the {EACH} nearest the median (the lower of two), the {EACH} highest"
)


def chosen_rows(scores: Sequence[float], each: int = EACH) -> list[tuple[str, int]]:
    """Which masks are shown, by the rule that the sheet states; every mask once where there are few.

    Args:
        scores: of each mask; those that are NaN are never shown. Equal ones go by their place.
        each: how many of a kind.

    Returns:
        `worst`, `median` or `best` with the place of the mask, from the lowest score to the highest.
    """
    order = sorted((score, place) for place, score in enumerate(scores) if not math.isnan(score))
    places = [place for _, place in order]
    if len(places) <= 3 * each:
        few = max(1, len(places) // 3)
        names = [
            "worst" if at < few else "best" if at >= len(places) - few else "median"
            for at in range(len(places))
        ]
        return list(zip(names, places, strict=True))
    middle = (len(places) - each) // 2
    parts = (
        ("worst", places[:each]), ("median", places[middle : middle + each]), ("best", places[-each:])
    )  # fmt: skip
    return [(name, place) for name, found in parts for place in found]


def fit_sheet(report: FitReport, device: str = "auto") -> tuple[Path, str]:
    """Writes RUNS/pictures/fit-KEY.png, KEY that of the fitted head's outcomes.

    Args:
        report: of the fit.
        device: where the few masks are predicted again: `auto`, `cpu`, `cuda`, ...

    Returns:
        The file, and what is said where images could not be read and outlines stand alone; else empty.

    Raises:
        CasamError: the fit, its store or its backbone cannot be used, or the file cannot be written.
    """
    folder = Path(report.run)
    root = folder.parent.parent
    found = [
        fit
        for fit in scored_fits(root, f"fit/{folder.name}")
        if (fit.items.split, fit.prompt) == (report.evaluate, report.prompt)
    ]
    if not found:
        raise CasamError(f"the outcomes of {folder} are not noted in {root}", "run casam fit again")
    masks = ScoredMasks(found[0].scored, device)
    kinds = {row: name for name, row in chosen_rows(found[0].fitted.scores["iou"])}
    said = ""
    source: SourceImages | None = None
    try:
        source = SourceImages(masks.store)
    except CasamError as error:
        said = error.message
    cases = {case.row: case for case in masks.cases(list(kinds))}
    shown = []
    for row, name in kinds.items():
        image = None
        if source is not None:
            try:
                image = source.read(cases[row].place)
            except CasamError as error:
                said = error.message
        shown.append(_case(found[0], cases[row], name, image))
    path = root / FOLDER / f"fit-{Path(report.outcomes).name}.png"
    make_directory(path.parent)
    drawn = comparison_png(shown, TILE, f"{report.task}, {found[0].label}, {report.evaluate} masks {RULE}")
    with disk_errors(path, "cannot read"):
        same = path.exists() and path.read_bytes() == drawn
    if not same:
        write_file(path, drawn)
    return path, said


def _case(fit: ScoredFit, case: MaskCase, name: str, image: np.ndarray | None) -> Case:
    """The square around the true mask, as large as a tile."""
    square = square_around(case.truth)
    picture = image_tile(image, square, TILE, case.truth.size)

    def small(mask: Cutout) -> np.ndarray:
        return mask_tile(mask, square, TILE)

    row = case.row
    scores = {"frozen SAM": fit.frozen.scores["iou"][row], "fitted": fit.fitted.scores["iou"][row]}
    made = Case(
        f"{name}: {case.item.id}, class {fit.fitted.class_id[row]}", picture, small(case.truth),
        {"frozen SAM": small(case.frozen), "fitted": small(case.fitted)},
    )  # fmt: skip
    return replace(made, scores=scores)
