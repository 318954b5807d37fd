"""One picture of a dataset: evenly chosen samples with their masks drawn over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from casam_cache.cutout import Cutout
from casam_cache.datasets.arrays import read_image, read_masks
from casam_cache.datasets.sample import SPLITS, Dataset, Mask, Sample
from casam_cache.errors import CasamError, ImageError

TILE = 256  # pixels, side of the square an image is fitted into
CAPTION = 40
MARGIN = 12
HEADER = 64
PAPER, INK, GREY, MISSING = (255, 255, 255), (28, 30, 34), (110, 114, 122), (238, 239, 241)
SPLIT_COLOURS = {"train": (42, 111, 178), "val": (176, 118, 0), "test": (186, 52, 48)}
# Bright hues that differ from tissue and from each other, also for most colour-blind readers.
COLOURS = (
    (0, 229, 255), (255, 196, 0), (255, 64, 160), (124, 255, 64),
    (150, 110, 255), (255, 120, 40), (64, 150, 255), (240, 255, 110),
)  # fmt: skip


def overlay(
    image: np.ndarray,
    masks: Sequence[Mask],
    colours: Sequence[tuple[int, int, int]] | None = None,
    opacity: float = 0.25,
) -> np.ndarray:
    """Draw masks over an image, filled lightly and outlined fully.

    Args:
        image: uint8 (H, W, 3).
        masks: bool bitmaps (H, W) of the same size; drawn large to small.
        colours: one a mask; by default `COLOURS` in turn.
        opacity: of the fill, 0 to 1.

    Returns:
        uint8 (H, W, 3).
    """
    from scipy import ndimage

    colours = colours or [COLOURS[index % len(COLOURS)] for index in range(len(masks))]
    drawn = image.astype(np.float32)
    for mask, rgb in sorted(zip(masks, colours, strict=True), key=lambda pair: -pair[0].cutout.area):
        colour, inside = np.array(rgb, np.float32), mask.cutout.pixels
        rows, columns = inside.shape
        part = drawn[mask.cutout.top :, mask.cutout.left :][:rows, :columns]
        part[inside] = (1 - opacity) * part[inside] + opacity * colour
        part[inside & ~ndimage.binary_erosion(inside, np.ones((3, 3), bool))] = colour
    return (drawn + 0.5).astype(np.uint8)


def _class_colours(dataset: Dataset) -> dict[int, tuple[int, int, int]]:
    """A colour for each class, in the order of the classes: neighbours differ whatever their numbers are."""
    values = dataset.values.foreground
    classes = range(1, len(values) + 1) if dataset.values.coloured else values
    return {class_id: COLOURS[rank % len(COLOURS)] for rank, class_id in enumerate(classes)}


def choose(dataset: Dataset, count: int) -> list[Sample]:
    """At most `count` samples, spread evenly over each split, each split getting its share."""
    by_split = [dataset.split(split) for split in SPLITS]
    total = len(dataset.samples)
    if total <= count:
        return [sample for samples in by_split for sample in samples]
    chosen: list[Sample] = []
    left, places = total, count
    for samples in by_split:
        share = min(len(samples), max(1, round(places * len(samples) / left))) if samples and places else 0
        chosen += [samples[int((index + 0.5) * len(samples) / share)] for index in range(share)]
        left, places = left - len(samples), places - share
    return chosen


def contact_sheet(
    dataset: Dataset, out: Path | str, n: int = 24, columns: int = 6, intensity: str = "auto"
) -> Path:
    """Write a picture of about `n` samples with their masks, ids and splits.

    Args:
        dataset: what to show.
        out: the file to write; its suffix decides the format.
        n: how many samples, evenly chosen from the splits.
        columns: tiles in a row, at most.
        intensity: as in `read_image`.

    Returns:
        The file written. A sample that cannot be read is shown as an empty tile with the reason.

    Raises:
        CasamError: the file cannot be written.
    """
    samples = choose(dataset, max(1, n))
    columns = max(3, min(columns, len(samples)))  # three tiles are as wide as the headline
    rows = math.ceil(len(samples) / columns)
    width = MARGIN + columns * (TILE + MARGIN)
    sheet = Image.new("RGB", (width, HEADER + rows * (TILE + CAPTION + MARGIN)), PAPER)
    draw = ImageDraw.Draw(sheet)
    palette = _class_colours(dataset) if dataset.mask_mode == "classes" else {}
    _headline(draw, dataset, len(samples), width, palette)
    for index, sample in enumerate(samples):
        x = MARGIN + index % columns * (TILE + MARGIN)
        y = HEADER + index // columns * (TILE + CAPTION + MARGIN)
        _tile(sheet, draw, dataset, sample, (x, y), intensity, palette)
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out)
    except (OSError, ValueError) as error:
        raise CasamError(
            f"{out}: cannot write the contact sheet: {error}", "give a writable .png path"
        ) from None
    return out


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _clip(draw: ImageDraw.ImageDraw, text: str, size: int, width: float) -> str:
    """`text` shortened in its middle to at most `width` pixels, so that both ends of an id stay readable."""
    if draw.textlength(text, _font(size)) <= width:
        return text
    keep = len(text) - 1
    while keep > 2:
        short = f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
        if draw.textlength(short, _font(size)) <= width:
            return short
        keep -= 1
    return "…"


def _headline(
    draw: ImageDraw.ImageDraw,
    dataset: Dataset,
    shown: int,
    width: int,
    palette: dict[int, tuple[int, int, int]],
) -> None:
    """Name, counts, how the masks are read, and the colours of the classes, over the tiles."""
    room = width - 2 * MARGIN
    counts = ", ".join(f"{len(dataset.split(name))} {name}" for name in SPLITS if dataset.split(name))
    title = f"{dataset.task}   {shown} of {len(dataset.samples)} images ({counts})"
    draw.text((MARGIN, 12), _clip(draw, title, 20, room), INK, _font(20))
    detail = f"masks: {dataset.mask_mode}, {dataset.mask_reason}; split: {dataset.split_source}"
    keys = list(palette.items())[:12]
    legend = [(str(class_id), colour, draw.textlength(str(class_id), _font(14))) for class_id, colour in keys]
    room -= int(sum(26 + length for _, _, length in legend)) + 8
    detail = _clip(draw, detail, 14, room)
    draw.text((MARGIN, 39), detail, GREY, _font(14))
    x = MARGIN + draw.textlength(detail, _font(14)) + 16
    for name, colour, length in legend:
        draw.rectangle((x, 41, x + 11, 52), colour, GREY)
        draw.text((x + 15, 39), name, GREY, _font(14))
        x += 26 + length


def _tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    dataset: Dataset,
    sample: Sample,
    at: tuple[int, int],
    intensity: str,
    palette: dict[int, tuple[int, int, int]],
) -> None:
    """One sample: picture, id, split, and what its masks are."""
    x, y = at
    draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), MISSING)
    try:
        image = read_image(dataset, sample, intensity)
        size = _fitted_size(image.shape[:2])
        masks = [_shrunk(mask, size) for mask in read_masks(dataset, sample, image.shape[:2])]
    except ImageError as error:
        reason = error.message.rsplit("/", 1)[-1]
        for line in range(4):
            piece = reason[line * 34 : line * 34 + 34]
            draw.text((x + 10, y + 96 + 18 * line), piece, SPLIT_COLOURS["test"], _font(13))
        note = "cannot be read"
    else:
        colours = [
            palette.get(mask.class_id, COLOURS[0]) if palette else COLOURS[index % len(COLOURS)]
            for index, (mask, _) in enumerate(masks)
        ]
        picture = Image.fromarray(overlay(_fit(image, size), [mask for mask, _ in masks], colours))
        sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))
        note = _note(sample, masks, dataset.mask_mode)
    draw.text((x, y + TILE + 4), _clip(draw, sample.id, 14, TILE), INK, _font(14))
    split_width = draw.textlength(sample.split, _font(13)) + 10
    top = y + TILE + 22
    draw.rounded_rectangle((x, top, x + split_width, top + 16), 4, SPLIT_COLOURS[sample.split])
    draw.text((x + 5, top), sample.split, PAPER, _font(13))
    draw.text((x + split_width + 8, top), _clip(draw, note, 13, TILE - split_width - 8), GREY, _font(13))


def _fitted_size(size: Sequence[int]) -> tuple[int, int]:
    """Height and width in a tile of an image of this height and width."""
    scale = TILE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at its size in a tile; masks are drawn after scaling, so that outlines stay thin."""
    resample = Image.Resampling.BILINEAR if max(image.shape[:2]) < TILE else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize(size[::-1], resample))


def _shrunk(mask: Mask, size: tuple[int, int]) -> tuple[Mask, float]:
    """A mask at its size in a tile, and its share of the image's area."""
    cutout = mask.cutout.tight()
    cells, pixels, inside = [], [], []
    for axis, start in enumerate((cutout.top, cutout.left)):
        scale = cutout.size[axis] / size[axis]  # of original pixels a pixel of the tile
        first = max(0, int(start / scale) - 1)
        last = min(size[axis], math.ceil((start + cutout.pixels.shape[axis]) / scale) + 1)
        low, high = int(first * scale), min(cutout.size[axis], math.ceil(last * scale))
        cells.append((first, last))
        pixels.append((low, high))
        inside.append((first * scale - low, min(last * scale, cutout.size[axis]) - low))
    part = np.zeros([high - low for low, high in pixels], np.uint8)
    held = part[cutout.top - pixels[0][0] :, cutout.left - pixels[1][0] :]
    held[: cutout.pixels.shape[0], : cutout.pixels.shape[1]] = cutout.pixels * np.uint8(255)
    # BOX averages, so that a thin object keeps a trace where nearest neighbour would lose it.
    (top, bottom), (left, right) = cells
    box = (inside[1][0], inside[0][0], inside[1][1], inside[0][1])
    grey = np.asarray(Image.fromarray(part).resize((right - left, bottom - top), Image.Resampling.BOX, box))
    bitmap = grey >= 128
    if not bitmap.any():
        bitmap = grey > 0
    share = cutout.area / (cutout.size[0] * cutout.size[1])
    return Mask(Cutout(bitmap, top, left, size), mask.class_id, mask.instance), share


def _note(sample: Sample, masks: list[tuple[Mask, float]], mode: str) -> str:
    if not sample.labelled:
        return "no mask"
    if not masks:
        return "empty mask"
    if mode in ("instances", "components"):
        return f"{len(masks)} object{'s' if len(masks) > 1 else ''}"
    if mode == "classes":
        return "class " + ", ".join(str(mask.class_id) for mask, _ in masks)
    return f"{100 * masks[0][1]:.1f} % of the area"
