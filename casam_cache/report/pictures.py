"""Masks and overlays as PNG files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from casam_cache.bench.prompt_file import ObjectPrompt
from casam_cache.datasets.contact_sheet import COLOURS, overlay
from casam_cache.datasets.sample import Mask
from casam_cache.metrics.overlap import iou
from casam_cache.printable import printable
from casam_cache.store.files import write_file

PROMPT_COLOUR = (255, 64, 64)
LETTER = 6  # pixels, the mean width of a letter in captions
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
        scores: IoU by whose masks they are, where it is not that of the masks as they are drawn.
    """

    caption: str
    image: np.ndarray
    truth: np.ndarray
    masks: Mapping[str, np.ndarray]
    scores: Mapping[str, float] = field(default_factory=dict)


def comparison_sheet(cases: Sequence[Case], path: Path, tile: int = 220) -> None:
    """Writes `comparison_png` to a file."""
    write_file(path, comparison_png(cases, tile))


def comparison_png(cases: Sequence[Case], tile: int = 220, note: str = "") -> bytes:
    """One row a case: the image, the truth, and each mask with its IoU.

    Args:
        cases: what to show; a case without one of the others' masks has a gap there.
        tile: width of a picture, pixels.
        note: over all, e.g. by which rule cases were chosen; in lines as long as the sheet is wide.
    """
    names = list(dict.fromkeys(name for case in cases for name in case.masks))
    titles = ("image", "truth", *names)
    colours = dict(zip(("truth", *names), COLOURS, strict=False))
    heights = [max(1, round(tile * case.image.shape[0] / case.image.shape[1])) for case in cases]
    margin, line = 6, 16
    width = len(titles) * (tile + margin) + margin
    told = textwrap.wrap(printable(note), (width - 2 * margin) // LETTER)
    above = line * len(told)
    sheet = Image.new("RGB", (width, above + sum(heights) + len(cases) * (margin + line) + margin + line))
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(told):
        draw.text((margin, 2 + number * line), text, fill=(200, 200, 200))
    for column, title in enumerate(titles):
        draw.text((margin + column * (tile + margin), 2 + above), title, fill=(255, 255, 255))
    top = above + line + margin
    for case, height in zip(cases, heights, strict=True):
        shown = {"truth": case.truth, **case.masks}
        for column, title in enumerate(titles):
            left = margin + column * (tile + margin)
            if title == "image":
                picture, text = case.image, _cut(case.caption, tile // LETTER)
            elif title in shown:
                picture = overlay(case.image, [Mask(shown[title], 1, 1)], [colours[title]])
                text = "" if title == "truth" else f"IoU {100 * _score(case, title):.1f}"
            else:
                continue
            sheet.paste(Image.fromarray(picture).resize((tile, height)), (left, top))
            draw.text((left, top + height + 1), text, fill=(200, 200, 200))
        top += height + line + margin
    return png(sheet)


def _score(case: Case, whose: str) -> float:
    return case.scores[whose] if whose in case.scores else iou(case.masks[whose], case.truth)


def _cut(text: str, letters: int) -> str:
    """Without its middle where it is too long, so that both ends of a name are seen."""
    text = printable(text)
    return text if len(text) <= letters else f"{text[: letters // 2 - 1]}...{text[2 - letters // 2 :]}"
