"""Clicks on what is still wrong, as interactive segmentation is evaluated, and the IoU after each of them.

The protocol is that of click-based interactive segmentation (RITM, Sofiiuk et al., arXiv 2102.06583; SimpleClick, Liu
et al., arXiv 2210.11006), in which a simulated person clicks at the centre of the largest error, and of the experiments
in Segment Anything (Kirillov et al., arXiv 2304.02643, appendix D), in which the first point is the one farthest from
the object's boundary. As SAM was trained, a single first point gets several masks, of which the one with the highest
predicted IoU goes on; from the second click on there is one mask, and the logits of the last one are an input.

What "largest" means differs between programs. Here it is the connected region with the most pixels among the missed and
the superfluous ones; the code of RITM takes the error with the largest inscribed circle instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.training import mask_tables

FILE = "clicks.csv"


@dataclass(frozen=True)
class Click:
    """One click.

    Attributes:
        x, y: original pixels.
        positive: whether it says "this too"; else "not this".
    """

    x: float
    y: float
    positive: bool


def next_click(truth: np.ndarray, predicted: np.ndarray, made: Sequence[Click]) -> Click | None:
    """Where a person who knows the truth clicks next.

    Of all 8-connected regions that are missed (true and not predicted) or superfluous (predicted and not true) the one
    with the most pixels is chosen; among equal ones a missed one, then the one whose first pixel comes first in
    row-major order. The click is on its pixel farthest from the outside of the region, where what is beyond the image
    counts as outside; among equal pixels the first in row-major order. A pixel is clicked once: the next best takes its
    place, if need be that of the next largest region.

    Args:
        truth: bool (H, W).
        predicted: bool (H, W).
        made: the clicks so far.

    Returns:
        The click, positive in a missed region; None where nothing is wrong, or every wrong pixel was clicked.
    """
    from scipy import ndimage

    differ = truth != predicted
    if not differ.any():
        return None
    where = Cutout.of(differ).tight()  # all that follows needs no more of the image
    height, width = where.pixels.shape
    truth = truth[where.top : where.top + height, where.left : where.left + width]
    neighbours = np.ones((3, 3), dtype=bool)
    wrong = {True: where.pixels & truth, False: where.pixels & ~truth}
    found: list[tuple[int, int, int]] = []  # negative size, superfluous after missed, number of the region
    labels = {}
    for positive, bitmap in wrong.items():
        labels[positive], count = ndimage.label(bitmap, structure=neighbours)
        sizes = np.bincount(labels[positive].ravel(), minlength=count + 1)[1:].tolist()
        found += [(-size, int(not positive), number) for number, size in enumerate(sizes, 1)]
    for _, superfluous, number in sorted(found):
        own = labels[not superfluous]
        rows, columns = ndimage.find_objects(own, max_label=number)[number - 1]
        distance = ndimage.distance_transform_edt(np.pad(own[rows, columns] == number, 1))[1:-1, 1:-1]
        top, left = where.top + rows.start, where.left + columns.start
        for click in made:
            y, x = int(click.y) - top, int(click.x) - left
            if 0 <= y < distance.shape[0] and 0 <= x < distance.shape[1]:
                distance[y, x] = 0
        y, x = np.unravel_index(int(np.argmax(distance)), distance.shape)
        if distance[y, x] > 0:
            return Click(float(left + x), float(top + y), not superfluous)
    return None


@dataclass(frozen=True)
class ClickOutcomes:
    """One row a true mask and click, as columns of equal length: masks in the order of the view, each mask's clicks.

    Attributes:
        task, item, group, class_id, instance: which mask.
        click: 1, 2, ...
        x, y: where, original pixels; NaN where nothing was left to click on, and the mask stayed as it was.
        positive: 1 for a positive click, 0 for a negative one, -1 where there was none.
        predicted_iou: the decoder's own estimate after it, not clipped.
        iou: after it; NaN where it is undefined.
    """

    task: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    class_id: list[int] = field(default_factory=list)
    instance: list[int] = field(default_factory=list)
    click: list[int] = field(default_factory=list)
    positive: list[int] = field(default_factory=list)
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    predicted_iou: list[float] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.click)

    def append(self, *row: Any) -> None:
        """Adds a row, its values in the order of the columns."""
        for name, value in zip(_COLUMNS, row, strict=True):
            getattr(self, name).append(value)

    def after(self, click: int) -> list[float]:
        """IoU of each mask after so many clicks, in the order of the view."""
        return [iou for iou, number in zip(self.iou, self.click, strict=True) if number == click]

    def to_csv(self) -> str:
        """One header, one line a mask and click; what is undefined is empty."""
        return mask_tables.to_csv(_COLUMNS, [getattr(self, name) for name in _COLUMNS])

    @classmethod
    def from_csv(cls, text: str) -> ClickOutcomes:
        """The table that `to_csv` wrote.

        Raises:
            ValueError: it is not one, or was cut off.
        """
        header, lines = mask_tables.from_csv(text)
        if tuple(header) != _COLUMNS:
            raise ValueError("no table of clicks")
        read = cls()
        for line in lines:
            read.append(*line[:3], *map(int, line[3:7]), *map(mask_tables.number, line[7:]))
        return read


_COLUMNS = tuple(entry.name for entry in fields(ClickOutcomes))


def write_clicks(folder: Path, clicks: ClickOutcomes) -> None:
    mask_tables.write(folder / FILE, clicks.to_csv())


def read_clicks(folder: Path) -> ClickOutcomes:
    """The table that `write_clicks` wrote.

    Raises:
        CasamError: missing or damaged.
    """
    return mask_tables.read(folder / FILE, ClickOutcomes.from_csv)
