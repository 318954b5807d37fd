"""Masks and overlays as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from casam_cache.bench.predict import Prediction
from casam_cache.datasets.contact_sheet import COLOURS, overlay
from casam_cache.datasets.sample import Mask
from casam_cache.store.files import write_all, write_file

PROMPT_COLOUR = (255, 64, 64)


def save_prediction(
    prediction: Prediction,
    mask: Path,
    picture: Path,
    *,
    box: tuple[float, float, float, float] | None = None,
    points: Sequence[tuple[float, float]] = (),
) -> None:
    """Writes the mask as a PNG of 0 and 255, and the image with mask and prompt drawn over it: both, or neither.

    Raises:
        StoreError: the disk is full or read-only.
    """
    bitmap = Image.fromarray(prediction.mask.astype(np.uint8) * 255)
    drawn = draw_prediction(prediction, box=box, points=points)
    write_all([(mask, [_png(bitmap)]), (picture, [_png(drawn)])])


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def draw_prediction(
    prediction: Prediction,
    *,
    box: tuple[float, float, float, float] | None = None,
    points: Sequence[tuple[float, float]] = (),
) -> Image.Image:
    """The image with the predicted mask and the prompt drawn over it."""
    picture = Image.fromarray(overlay(prediction.image, [Mask(prediction.mask, 1, 1)]))
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 300))
    if box is not None:
        draw.rectangle(box, outline=PROMPT_COLOUR, width=line)
    for x, y in points:
        draw.ellipse((x - 3 * line, y - 3 * line, x + 3 * line, y + 3 * line), fill=PROMPT_COLOUR)
    return picture


@dataclass(frozen=True)
class Case:
    """One mask of one image, as a comparison shows it.

    Attributes:
        caption: below the image.
        image: uint8 (H, W, 3).
        truth, frozen, fitted: bool (H, W).
        ious: of the frozen SAM and of the fitted head.
    """

    caption: str
    image: np.ndarray
    truth: np.ndarray
    frozen: np.ndarray
    fitted: np.ndarray
    ious: tuple[float, float]


def comparison_sheet(cases: Sequence[Case], path: Path, tile: int = 220) -> None:
    """Writes one row a case: the image, the truth, the frozen SAM's mask and the fitted head's, with their IoU.

    Args:
        cases: what to show.
        path: PNG to write.
        tile: width of a picture, pixels.
    """
    heights = [max(1, round(tile * case.image.shape[0] / case.image.shape[1])) for case in cases]
    margin, line = 6, 16
    width = 4 * (tile + margin) + margin
    sheet = Image.new("RGB", (width, sum(heights) + len(cases) * (margin + line) + margin + line))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("image", "truth", "frozen SAM", "fitted")):
        draw.text((margin + column * (tile + margin), 2), title, fill=(255, 255, 255))
    top = line + margin
    for case, height in zip(cases, heights, strict=True):
        masks = (case.truth, case.frozen, case.fitted)
        pictures = [case.image]
        pictures += [overlay(case.image, [Mask(mask, 1, 1)], [COLOURS[i]]) for i, mask in enumerate(masks)]
        captions = (case.caption, "", *(f"IoU {100 * value:.1f}" for value in case.ious))
        for column, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
            left = margin + column * (tile + margin)
            sheet.paste(Image.fromarray(picture).resize((tile, height)), (left, top))
            draw.text((left, top + height + 1), text, fill=(200, 200, 200))
        top += height + line + margin
    write_file(path, _png(sheet))
