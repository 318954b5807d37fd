"""Slices of a volume with what was predicted and asked over them, as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from casam_cache.datasets.images import to_rgb
from casam_cache.datasets.volumes.layout import picture
from casam_cache.report.pictures import draw_objects

if TYPE_CHECKING:
    from casam_cache.report.volume_predictions import VolumeJob

MOST = 12  # slices
COLUMNS = 4
TILE, LINE, MARGIN = 256, 16, 4  # pixels


def volume_overlay(job: VolumeJob, labels: np.ndarray, window: tuple[float, float] | None) -> Image.Image:
    """Up to twelve slices, evenly chosen of those with an object (without any, of those that were prompted,
    without a prompt the middle one).

    Slices are shown in the proportions of the patient: pixels that are not square are stretched.

    Args:
        job: what was asked.
        labels: (I, J, K), object numbers.
        window: of the values; None: each slice has its own.
    """
    layout, volume = job.layout, job.volume
    others = tuple(axis for axis in range(3) if axis != layout.axis)
    there = np.flatnonzero(labels.any(axis=others)).tolist() or job.slices or [job.count // 2]
    shown = sorted({there[round(place)] for place in np.linspace(0, len(there) - 1, min(MOST, len(there)))})
    height, width = _tile_size(job)
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (height + LINE) + MARGIN))
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(shown):
        image = to_rgb(picture(volume, layout, index), volume.path, window)
        plane = layout.picture(np.take(labels, index, layout.axis))
        drawn = draw_objects(image, plane, job.prompts_on(index) if index in job.slices else [])
        left, top = MARGIN + place % columns * (width + MARGIN), MARGIN + place // columns * (height + LINE)
        sheet.paste(drawn.resize((width, height), Image.Resampling.BILINEAR), (left, top))
        name = f"{layout.plane} {index}".strip()
        draw.text((left, top + height + 1), name, fill=(200, 200, 200))
    return sheet


def _tile_size(job: VolumeJob) -> tuple[int, int]:
    """Height and width of a slice in the picture."""
    spacing = job.volume.spacing
    height, width = job.size[0] * spacing[job.layout.rows], job.size[1] * spacing[job.layout.columns]
    scale = TILE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
