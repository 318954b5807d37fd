"""Masks and overlays as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from casam_cache.bench.prompt_file import ObjectPrompt
from casam_cache.datasets.contact_sheet import COLOURS, overlay
from casam_cache.datasets.sample import Mask
from casam_cache.metrics.overlap import iou
from casam_cache.store.files import write_file

PROMPT_COLOUR = (255, 64, 64)
OPACITY = 0.25  # of the fill


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def draw_objects(image: np.ndarray, labels: np.ndarray, prompts: Sequence[ObjectPrompt]) -> Image.Image:
    """An image with objects and prompts drawn over it; a point for what is not the object is a ring.

    Args:
        image: uint8 (H, W, 3).
        labels: (H, W), 0 background, else an object's number.
        prompts: of the objects.
    """
    from scipy import ndimage

    colours = np.array(COLOURS, np.float32)[(labels.astype(np.int64) - 1) % len(COLOURS)]
    low, high = (
        extreme(labels, size=3, mode="constant", cval=0)
        for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    opacity = np.where(labels == 0, 0, np.where(low == high, OPACITY, 1))[..., None]
    picture = Image.fromarray(((1 - opacity) * image + opacity * colours + 0.5).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 300))
    for prompt in prompts:
        if prompt.box is not None:
            draw.rectangle(prompt.box, outline=PROMPT_COLOUR, width=line)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            place = (x - 3 * line, y - 3 * line, x + 3 * line, y + 3 * line)
            if label:
                draw.ellipse(place, fill=PROMPT_COLOUR)
            else:
                draw.ellipse(place, outline=PROMPT_COLOUR, width=line)
    return picture


@dataclass(frozen=True)
class Case:
    """One mask of one image, as a comparison shows it.

    Attributes:
        caption: below the image.
        image: uint8 (H, W, 3).
        truth: bool (H, W).
        masks: bool (H, W), by whose they are.
    """

    caption: str
    image: np.ndarray
    truth: np.ndarray
    masks: Mapping[str, np.ndarray]


def comparison_sheet(cases: Sequence[Case], path: Path, tile: int = 220) -> None:
    """Writes one row a case: the image, the truth, and each mask with its IoU.

    Args:
        cases: what to show; a case without one of the others' masks has a gap there.
        path: PNG to write.
        tile: width of a picture, pixels.
    """
    names = list(dict.fromkeys(name for case in cases for name in case.masks))
    titles = ("image", "truth", *names)
    colours = dict(zip(("truth", *names), COLOURS, strict=False))
    heights = [max(1, round(tile * case.image.shape[0] / case.image.shape[1])) for case in cases]
    margin, line = 6, 16
    width = len(titles) * (tile + margin) + margin
    sheet = Image.new("RGB", (width, sum(heights) + len(cases) * (margin + line) + margin + line))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((margin + column * (tile + margin), 2), title, fill=(255, 255, 255))
    top = line + margin
    for case, height in zip(cases, heights, strict=True):
        shown = {"truth": case.truth, **case.masks}
        for column, title in enumerate(titles):
            left = margin + column * (tile + margin)
            if title == "image":
                picture, text = case.image, case.caption
            elif title in shown:
                picture = overlay(case.image, [Mask(shown[title], 1, 1)], [colours[title]])
                text = "" if title == "truth" else f"IoU {100 * iou(shown[title], case.truth):.1f}"
            else:
                continue
            sheet.paste(Image.fromarray(picture).resize((tile, height)), (left, top))
            draw.text((left, top + height + 1), text, fill=(200, 200, 200))
        top += height + line + margin
    write_file(path, png(sheet))
