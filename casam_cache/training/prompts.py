"""Random training prompts: a point or a jittered box for one mask, from a generator of its own.

SAM's own recipe: half points, half boxes; a point is uniform over the mask's pixels; a box is the tight one
with noise on each side, standard deviation 10 % of the box's side, at most 20 pixels of a 1024 pixel input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from casam_cache.geometry import Geometry
from casam_cache.training.options import TrainingOptions


@dataclass(frozen=True)
class MaskRuns:
    """The foreground of one mask as runs along rows: what prompts need of it, in little memory.

    Attributes:
        starts: int32 (R,), flat index y * W + x of each run's first pixel.
        ends: int64 (R,), foreground pixels up to and including each run.
        width: W, pixels.
        box: float32 (4,), tight box x0, y0, x1, y1 in original pixels, inclusive.
    """

    starts: np.ndarray
    ends: np.ndarray
    width: int
    box: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> MaskRuns | None:
        """The runs of a bool mask (H, W); None for an empty one, which has no prompt."""
        width = mask.shape[1]
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            return None
        columns = np.flatnonzero(mask.any(axis=0))
        x0, y0, x1, y1 = columns[0], rows[0], columns[-1], rows[-1]
        crop = np.zeros((y1 - y0 + 1, x1 - x0 + 3), dtype=np.int8)  # a column of zeros on either side
        crop[:, 1:-1] = mask[y0 : y1 + 1, x0 : x1 + 1]
        change = np.diff(crop, axis=1)
        row, column = np.nonzero(change == 1)
        _, beyond = np.nonzero(change == -1)
        starts = ((row + y0) * width + column + x0).astype(np.int32)
        return cls(starts, np.cumsum(beyond - column), width, np.array([x0, y0, x1, y1], dtype=np.float32))

    @property
    def area(self) -> int:
        return int(self.ends[-1])

    def pixel(self, index: int) -> tuple[int, int]:
        """The x, y of the foreground pixel number `index` in row order."""
        run = int(np.searchsorted(self.ends, index, side="right"))
        before = int(self.ends[run - 1]) if run else 0
        y, x = divmod(int(self.starts[run]) + index - before, self.width)
        return x, y


def draw_prompt(
    runs: MaskRuns, geometry: Geometry, options: TrainingOptions, rng: np.random.Generator
) -> tuple[bool, np.ndarray]:
    """One prompt for one mask.

    Args:
        runs: the mask.
        geometry: of its image.
        options: `box_share`, `box_jitter`, `jitter_limit`.
        rng: the generator of this seed, task, epoch and sample.

    Returns:
        Whether it is a box, and float32 (4,) in input pixels: the box, or the point as x, y, x, y.
    """
    # Always the same number of draws, so that changing one option leaves the other choices as they were.
    is_box = bool(rng.random() < options.box_share)
    index = int(rng.integers(runs.area))
    noise = rng.standard_normal(4)
    if not is_box:
        point = geometry.to_input(np.array(runs.pixel(index), dtype=np.float32))
        return False, np.concatenate([point, point])
    box = geometry.boxes_to_input(runs.box)
    sides = np.tile(box[2:] - box[:2] + 1, 2)
    limit = options.jitter_limit * geometry.image_size
    moved = box + np.clip(noise * options.box_jitter * sides, -limit, limit)
    last = np.tile([geometry.input_width - 1, geometry.input_height - 1], 2)
    x0, y0, x1, y1 = np.clip(moved, 0, last)
    return True, np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], dtype=np.float32)
