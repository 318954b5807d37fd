"""Figure 7 of the paper: image, truth, the frozen SAM's mask and each method's, a row an example."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from casam_cache.datasets.contact_sheet import overlay
from casam_cache.datasets.sample import Mask
from casam_cache.report.examples import Example, Examples
from casam_cache.report.figure_values import csv_text
from casam_cache.report.style import look_of, picture, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TRUTH = (255, 255, 255)


def figure_7(examples: Examples, form: str, style: str = "paper") -> bytes:
    """Figure 7 as a file's content.

    Args:
        examples: of a bench.
        form: svg, pdf or png.
        style: one of `STYLES`.
    """
    chosen = style_of(style)
    columns = 2 + len(examples.methods)
    letters = max(20, round(72 * chosen.width / (0.5 * chosen.font)))
    said = f" Images are missing: {examples.said}." if examples.said else ""
    told = textwrap.wrap(examples.rule + said, letters)
    line = 1.5 * chosen.font / 72
    tall = len(examples.rows) * (chosen.width / columns + 1.4 * line) + (len(told) + 2) * line

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(examples.rows), columns, squeeze=False)
        for place, (row, cells) in enumerate(zip(examples.rows, grid, strict=True)):
            image, truth = examples.images[place], Mask(examples.truths[place], 1, 1)
            shown = [image, overlay(image, [truth], [_TRUTH])]
            for mask, method in zip(examples.masks[place], examples.methods.values(), strict=True):
                shown.append(overlay(image, [Mask(mask, 1, 1)], [_rgb(method)]))
            titles = ("image", "truth", *examples.methods)
            below = (_cut(row.item), "", *(_iou(row, label) for label in examples.methods))
            for cell, pixels, title, text in zip(cells, shown, titles, below, strict=True):
                cell.imshow(pixels, interpolation="nearest")
                cell.set_xticks([])
                cell.set_yticks([])
                cell.grid(False)
                for spine in cell.spines.values():
                    spine.set_visible(False)
                cell.set_xlabel(text, labelpad=2, fontsize="small")
                if place == 0:
                    cell.set_title(_cut(title), pad=3)
            cells[0].set_ylabel(f"{row.kind}\n{_cut(row.task)}", fontsize="small")
        figure.supxlabel("\n".join(told), fontsize=0.85 * chosen.font, x=0.01, ha="left")

    return picture(draw, chosen, form, tall / chosen.width)


def figure_7_values(examples: Examples) -> str:
    """What Figure 7 shows, as CSV: kind, task, image, class, instance, gain, and percent IoU by method."""
    lines = [
        (row.kind, row.task, row.item, row.class_id, row.instance, _percent(row.gain),
         *(_percent(row.scores[label]) for label in examples.methods))
        for row in examples.rows
    ]  # fmt: skip
    return csv_text(("kind", "task", "image", "class", "instance", "gain", *examples.methods), lines)


def _iou(row: Example, label: str) -> str:
    return f"IoU {100 * row.scores[label]:.1f}"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.4f}"


def _rgb(method: str) -> tuple[int, int, int]:
    colour = str(look_of(method)["color"]).lstrip("#")
    red, green, blue = (int(colour[at : at + 2], 16) for at in (0, 2, 4))
    return red, green, blue


def _cut(text: str, letters: int = 16) -> str:
    return text if len(text) <= letters else f"{text[: letters // 2 - 1]}…{text[1 - letters // 2 :]}"
